"""The curves of a seeded training are those that are committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import atomic
from tests.kit.golden import GOLDEN, curves

# Rounding differs between processors and versions of torch, and grows from step to step: 4e-7 between one thread and two. A
# wrong weight, rate or order of rows moves the losses of these 12 steps by far more.
TOLERANCE = 0.005


def off(seen: dict[str, list[float]], golden: dict[str, list[float]]) -> dict[str, float]:
    """The largest relative difference of each curve."""
    return {
        name: max(
            abs(a - b) / max(abs(b), 1e-6) for a, b in zip(seen[name], golden[name], strict=True)
        )
        for name in golden
    }


def test_the_curves_are_the_committed_ones(tmp_path: Path, encoder: Path) -> None:
    golden = atomic.read_json(GOLDEN)
    seen = curves(tmp_path, encoder)
    assert list(seen) == list(golden)
    moved = {name: by for name, by in off(seen, golden).items() if by > TOLERANCE}
    assert not moved, (
        f"these curves moved: {moved}; if that is meant, run python -m tests.kit.golden"
    )


def test_the_tolerance_would_see_a_wrong_weight(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.train.fine_tune.row_weights", lambda records, *, settings: None)
    assert off(curves(tmp_path, encoder), atomic.read_json(GOLDEN))["train.loss"] > 10 * TOLERANCE
