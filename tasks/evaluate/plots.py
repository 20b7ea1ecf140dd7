"""Pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tasks.statistics.scores import CurvePoint, LabelScore, ReliabilityBin


def confusion(matrix: list[list[int]], labels: list[str], title: str, path: Path) -> None:
    """The confusion matrix as a PNG, rows the true label, shaded by the share of the row."""
    import numpy as np
    from matplotlib.figure import Figure

    counts = np.array(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.0, 0.7 * len(labels) + 2)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = _names(labels)
    axes.set_xticks(range(len(labels)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    if len(labels) <= 30:
        for (i, j), n in np.ndenumerate(counts):
            axes.text(
                j,
                i,
                str(int(n)),
                ha="center",
                va="center",
                color="white" if shares[i, j] > 0.5 else "black",
            )
    figure.savefig(path, dpi=110, format="png")


def by_label(figures: Mapping[str, LabelScore], title: str, path: Path) -> None:
    """Precision, recall and F1 of each label as a PNG of bars."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, max(3.0, 0.5 * len(figures) + 1.5)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(figures))
    for i, name in enumerate(("precision", "recall", "f1")):
        axes.barh(
            places + (i - 1) * 0.27,
            [getattr(f, name) for f in figures.values()],
            height=0.25,
            label=name,
        )
    axes.set_yticks(places, _names(figures))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_title(title)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110, format="png")


def _names(labels: Iterable[str]) -> list[str]:
    """The labels as an axis shows them: short, and text, not mathematics."""
    return [
        (label if len(label) <= 24 else label[:23] + "…").replace("$", r"\$") for label in labels
    ]


def reliability(bins: Sequence[ReliabilityBin], title: str, path: Path) -> None:
    """How often answers of each confidence are right, as a PNG; calibrated ones lie on the diagonal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
    rows = sum(b.rows for b in bins)
    axes.scatter(
        [b.confidence for b in bins],
        [b.right for b in bins],
        s=[15 + 400 * b.rows / max(1, rows) for b in bins],
        alpha=0.7,
    )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("confidence (area: rows)")
    axes.set_ylabel("right")
    axes.set_title(title)
    figure.savefig(path, dpi=110, format="png")


def gain(value: float, lower: float, upper: float, *, least: float, title: str, path: Path) -> None:
    """The gain in macro-F1 with its bounds as a PNG, beside nothing gained and beside `least`, which promotes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 1.7), layout="constrained")
    axes = figure.subplots()
    color = "#1a9c6e" if lower > least else "#d9573f" if upper <= least else "#d98f00"
    axes.axvline(0, color="gray", linewidth=1)
    if least:
        axes.axvline(least, color="gray", linewidth=1, linestyle="--")
    axes.plot([lower, upper], [0, 0], color=color, linewidth=4, solid_capstyle="butt")
    axes.plot([value], [0], marker="o", markersize=9, color=color, markeredgecolor="white")
    for x in (lower, upper):
        axes.annotate(
            f"{x:+.3f}",
            (x, 0),
            xytext=(0, -16),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.annotate(
        f"{value:+.3f}", (value, 0), xytext=(0, 9), textcoords="offset points", ha="center"
    )
    width = max(abs(v) for v in (lower, upper, least, 0.01))
    low, high = min(0.0, lower), max(0.0, upper, least)
    axes.set_xlim(low - 0.25 * width, high + 0.25 * width)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_xlabel("gain in macro-F1")
    axes.set_title(title.replace("$", r"\$"), fontsize=10)
    figure.savefig(path, dpi=130, format="png")


def learning_curve(points: Sequence[CurvePoint], title: str, path: Path) -> None:
    """Macro-F1 by the number of training rows as a PNG, with 95% intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    x = [p.rows for p in points]
    axes.fill_between(x, [p.ci_low for p in points], [p.ci_high for p in points], alpha=0.2)
    axes.plot(x, [p.value for p in points], marker="o")
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{n:,}" for n in x])
    axes.minorticks_off()
    axes.set_xlabel("training rows")
    axes.set_ylabel("macro-F1 on dev")
    axes.set_title(title.replace("$", r"\$"), fontsize=10)
    figure.savefig(path, dpi=110, format="png")
