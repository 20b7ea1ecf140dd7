"""The callback by which a stage reports its progress."""

from __future__ import annotations

from collections.abc import Callable

# progress(done, total, note): called from any thread, often; it must not raise
Progress = Callable[[int, int, str], None]

# points of curves: (step, name, value)
Points = list[tuple[int, str, float]]


def silent(done: int, total: int, note: str) -> None:
    """Ignore the progress."""
