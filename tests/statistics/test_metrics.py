"""Figures are scikit-learn's, and their intervals contain them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
)

from tasks.figures import Interval
from tasks.labels import encode
from tasks.statistics.bootstrap import Bootstrap, Tallies
from tasks.statistics.metrics import MORE, SUMMARY, more_of, score_answers
from tests.kit.scores import LABELS, random_answers


def expected_more(true: list[str], predicted: list[str]) -> dict[str, float]:
    """MORE by scikit-learn."""
    of: dict[str, Any] = {"labels": LABELS, "zero_division": 0}
    return {
        "balanced_accuracy": recall_score(
            true, predicted, labels=sorted(set(true)), average="macro", zero_division=0
        ),
        "f1_micro": f1_score(true, predicted, average="micro", **of),
        "f1_weighted": f1_score(true, predicted, average="weighted", **of),
        "matthews": matthews_corrcoef(true, predicted),
    }


@given(
    data=st.lists(
        st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "other"])),
        min_size=1,
        max_size=30,
    )
)
@settings(deadline=None, max_examples=60)
def test_figures_are_scikit_learns(data: list[tuple[str, str]]) -> None:
    true, predicted = map(list, zip(*data, strict=True))
    m = score_answers(true, predicted, LABELS, bootstrap=Bootstrap(100, 0))
    macro: dict[str, Any] = {"labels": LABELS, "average": "macro", "zero_division": 0}
    assert list(m.summary) == list(SUMMARY)
    assert {name: v.value for name, v in m.summary.items()} == pytest.approx(
        {
            "accuracy": accuracy_score(true, predicted),
            "precision_macro": precision_score(true, predicted, **macro),
            "recall_macro": recall_score(true, predicted, **macro),
            "f1_macro": f1_score(true, predicted, **macro),
        }
    )
    each = f1_score(true, predicted, labels=LABELS, average=None, zero_division=0)
    assert [m.labels[label].f1 for label in LABELS] == pytest.approx(each)
    assert [m.labels[label].rows for label in LABELS] == [true.count(label) for label in LABELS]
    matrix = confusion_matrix(true, predicted, labels=[*LABELS, "other"])[:3, :3]
    assert m.confusion == matrix.tolist() and m.rows == len(true)
    assert all(0 <= v.ci_low <= v.value <= v.ci_high <= 1 for v in m.summary.values())
    for score in m.labels.values():
        assert 0 <= score.f1_ci_low <= score.f1 <= score.f1_ci_high <= 1
    more = {name: v.value for name, v in m.more.items()}
    assert more == pytest.approx(expected_more(true, predicted))
    assert all(v.ci_low <= v.value <= v.ci_high <= 1 for v in m.more.values())


@pytest.mark.parametrize("right", [0.0, 0.7, 1.0])
def test_figures_of_a_resample_are_scikit_learns_of_its_rows(right: float) -> None:
    true, predicted = random_answers(25, right, [*LABELS, "stone"], seed=3)
    true, predicted = true[:75], predicted[:75]  # no row of a stone, but answers
    y, z = encode(true, LABELS), encode(predicted, LABELS)
    hot = [v[:, None] == np.arange(3) for v in (y, z)]
    counts = ((hot[0] & hot[1]).sum(0), hot[1].sum(0), hot[0].sum(0))
    rows = np.array([[(y == z).sum()]]), np.array([len(y)])
    itself = Tallies(*(n[None, None] for n in counts), *rows)
    found = dict(zip(MORE, more_of(itself, np.unique(y))[0], strict=True))
    known = ["other" if k < 0 else LABELS[k] for k in z]
    assert found == pytest.approx(expected_more(true, known))


@pytest.mark.parametrize(
    ("labels", "n", "right"), [(2, 100, 0.9), (5, 3, 0.5), (200, 2, 0.6), (200, 2, 0.9)]
)
def test_intervals_contain_their_figure(labels: int, n: int, right: float) -> None:
    names = [f"label {i}" for i in range(labels)]
    m = score_answers(*random_answers(n, right, names), names, bootstrap=Bootstrap(300, 0))
    assert list(m.summary) == list(SUMMARY)
    assert all(v.ci_low <= v.value <= v.ci_high for v in m.summary.values())


def test_intervals_narrow_with_rows_and_are_a_point_for_the_perfect() -> None:
    def width(n: int) -> float:
        m = score_answers(*random_answers(n, 0.8), LABELS, bootstrap=Bootstrap(1000, 0)).f1_macro
        return m.ci_high - m.ci_low

    assert 3 < width(30) / width(480) < 5.3  # by the root of the rows
    perfect = score_answers(LABELS * 9, LABELS * 9, LABELS, bootstrap=Bootstrap(200, 0)).f1_macro
    assert perfect == Interval(value=1.0, ci_low=1.0, ci_high=1.0)


def test_the_order_of_rows_does_not_matter() -> None:
    true, predicted = random_answers(20, 0.7)
    shuffled = list(zip(true, predicted, strict=True))
    random.Random(5).shuffle(shuffled)
    t, p = map(list, zip(*shuffled, strict=True))
    one, other = (
        score_answers(*answers, LABELS, bootstrap=Bootstrap(700, 1))
        for answers in ((true, predicted), (t, p))
    )
    assert t != true and one == other


def test_the_seed_decides() -> None:
    a, b, c = (
        score_answers(*random_answers(20, 0.7), LABELS, bootstrap=Bootstrap(200, seed))
        for seed in (0, 0, 1)
    )
    assert a == b and a.f1_macro.ci_low != c.f1_macro.ci_low


@pytest.mark.parametrize(
    ("true", "predicted"), [([], []), (["fruit"], []), (["fruit"], ["fruit", "metal"])]
)
def test_rows_and_answers_must_match(true: list[str], predicted: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(true)} true and {len(predicted)} predicted"):
        score_answers(true, predicted, LABELS, bootstrap=Bootstrap(100, 0))


def test_codes() -> None:
    assert encode(["bird", "stone", "fruit"], LABELS).tolist() == [2, -1, 0]
    assert encode([], LABELS).size == 0
