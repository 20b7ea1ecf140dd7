"""The bootstrap draws what resampling rows or groups draws, and depends on the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.figures import Interval
from tasks.labels import encode
from tasks.statistics.bootstrap import Bootstrap, Tallies, group_codes
from tasks.statistics.metrics import SUMMARY, score_answers
from tests.kit.scores import LABELS, random_answers


def as_sets(labels: Sequence[str]) -> list[tuple[str, ...]]:
    return [(label,) for label in labels]


def width(interval: Interval) -> float:
    return interval.ci_high - interval.ci_low


def ends(interval: Interval) -> tuple[float, float]:
    return interval.ci_low, interval.ci_high


def plain_f1(y: np.ndarray, z: np.ndarray) -> float:
    """Macro-F1 of three labels, without scikit-learn's checks."""
    hot = [v if v.ndim == 2 else v[:, None] == np.arange(3) for v in (y, z)]
    true, predicted, hits = (v.sum(axis=0) for v in (*hot, hot[0] * hot[1]))
    return float((2 * hits / np.maximum(true + predicted, 1)).mean())


def column(chunks: list[Tallies], name: str) -> np.ndarray:
    return np.concatenate([getattr(chunk, name) for chunk in chunks])


# --- rows


def test_drawing_cells_is_resampling_rows() -> None:
    """Mean and deviation of macro-F1, and of its difference, as when rows are resampled one by one."""
    true, one = random_answers(25, 0.75, seed=1)
    _, two = random_answers(25, 0.65, seed=2)
    y, a, b = (encode(names, LABELS) for names in (true, one, two))
    drawn = Bootstrap(4000, seed=0).macro_f1(y, [a, b], classes=3)
    rng = np.random.default_rng(7)
    plain = []
    for _ in range(1200):
        rows = np.concatenate([rng.choice(np.flatnonzero(y == c), 25) for c in range(3)])
        plain.append([plain_f1(y[rows], z[rows]) for z in (a, b)])
    for f in (lambda m: m[:, 0], lambda m: m[:, 1], lambda m: m[:, 0] - m[:, 1]):
        cells, resampled = f(drawn), f(np.array(plain))
        assert cells.mean() == pytest.approx(resampled.mean(), abs=0.006)
        assert cells.std() == pytest.approx(resampled.std(), rel=0.1)
    interval = score_answers(true, one, LABELS, bootstrap=Bootstrap(4000, seed=0)).f1_macro
    low, high = np.quantile([f for f, _ in plain], [0.025, 0.975])
    assert ends(interval) == pytest.approx((low, high), abs=0.02)


def test_each_resample_keeps_the_rows_of_a_class() -> None:
    y, z = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, -1, 1, 7, 2])
    chunks = list(Bootstrap(1100, seed=0).draw(y, [z], classes=3))
    true, hits, predicted = (column(chunks, name) for name in ("true", "hits", "predicted"))
    assert true.shape == (1100, 1, 3) and (true == [3, 2, 1]).all() and (hits[..., 2] == 1).all()
    # two of the six answers are no label: a third of the first class, and half of the second
    answered = predicted.sum(axis=2)
    assert (answered <= 6).all() and answered.mean() == pytest.approx(4, abs=0.1)
    assert hits[:, 0, 0].mean() == pytest.approx(1, abs=0.1)


# --- groups


def test_codes_of_groups() -> None:
    codes = group_codes(["x", None, "y", "x", None])
    assert codes is not None and codes.tolist() == [0, 1, 2, 0, 3]
    assert group_codes([None, None]) is None and group_codes([]) is None


def test_whole_groups_are_drawn() -> None:
    """Ten groups: five of two rows of class 0, five of a row of class 1 and two of class 2."""
    y = np.array([0, 0] * 5 + [1, 2, 2] * 5)
    groups = np.repeat(np.arange(10), [2] * 5 + [3] * 5)
    m = column(list(Bootstrap(1200, 0, groups).draw(y, [y], classes=3)), "true")[:, 0]
    assert (m[:, 2] == 2 * m[:, 1]).all() and (m[:, 0] % 2 == 0).all()
    assert (m[:, 0] / 2 + m[:, 1] == 10).all()
    assert m[:, 1].mean() == pytest.approx(5, abs=0.2)
    assert m[:, 1].std() == pytest.approx(10**0.5 / 2, rel=0.1)


@pytest.mark.parametrize("sets", [False, True])
def test_drawing_kinds_of_groups_is_resampling_groups(sets: bool) -> None:
    """Mean and deviation of macro-F1, and of its difference, as when groups are drawn one by one."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), rng.integers(1, 9, 30))
    n = len(groups)
    y = np.repeat(rng.integers(0, 3, 30), np.bincount(groups))
    one, two = (np.where(rng.random(n) < right, y, rng.integers(0, 3, n)) for right in (0.8, 0.6))
    if sets:
        y, one, two = (np.eye(3, dtype=np.int64)[v] for v in (y, one, two))
    drawn = Bootstrap(4000, 0, groups).macro_f1(y, [one, two], classes=3)
    rows = [np.flatnonzero(groups == g) for g in range(30)]
    plain = []
    for _ in range(800):
        take = np.concatenate([rows[g] for g in rng.integers(0, 30, 30)])
        plain.append([plain_f1(y[take], z[take]) for z in (one, two)])
    for f in (lambda m: m[:, 0], lambda m: m[:, 0] - m[:, 1]):
        kinds, single = f(drawn), f(np.array(plain))
        assert kinds.mean() == pytest.approx(single.mean(), abs=0.01)
        assert kinds.std() == pytest.approx(single.std(), rel=0.1)


@pytest.mark.parametrize("sets", [False, True])
def test_groups_of_one_row_are_a_plain_bootstrap(sets: bool) -> None:
    true, predicted = random_answers(100, 0.7, seed=4)
    y, z = encode(true, LABELS), encode(predicted, LABELS)
    rng, drawn = np.random.default_rng(9), []
    for _ in range(1500):
        take = rng.integers(0, 300, 300)
        drawn.append(plain_f1(y[take], z[take]))
    answers = (as_sets(true), as_sets(predicted)) if sets else (true, predicted)
    single = Bootstrap(4000, 0, np.arange(300))
    alone = score_answers(*answers, LABELS, bootstrap=single).f1_macro
    assert ends(alone) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.01)
    if sets:  # without groups label sets are drawn from all rows too: the very same draws
        plain = score_answers(*answers, LABELS, bootstrap=Bootstrap(4000, 0)).f1_macro
        assert alone.model_dump() == pytest.approx(plain.model_dump(), abs=0.001)


@pytest.mark.parametrize("sets", [False, True])
def test_rows_that_are_there_four_times_count_once(sets: bool) -> None:
    true, predicted = random_answers(40, 0.7)
    answers = (as_sets(true), as_sets(predicted)) if sets else (true, predicted)
    four = [labels * 4 for labels in answers]
    groups = np.tile(np.arange(120), 4)
    plain = score_answers(*four, LABELS, bootstrap=Bootstrap(2000, 0))
    grouped = score_answers(*four, LABELS, bootstrap=Bootstrap(2000, 0, groups))
    once = score_answers(*answers, LABELS, bootstrap=Bootstrap(2000, 0, np.arange(120)))
    for name in ("f1_macro", "precision_macro", "recall_macro") if sets else SUMMARY:
        assert width(grouped.summary[name]) > 1.7 * width(plain.summary[name])
        assert grouped.summary[name].model_dump() == pytest.approx(once.summary[name].model_dump())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_the_order_of_rows_and_the_codes_of_groups_do_not_matter(
    rows: list[tuple[int, int]], rng: Any
) -> None:
    def drawn(table: list[tuple[int, int]]) -> np.ndarray:
        y, groups = np.array(table).T
        return column(list(Bootstrap(50, 0, groups).draw(y, [y], classes=5)), "true")

    codes = list(range(6))
    rng.shuffle(codes)
    other = [(label, codes[group]) for label, group in rows]
    rng.shuffle(other)
    assert (drawn(rows) == drawn(other)).all()


def test_a_class_that_is_absent_from_a_resample_has_an_f1_of_0() -> None:
    y, groups = np.array([0, 0, 1]), np.array([0, 1, 2])
    hot = np.eye(2, dtype=np.int64)[y]
    for codes in (y, hot):
        f1 = Bootstrap(2000, 0, groups).macro_f1(codes, [codes], classes=2)[:, 0]
        assert set(f1.tolist()) == {0.5, 1.0}
    chunks = list(Bootstrap(100, 0, np.array([0, 0, 1])).draw(hot, [hot], classes=2))
    assert set(column(chunks, "rows").tolist()) == {2, 3, 4}


def test_a_single_group_has_no_bounds() -> None:
    true, predicted = random_answers(10, 0.7)
    one = Bootstrap(100, 0, np.zeros(30, dtype=np.int64))
    for answers in ((true, predicted), (as_sets(true), as_sets(predicted))):
        assert ends(score_answers(*answers, LABELS, bootstrap=one).f1_macro) == (0.0, 1.0)
    scores = score_answers(true, predicted, LABELS, bootstrap=one)
    assert ends(scores.more["matthews"]) == (-1.0, 1.0)
    assert (scores.labels["bird"].f1_ci_low, scores.labels["bird"].f1_ci_high) == (0.0, 1.0)


def test_few_groups_widen_the_bounds() -> None:
    def widening(groups: np.ndarray | None, alpha: float) -> float:
        return Bootstrap(1, 0, groups).widening(alpha)

    factors = [widening(np.arange(n), 0.025) for n in (10, 20, 100, 2000)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] > 1.2 and factors[-1] == pytest.approx(1, abs=0.002)
    assert (
        widening(None, 0.025) == widening(np.arange(20), 0.5) == widening(np.zeros(9), 0.025) == 1
    )
