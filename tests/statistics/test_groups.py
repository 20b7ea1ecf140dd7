"""Rows in groups: drawn whole, so that intervals and verdicts don't take them for independent."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.figures import Interval
from tasks.statistics.bootstrap import _counts, draw, group_codes, macro_f1, stretch
from tasks.statistics.metrics import SUMMARY, measure
from tasks.verdict.decide import alpha_spent
from tests.kit.verdicts import verdict_on

LABELS = ["a", "b", "c"]


def answers(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, n)
    said = np.where(rng.random(n) < 0.7, true, rng.integers(0, 3, n))
    return [LABELS[k] for k in true], [LABELS[k] for k in said]


def as_sets(labels: list[str]) -> list[tuple[str, ...]]:
    return [(label,) for label in labels]


def width(interval: Interval) -> float:
    return interval.ci_high - interval.ci_low


def ends(interval: Interval) -> tuple[float, float]:
    return interval.ci_low, interval.ci_high


def test_codes_of_groups() -> None:
    found = group_codes(["x", None, "y", "x", None])
    assert found is not None and found.tolist() == [0, 1, 2, 0, 3]
    assert group_codes([None, None]) is None and group_codes([]) is None


def test_whole_groups_are_drawn() -> None:
    """Ten groups: five of two rows of class 0, five of a row of class 1 and two of class 2."""
    y = np.array([0, 0] * 5 + [1, 2, 2] * 5)
    groups = np.repeat(np.arange(10), [2] * 5 + [3] * 5)
    m = np.concatenate(
        [c.true[:, 0] for c in draw(y, [y], classes=3, samples=1200, seed=0, groups=groups)]
    )
    assert (
        (m[:, 2] == 2 * m[:, 1]).all()
        and (m[:, 0] / 2 + m[:, 1] == 10).all()
        and (m[:, 0] % 2 == 0).all()
    )
    assert m[:, 1].mean() == pytest.approx(5, abs=0.2) and m[:, 1].std() == pytest.approx(
        10**0.5 / 2, rel=0.1
    )


@pytest.mark.parametrize("sets", [False, True])
def test_drawing_kinds_of_groups_is_resampling_groups(sets: bool) -> None:
    """Mean and deviation of macro-F1, and of the difference of two models, as when groups are drawn one by one."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), rng.integers(1, 9, 30))
    n = len(groups)
    y = np.repeat(rng.integers(0, 3, 30), np.bincount(groups))
    one, two = (np.where(rng.random(n) < right, y, rng.integers(0, 3, n)) for right in (0.8, 0.6))
    if sets:
        y, one, two = (np.eye(3, dtype=np.int64)[v] for v in (y, one, two))
    drawn = macro_f1(y, [one, two], classes=3, samples=4000, seed=0, groups=groups)
    from tasks.statistics.metrics import f1_by_label

    rows = [np.flatnonzero(groups == g) for g in range(30)]
    plain = []
    for _ in range(800):
        take = np.concatenate([rows[g] for g in rng.integers(0, 30, 30)])
        plain.append([f1_by_label(y[take], z[take], 3).mean() for z in (one, two)])
    for f in (lambda m: m[:, 0], lambda m: m[:, 0] - m[:, 1]):
        kinds, single = f(drawn), f(np.array(plain))
        assert kinds.mean() == pytest.approx(single.mean(), abs=0.01)
        assert kinds.std() == pytest.approx(single.std(), rel=0.1)


@pytest.mark.parametrize("sets", [False, True])
def test_a_row_a_group_is_a_plain_bootstrap(sets: bool) -> None:
    true, said = answers(300)
    y, z = (np.array([LABELS.index(k) for k in v]) for v in (true, said))
    rng, drawn = np.random.default_rng(9), []
    for _ in range(1500):
        take = rng.integers(0, 300, 300)
        hits = np.bincount(y[take][y[take] == z[take]], minlength=3)
        drawn.append(
            (
                2 * hits / (np.bincount(y[take], minlength=3) + np.bincount(z[take], minlength=3))
            ).mean()
        )
    own = (as_sets(true), as_sets(said)) if sets else (true, said)
    alone = measure(*own, LABELS, samples=4000, seed=0, groups=np.arange(300)).f1_macro
    assert ends(alone) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.01)
    if sets:  # of label sets rows are drawn plainly without groups too: the very same draws
        plain = measure(*own, LABELS, samples=4000, seed=0).f1_macro
        assert alone.model_dump() == pytest.approx(plain.model_dump(), abs=0.001)


@pytest.mark.parametrize("sets", [False, True])
def test_rows_that_stand_four_times_tell_no_more_than_once(sets: bool) -> None:
    true, said = answers(120)
    own = (as_sets(true), as_sets(said)) if sets else (true, said)
    groups = np.tile(np.arange(120), 4)
    four = [v * 4 for v in own]
    plain = measure(*four, LABELS, samples=2000, seed=0)
    grouped = measure(*four, LABELS, samples=2000, seed=0, groups=groups)
    once = measure(*own, LABELS, samples=2000, seed=0, groups=np.arange(120))
    for name in ("f1_macro", "precision_macro", "recall_macro") if sets else SUMMARY:
        assert width(grouped.summary[name]) > 1.7 * width(plain.summary[name])
        assert grouped.summary[name].model_dump() == pytest.approx(once.summary[name].model_dump())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_neither_the_order_of_rows_nor_the_names_of_groups_say_anything(
    rows: list[tuple[int, int]], rng: Any
) -> None:
    def drawn(table: list[tuple[int, int]]) -> np.ndarray:
        cell, groups = np.array(table).T
        counts = np.bincount(cell, minlength=5)
        return np.concatenate(
            list(_counts(cell, counts, strata=None, groups=groups, samples=50, seed=0))
        )

    names = list(range(6))
    rng.shuffle(names)
    other = [(cell, names[group]) for cell, group in rows]
    rng.shuffle(other)
    assert (drawn(rows) == drawn(other)).all()


def test_what_a_class_has_that_vanishes_from_a_resample() -> None:
    """F1 as the metric's definition has it: 0 where a label is neither true nor predicted."""
    y, groups = np.array([0, 0, 1]), np.array([0, 1, 2])
    drawn = macro_f1(y, [y], classes=2, samples=2000, seed=0, groups=groups)[:, 0]
    assert set(drawn.tolist()) == {0.5, 1.0}
    hot = np.eye(2, dtype=np.int64)[y]
    assert set(
        macro_f1(hot, [hot], classes=2, samples=2000, seed=0, groups=groups)[:, 0].tolist()
    ) == {0.5, 1.0}
    rows = np.concatenate(
        [
            c.rows
            for c in draw(hot, [hot], classes=2, samples=100, seed=0, groups=np.array([0, 0, 1]))
        ]
    )
    assert set(rows.tolist()) == {2, 3, 4}


def test_a_single_group_says_nothing_of_others() -> None:
    for own in (answers(30), tuple(as_sets(v) for v in answers(30))):
        found = measure(*own, LABELS, samples=100, seed=0, groups=np.zeros(30, dtype=int)).f1_macro
        assert ends(found) == (0.0, 1.0)


def test_few_groups_widen_the_bounds() -> None:
    wider = [stretch(np.arange(n), 0.025) for n in (10, 20, 100, 2000)]
    assert (
        wider == sorted(wider, reverse=True)
        and wider[0] > 1.2
        and wider[-1] == pytest.approx(1, abs=0.002)
    )
    assert stretch(None, 0.025) == stretch(np.arange(20), 0.5) == stretch(np.zeros(9), 0.025) == 1.0


def test_the_judge_sees_that_groups_tell_less() -> None:
    rng = np.random.default_rng(0)
    true = [LABELS[k] for k in rng.integers(0, 3, 60)]
    opponent = [t if rng.random() < 0.66 else "a" for t in true]
    challenger = [t if rng.random() < 0.92 else "b" for t in true]
    how: dict[str, Any] = {"labels": LABELS, "samples": 1000}
    alone = verdict_on(true * 4, challenger * 4, opponent * 4, **how)
    threads = [f"thread {i}" for i in range(60)] * 4
    grouped = verdict_on(true * 4, challenger * 4, opponent * 4, groups=threads, **how)
    assert alone.gain == grouped.gain and grouped.groups == 60 and alone.groups is None
    assert (alone.decision, grouped.decision) == ("promote", "inconclusive"), (alone, grouped)
    assert (
        "over 60 groups" in grouped.reasons[0]
        and "more groups would decide: draw them at random" in grouped.reasons[0]
    )
    few = verdict_on(true, true, opponent, groups=["x", "y"] * 30, **how)
    assert (
        few.decision == "inconclusive"
        and "come from 2 groups" in few.reasons[0]
        and few.gain is None
    )
    short = verdict_on(true, true, opponent, groups=["x"] * 59, **how)
    assert short.decision == "inconclusive" and "59 group names" in short.reasons[0]


def simulated(trials: int, *, groups: int, rows: int, named: bool) -> float:
    """How often a challenger is promoted that is no better, where each model is good at some groups and bad at others."""
    rng = np.random.default_rng(groups)
    own = np.repeat(np.arange(groups), rows // groups)
    promoted = 0
    for i in range(trials):
        true = rng.integers(0, 3, len(own))
        said = []
        for _ in range(2):
            right = (
                rng.random(len(own))
                < np.clip(0.8 + 0.25 * rng.standard_normal(groups), 0.05, 1)[own]
            )
            said.append(
                [
                    LABELS[k]
                    for k in np.where(right, true, (true + rng.integers(1, 3, len(own))) % 3)
                ]
            )
        given = [str(g) for g in own] if named else []
        v = verdict_on(
            [LABELS[k] for k in true], *said, labels=LABELS, groups=given, samples=300, seed=i
        )
        promoted += v.decision == "promote"
    return promoted / trials


@pytest.mark.slow
@pytest.mark.parametrize("groups", [12, 40])
def test_without_a_difference_groups_promote_no_more_often_than_said(groups: int) -> None:
    """pytest -s prints the rates."""
    trials, allowed = 400, alpha_spent(0.05, 1)
    rate, blind = (
        simulated(trials, groups=groups, rows=320, named=named) for named in (True, False)
    )
    sys.stderr.write(
        f"no difference, {groups} groups: promoted {rate:.4f} of {trials}, {allowed} allowed; "
        f"{blind:.4f} where groups are not named\n"
    )
    assert rate <= allowed + 2 * (allowed * (1 - allowed) / trials) ** 0.5
    assert blind > 2 * allowed


def test_label_sets_in_groups_and_slices_are_judged() -> None:
    rng = np.random.default_rng(1)
    true: list[Any] = [tuple(k for k in LABELS if rng.random() < 0.5) for _ in range(120)]
    opponent: list[Any] = [own if i % 2 else () for i, own in enumerate(true)]
    how: dict[str, Any] = {"labels": LABELS, "samples": 300, "slice_margin": 0.1}
    slices = {
        "first": range(40),
        "without a label": [i for i, own in enumerate(true) if not own] * 9,
    }
    v = verdict_on(
        true, true, opponent, groups=[str(i // 3) for i in range(120)], slices=slices, **how
    )
    assert (
        v.decision == "promote"
        and v.groups == 40
        and v.slices is not None
        and set(v.slices) == {"first"}
    )
