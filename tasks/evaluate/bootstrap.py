"""Stratified bootstrap of classification metrics, one or two models on the same rows.

Resampling the rows of a class with replacement draws the counts of its (prediction, prediction) cells from a multinomial
distribution, so cells are drawn instead of rows: the same distribution, faster, and no order of rows to depend on.
Efron and Tibshirani 1993, chapters 13 and 16.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CHUNK = 500


def draw(
    y: np.ndarray, predictions: list[np.ndarray], *, classes: int, samples: int, seed: int
) -> Iterator[np.ndarray]:
    """Confusion matrices, shape (chunk, models, classes, classes + 1), rows the true class, until `samples` are drawn.

    `y` and each of `predictions` are integers of shape (rows,); a prediction outside 0..classes-1 falls into the last
    column, which no class owns. Each class keeps its number of rows.
    """
    rng = np.random.default_rng(seed)
    stacked = np.stack([np.where((p >= 0) & (p < classes), p, classes) for p in predictions])
    cells, counts = np.unique(np.vstack([y, stacked]), axis=1, return_counts=True)  # sorted: the order is no input
    for start in range(0, samples, CHUNK):
        size = min(CHUNK, samples - start)
        drawn = np.zeros((size, counts.size), dtype=np.int64)
        for c in np.unique(y):
            of_class = cells[0] == c
            n = counts[of_class]
            drawn[:, of_class] = rng.multinomial(n.sum(), n / n.sum(), size=size)
        matrices = np.zeros((size, len(predictions), classes, classes + 1), dtype=np.int64)
        for m in range(len(predictions)):
            for j in range(counts.size):
                matrices[:, m, cells[0, j], cells[m + 1, j]] += drawn[:, j]
        yield matrices


def precision_recall_f1(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per class, shape (..., classes) each, from confusion matrices (..., classes, classes + 1); 0 where undefined."""
    classes = matrices.shape[-2]
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)[..., :classes].astype(float)
    predicted = matrices[..., :classes].sum(axis=-2)
    true = matrices.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall, f1 = hits / predicted, hits / true, 2 * hits / (predicted + true)
    return np.nan_to_num(precision), np.nan_to_num(recall), np.nan_to_num(f1)


def macro_f1(y: np.ndarray, predictions: list[np.ndarray], *, classes: int, samples: int, seed: int) -> np.ndarray:
    """Macro-F1 of each model in each resample, shape (samples, models); the models share the resampled rows."""
    chunks = draw(y, predictions, classes=classes, samples=samples, seed=seed)
    return np.concatenate([precision_recall_f1(m)[2].mean(axis=-1) for m in chunks])
