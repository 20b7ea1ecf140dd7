"""The curves of a training as a picture."""

from __future__ import annotations

from pathlib import Path

from tasks import atomic
from tasks.progress import Points

PANELS = (
    ("loss", ("train.loss", "dev.loss")),
    ("macro-F1 on dev", ("dev.f1_macro",)),
    ("learning rate", ("train.learning_rate",)),
    ("gradient norm before clipping", ("train.grad_norm",)),
)


def draw_curves(history: list[tuple[int, str, float]], path: Path) -> bool:
    """A PNG with loss, dev F1, learning rate and gradient norm by step; False, and no file, where matplotlib is absent."""
    try:
        from matplotlib.figure import Figure
    except ImportError:  # a bare machine trains without it
        return False
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for name in names:
            points = [(step, value) for step, n, value in history if n == name]
            # a few points are dots on the line; many would hide it
            axes.plot(
                *zip(*points, strict=True), marker="." if len(points) < 40 else "", label=name
            ) if points else None
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        if len(names) > 1 and axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
    return True


def read_history(directory: Path) -> Points:
    """The points of the curves that a training wrote."""
    return [
        (int(step), str(name), float(v))
        for step, name, v in atomic.read_json(directory / "history.json")
    ]
