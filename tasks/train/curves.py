"""The curves of a training: as points, as a file, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks import atomic
from tasks.progress import Points

PANELS = (
    ("loss", ("train.loss", "dev.loss")),
    ("macro-F1 on dev", ("dev.f1_macro",)),
    ("learning rate", ("train.learning_rate",)),
    ("gradient norm before clipping", ("train.grad_norm",)),
)


def points_of(log: Iterable[Mapping[str, float]], names: Mapping[str, str]) -> Points:
    """The finite points in a Trainer's log, in order; `names` maps its keys to names of curves."""
    points = [(int(e["step"]), names[k], float(v)) for e in log for k, v in e.items() if k in names]
    return sorted(point for point in points if math.isfinite(point[2]))


def read_history(directory: Path) -> Points:
    """The points in `directory/history.json`."""
    points = atomic.read_json(directory / "history.json")
    return [(int(step), str(name), float(value)) for step, name, value in points]


def draw_curves(history: Points, path: Path) -> bool:
    """Draw loss, dev F1, learning rate and gradient norm by step as a PNG.

    False, and no file, where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for name in names:
            points = [(step, value) for step, n, value in history if n == name]
            if points:
                marker = "." if len(points) < 40 else ""  # many dots would hide the line
                axes.plot(*zip(*points, strict=True), marker=marker, label=name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        if len(names) > 1 and axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
    return True
