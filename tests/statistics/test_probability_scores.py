"""Probabilities: the figures are scikit-learn's, the calibration error is the textbook's, and odd inputs are no crash."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from tasks.statistics.probability_scores import (
    confident_mistakes,
    reliability_bins,
    score_probabilities,
)


def drawn(rows: int, seed: int, sharp: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the very probabilities: calibrated where `sharp` is 1."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.5, 0.5, 0.5], rows)
    y = np.array([rng.choice(3, p=row) for row in p])
    told = p**sharp
    return y, told / told.sum(axis=1, keepdims=True)


def test_the_figures_are_scikit_learns() -> None:
    y, p = drawn(300, 0)
    found = score_probabilities(y, p)
    assert found.log_loss == pytest.approx(log_loss(y, p))
    assert found.brier == pytest.approx(
        brier_score_loss(y, p, labels=[0, 1, 2], scale_by_half=False)
    )
    assert found.roc_auc_macro == pytest.approx(roc_auc_score(y, p, multi_class="ovr"))


def test_of_label_sets_the_mean_over_labels() -> None:
    rng = np.random.default_rng(1)
    p = rng.random((400, 3))
    y = (rng.random((400, 3)) < p).astype(np.int64)
    found = score_probabilities(y, p)
    assert found.brier == pytest.approx(
        np.mean([brier_score_loss(y[:, k], p[:, k]) for k in range(3)])
    )
    assert found.roc_auc_macro == pytest.approx(
        np.mean([roc_auc_score(y[:, k], p[:, k]) for k in range(3)])
    )
    assert found.ece < 0.05


def test_calibrated_scores_have_a_small_error_and_sharpened_ones_a_large_one() -> None:
    honest, boasting = (score_probabilities(*drawn(4000, 2, sharp)) for sharp in (1.0, 4.0))
    assert honest.ece < 0.03 < 0.1 < boasting.ece


def test_the_error_of_a_hand_made_case() -> None:
    sure, right = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55]), np.array([1, 1, 1, 0, 1, 0])
    bins, error = reliability_bins(sure, right, bins=10)
    assert [b.rows for b in bins] == [2, 4]
    assert error == pytest.approx((2 * abs(0.55 - 0.5) + 4 * abs(0.95 - 0.75)) / 6)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.tuples(*[st.floats(0, 1)] * 3)), min_size=1, max_size=20
    )
)
def test_any_scores_give_figures(rows: list[Any]) -> None:
    y = np.array([k for k, _ in rows])
    p = np.array([s for _, s in rows]) + 1e-9
    found = score_probabilities(y, p / p.sum(axis=1, keepdims=True))
    assert 0 <= found.ece <= 1 and 0 <= found.brier <= 2 and np.isfinite(found.log_loss)
    assert (found.roc_auc_macro is None) == (len(set(y.tolist())) == 1)


def test_the_most_confident_mistakes_come_first() -> None:
    y = np.array([0, 1, 2, 0])
    p = np.array([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.3, 0.4, 0.3]])
    assert confident_mistakes(y, p) == [(2, 0.9, 0.05), (0, 0.8, 0.1), (3, 0.4, 0.3)]
    assert confident_mistakes(y, p, most=1) == [(2, 0.9, 0.05)]
