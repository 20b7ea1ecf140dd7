"""PNGs of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.statistics.scores import CurvePoint, LabelScore, ReliabilityBin

GREEN, AMBER, RED = "#1a9c6e", "#d98f00", "#d9573f"


def plot_confusion(matrix: list[list[int]], labels: list[str], title: str, path: Path) -> None:
    """The confusion matrix, rows the true label, shaded by the share of the row."""
    import numpy as np

    counts = np.array(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.0, 0.7 * len(labels) + 2)
    axes = _axes(title, size, size)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), _tick_texts(labels), rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), _tick_texts(labels))
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) <= 30:
        for (i, j), n in np.ndenumerate(counts):
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(int(n)), ha="center", va="center", color=color)
    _save(axes, path)


def plot_labels(scores: Mapping[str, LabelScore], title: str, path: Path) -> None:
    """Precision, recall and F1 of each label as bars."""
    import numpy as np

    axes = _axes(title, 6.0, max(3.0, 0.5 * len(scores) + 1.5))
    places = np.arange(len(scores))
    for i, name in enumerate(("precision", "recall", "f1")):
        values = [getattr(score, name) for score in scores.values()]
        axes.barh(places + (i - 1) * 0.27, values, height=0.25, label=name)
    axes.set_yticks(places, _tick_texts(scores))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1))
    axes.legend(loc="lower right")
    _save(axes, path)


def plot_reliability(bins: Sequence[ReliabilityBin], title: str, path: Path) -> None:
    """Accuracy by confidence; calibrated answers lie on the diagonal."""
    axes = _axes(title, 4.5, 4.5)
    axes.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
    rows = max(1, sum(b.rows for b in bins))
    area = [15 + 400 * b.rows / rows for b in bins]
    axes.scatter([b.confidence for b in bins], [b.right for b in bins], s=area, alpha=0.7)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence (area: rows)", ylabel="accuracy")
    _save(axes, path)


def plot_gain(
    value: float, lower: float, upper: float, *, least: float, title: str, path: Path
) -> None:
    """The gain in macro-F1 with its bounds, next to 0 and to `least`, which promotes."""
    axes = _axes(title, 6.4, 1.7, fontsize=10)
    color = GREEN if lower > least else RED if upper <= least else AMBER
    axes.axvline(0, color="gray", linewidth=1)
    if least:
        axes.axvline(least, color="gray", linewidth=1, linestyle="--")
    axes.plot([lower, upper], [0, 0], color=color, linewidth=4, solid_capstyle="butt")
    axes.plot([value], [0], marker="o", markersize=9, color=color, markeredgecolor="white")
    for x, offset, size in ((lower, -16, 8), (upper, -16, 8), (value, 9, 10)):
        place = {"xytext": (0, offset), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{x:+.3f}", (x, 0), fontsize=size, **place)
    margin = 0.25 * max(abs(v) for v in (lower, upper, least, 0.01))
    low, high = min(0.0, lower), max(0.0, upper, least)
    axes.set(xlim=(low - margin, high + margin), ylim=(-1, 1), yticks=[], xlabel="gain in macro-F1")
    axes.spines[["left", "right", "top"]].set_visible(False)
    _save(axes, path, dpi=130)


def plot_learning_curve(points: Sequence[CurvePoint], title: str, path: Path) -> None:
    """Macro-F1 by the number of training rows, with 95% intervals."""
    axes = _axes(title, 5.4, 3.4, fontsize=10)
    x = [p.rows for p in points]
    axes.fill_between(x, [p.ci_low for p in points], [p.ci_high for p in points], alpha=0.2)
    axes.plot(x, [p.value for p in points], marker="o")
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{n:,}" for n in x])
    axes.minorticks_off()
    axes.set(xlabel="training rows", ylabel="macro-F1 on dev")
    _save(axes, path)


def _axes(title: str, width: float, height: float, *, fontsize: float | None = None) -> Any:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(width, height), layout="constrained").subplots()
    axes.set_title(_plain(title), fontsize=fontsize)
    return axes


def _save(axes: Any, path: Path, *, dpi: int = 110) -> None:
    axes.figure.savefig(path, dpi=dpi, format="png")


def _tick_texts(labels: Iterable[str]) -> list[str]:
    return [_plain(label if len(label) <= 24 else label[:23] + "…") for label in labels]


def _plain(text: str) -> str:
    """The text as matplotlib shows it literally: a dollar sign would start mathematics."""
    return text.replace("$", r"\$")
