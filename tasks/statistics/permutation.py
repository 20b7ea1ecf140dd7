"""The paired permutation test of a difference in macro-F1.

If neither model is better, the two answers to a row are exchangeable. So answers are swapped at
random, row by row or in whole groups, and the observed gain is compared with the gains after the
swaps. The level holds with few rows, rare labels and very accurate models, where bootstrap bounds are
too narrow (Fisher 1935, chapter 3; for F-scores: Yeh 2000, "More accurate tests for the statistical
significance of result differences").
"""

from __future__ import annotations

import numpy as np

from tasks.statistics.bootstrap import Cells, count_group_kinds, f1_from_counts, tabulate

CHUNK = 500
LEAST_SWAPS = 10_000
MOST_SWAPS = 200_000  # a level below 1 in as many cannot be shown, and nothing passes it
ENOUGH_REACHED = 250  # swaps that reach the gain, after which p is known well enough


def permutation_p_value(
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    classes: int,
    alpha: float,
    seed: int,
    groups: np.ndarray | None = None,
) -> float:
    """The one-sided p-value of the gain in macro-F1 of `a` over `b`, above 0 and at most 1.

    `y`, `a` and `b` are indices, shape (rows,), or label sets of 0 and 1, (rows, classes); `groups`
    is the index of each row's group. The number of swaps is enough for the level `alpha`; it ends
    early once ENOUGH_REACHED of them reach the gain (Besag and Clifford 1991). The observed answers
    count as one more swap (Phipson and Smyth 2010), so the test keeps its level.
    """
    cells = tabulate(y, [a, b], classes=classes)
    counts, change = _swap_effects(cells, groups)
    if not len(counts):
        return 1.0
    hits_a, hits_b, predicted_a, predicted_b, true = (
        (cells.counts @ per_cell).astype(np.int64)
        for per_cell in (*cells.hits, *cells.predicted, cells.true)
    )
    observed = _macro_f1_gain(hits_a, hits_b, predicted_a, predicted_b, true)
    swaps = min(MOST_SWAPS, max(LEAST_SWAPS, int(20 / max(alpha, 1e-9))))
    rng, reached, drawn = np.random.default_rng(seed), 0, 0
    while drawn < swaps and reached < ENOUGH_REACHED:
        swapped = rng.binomial(counts, 0.5, size=(CHUNK, len(counts))).astype(np.float32)
        # whole numbers, exact in float32 up to 16 million rows
        hits, predicted = np.split(swapped @ change, 2, axis=1)
        gains = _macro_f1_gain(
            hits_a + hits, hits_b - hits, predicted_a + predicted, predicted_b - predicted, true
        )
        reached += int((gains >= observed - 1e-12).sum())  # 1e-12: the order of summation
        drawn += CHUNK
    return round((reached + 1) / (drawn + 1), 12)


def _swap_effects(cells: Cells, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """How many rows, or groups, of each kind there are, and the effect of swapping one of them.

    The effect, shape (kinds, 2 labels), is what the first model's hits and predictions gain. Kinds
    without an effect are left out.
    """
    change = np.hstack([cells.hits[1] - cells.hits[0], cells.predicted[1] - cells.predicted[0]])
    counts = cells.counts
    if groups is not None:
        kinds, counts = count_group_kinds(cells.cell, groups)
        change = np.array([sum(change[cell] * n for cell, n in kind.items()) for kind in kinds])
    effective = change.any(axis=1)
    return counts[effective], change[effective].astype(np.float32)


def _macro_f1_gain(
    hits_a: np.ndarray,
    hits_b: np.ndarray,
    predicted_a: np.ndarray,
    predicted_b: np.ndarray,
    true: np.ndarray,
) -> np.ndarray:
    gains = f1_from_counts(hits_a, predicted_a, true) - f1_from_counts(hits_b, predicted_b, true)
    return np.asarray(gains.mean(axis=-1))
