"""Verdicts on rows in groups: whole groups are drawn, so few groups decide less."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.kit.verdicts import verdict_on

LABELS = ["a", "b", "c"]


def test_rows_in_groups_decide_less_than_as_many_alone() -> None:
    rng = np.random.default_rng(0)
    true = [LABELS[k] for k in rng.integers(0, 3, 60)]
    opponent = [t if rng.random() < 0.66 else "a" for t in true]
    challenger = [t if rng.random() < 0.92 else "b" for t in true]
    options: dict[str, Any] = {"labels": LABELS, "samples": 1000}
    alone = verdict_on(true * 4, challenger * 4, opponent * 4, **options)
    threads = [f"thread {i}" for i in range(60)] * 4
    grouped = verdict_on(true * 4, challenger * 4, opponent * 4, groups=threads, **options)
    assert alone.gain == grouped.gain and grouped.groups == 60 and alone.groups is None
    assert (alone.decision, grouped.decision) == ("promote", "inconclusive"), (alone, grouped)
    assert (
        "over 60 groups" in grouped.reasons[0]
        and "more groups would decide: draw them at random" in grouped.reasons[0]
    )
    few = verdict_on(true, true, opponent, groups=["x", "y"] * 30, **options)
    assert (
        few.decision == "inconclusive"
        and "come from 2 groups" in few.reasons[0]
        and few.gain is None
    )
    short = verdict_on(true, true, opponent, groups=["x"] * 59, **options)
    assert short.decision == "inconclusive" and "59 group names" in short.reasons[0]


def test_label_sets_in_groups_and_slices_are_judged() -> None:
    rng = np.random.default_rng(1)
    true: list[Any] = [tuple(k for k in LABELS if rng.random() < 0.5) for _ in range(120)]
    opponent: list[Any] = [own if i % 2 else () for i, own in enumerate(true)]
    options: dict[str, Any] = {"labels": LABELS, "samples": 300, "slice_margin": 0.1}
    slices = {
        "first": range(40),
        "without a label": [i for i, own in enumerate(true) if not own] * 9,
    }
    v = verdict_on(
        true, true, opponent, groups=[str(i // 3) for i in range(120)], slices=slices, **options
    )
    assert (
        v.decision == "promote"
        and v.groups == 40
        and v.slices is not None
        and set(v.slices) == {"first"}
    )
