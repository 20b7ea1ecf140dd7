"""Whether chance alone explains a gain: the paired permutation test of a difference in macro-F1.

If neither model is better, a row's two answers could as well be the other's. So the answers are swapped row by row at random, in a
group all rows together, and the gain seen is compared with the gains after the swaps. The level holds with few rows, rare labels and
models that are almost always right, where a bootstrap's bounds are too narrow. Fisher 1935, chapter 3; of F-scores: Yeh 2000, "More
accurate tests for the statistical significance of result differences".
"""

from __future__ import annotations

import numpy as np

from tasks.statistics.bootstrap import Cells, cells_of, f1_of, kinds

CHUNK = 500
LEAST, ENOUGH = (
    10_000,
    250,
)  # swaps; and of these the number that reach the gain, with which it is known well enough
MOST = 200_000  # a level below 1 in as many can't be shown, and nothing passes it


def p_value(
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    classes: int,
    alpha: float,
    seed: int,
    groups: np.ndarray | None = None,
) -> float:
    """How often models as good as each other differ by what `a` gains on `b` in macro-F1, or more: one-sided, from 0 to 1.

    `y`, `a` and `b` are indices, shape (rows,), or for label sets 0 and 1, shape (rows, classes); `groups` holds an index for each
    row. LEAST swaps are drawn, or enough for the level `alpha`, MOST at most; fewer where ENOUGH of them reach the gain before
    (Besag and Clifford 1991). The answers as they are count as one more (Phipson and Smyth 2010), so it is never 0, and below
    `alpha` no more often than `alpha` where neither model is better.
    """
    cells = cells_of(y, [a, b], classes=classes)
    units, change = _units(cells, groups)
    n = min(MOST, max(LEAST, int(20 / max(alpha, 1e-9))))
    held = [
        (cells.counts @ own).astype(np.int64) for own in (*cells.hits, *cells.predicted, cells.true)
    ]
    seen = _gain(*held)
    if not len(units):
        return 1.0
    rng, reached, drawn = np.random.default_rng(seed), 0, 0
    while drawn < n and reached < ENOUGH:
        # whole numbers, and exact in float32 up to 16 million rows
        swapped = rng.binomial(units, 0.5, size=(CHUNK, len(units))).astype(np.float32) @ change
        hits, predicted = np.split(swapped, 2, axis=1)
        gains = _gain(
            held[0] + hits, held[1] - hits, held[2] + predicted, held[3] - predicted, held[4]
        )
        reached += int(
            (gains >= seen - 1e-12).sum()
        )  # a difference in the order of summation is none
        drawn += CHUNK
    return round((reached + 1) / (drawn + 1), 12)


def _units(cells: Cells, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """How many rows, or groups, there are of each kind, and what the swap of one adds to the first model's hits and predictions of
    each label, shape (kinds, 2 labels). Those whose swap changes nothing are left out."""
    change = np.hstack([cells.hits[1] - cells.hits[0], cells.predicted[1] - cells.predicted[0]])
    many = cells.counts
    if groups is not None:
        found, many = kinds(cells.cell, groups)
        change = np.array([sum(change[cell] * rows for cell, rows in kind) for kind in found])
    moves = change.any(axis=1)
    return many[moves], change[moves].astype(np.float32)


def _gain(
    hits: np.ndarray, other: np.ndarray, predicted: np.ndarray, others: np.ndarray, true: np.ndarray
) -> np.ndarray:
    """The difference of two models' macro-F1, from the last axis's labels."""
    return np.asarray((f1_of(hits, predicted, true) - f1_of(other, others, true)).mean(axis=-1))
