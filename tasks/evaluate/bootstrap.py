"""Bootstrap of classification metrics, one or several models on the same rows: stratified, or of label sets plain.

Resampling the rows of a class with replacement draws the counts of its (prediction, prediction) cells from a multinomial
distribution, so cells are drawn instead of rows: the same distribution, faster, and no order of rows to depend on.
Efron and Tibshirani 1993, chapters 13 and 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def draw_sets(
    y: np.ndarray, predictions: list[np.ndarray], *, samples: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For label sets, until `samples` are drawn: hits, rows predicted and rows true, each of shape (chunk, models, labels), and
    rows whose whole set is right, (chunk, models).

    `y` and each of `predictions` are 0 and 1, shape (rows, labels). Rows are resampled from all rows: a row counts for
    several labels, so a label's rows differ from one resample to the next.
    """
    rng = np.random.default_rng(seed)
    rows, labels = y.shape
    patterns, counts = np.unique(
        np.hstack([y, *predictions]), axis=0, return_counts=True
    )  # sorted: the order is no input
    true = patterns[:, :labels]
    said = [patterns[:, labels * (m + 1) : labels * (m + 2)] for m in range(len(predictions))]
    for start in range(0, samples, CHUNK):
        drawn = rng.multinomial(rows, counts / rows, size=min(CHUNK, samples - start))
        hits, predicted = (
            np.stack([drawn @ part for part in parts], axis=1) for parts in ([true & p for p in said], said)
        )
        right = np.stack([drawn @ (true == p).all(axis=1) for p in said], axis=1)
        yield hits, predicted, np.repeat((drawn @ true)[:, None], len(said), axis=1), right


def f1_of(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """F1 from counts of the same shape; 0 where nothing is true or predicted, as in scikit-learn."""
    return 2 * hits / np.maximum(predicted + true, 1)


def intervals(names: Sequence[str], point: np.ndarray, drawn: np.ndarray) -> dict[str, dict[str, float]]:
    """Each figure's `value` and its 95% interval, percentiles of `drawn`, shape (samples, figures), widened to hold the value:
    with very few rows a label all resamples can lie below it."""
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    low, high = np.minimum(low, point), np.maximum(high, point)
    return {
        name: {"value": float(point[i]), "ci_low": float(low[i]), "ci_high": float(high[i])}
        for i, name in enumerate(names)
    }


def label_f1(y: np.ndarray, predictions: list[np.ndarray], *, classes: int, samples: int, seed: int) -> np.ndarray:
    """F1 of each label for each model in each resample, shape (samples, models, classes); the models share the resampled rows.

    `y` and `predictions` are indices, shape (rows,), or for label sets 0 and 1, shape (rows, classes).
    """
    if y.ndim == 2:
        sets = draw_sets(y, predictions, samples=samples, seed=seed)
        return np.concatenate([f1_of(hits, said, true) for hits, said, true, _ in sets])
    chunks = draw(y, predictions, classes=classes, samples=samples, seed=seed)
    return np.concatenate([precision_recall_f1(m)[2] for m in chunks])


def macro_f1(y: np.ndarray, predictions: list[np.ndarray], *, classes: int, samples: int, seed: int) -> np.ndarray:
    """The mean of `label_f1` over the labels, shape (samples, models)."""
    return label_f1(y, predictions, classes=classes, samples=samples, seed=seed).mean(axis=-1)
