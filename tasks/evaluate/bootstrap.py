"""Bootstrap of classification metrics, one or several models on the same rows: stratified by class, of label sets plain, and
where rows come in groups of whole groups.

Resampling the rows of a class with replacement draws the counts of its (prediction, prediction) cells from a multinomial
distribution, so cells are drawn instead of rows: the same distribution, faster, and no order of rows to depend on.
Efron and Tibshirani 1993, chapters 13 and 16.

Rows of one group (an author, a thread) are alike, so they hold less than as many rows that are not, and bounds that take them for
independent are too narrow. Then groups are drawn with replacement, each with all its rows (the pairs cluster bootstrap: Cameron,
Gelbach and Miller 2008, "Bootstrap-based improvements for inference with clustered errors"; Field and Welsh 2007,
"Bootstrapping clustered data"). Groups with the same counts of cells are drawn together, by one multinomial, and their counts are
added by one sparse matrix product. The rows of a class, and all rows, then differ from one resample to the next. A class that is
absent from one has the F1 that the metric's definition gives (`zero_division=0`): 0 where nothing is predicted either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

CHUNK = 500
LEAST_GROUPS = 10  # with fewer no bound is trusted


def group_codes(keys: Sequence[str | None]) -> np.ndarray | None:
    """An index for each group, shape (rows,); a row without one (None) is its own. None where no row has a group."""
    if not any(keys):
        return None
    at: dict[object, int] = {}
    return np.array([at.setdefault(key or i, len(at)) for i, key in enumerate(keys)], dtype=np.int64)


def draw(
    y: np.ndarray,
    predictions: list[np.ndarray],
    *,
    classes: int,
    samples: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Confusion matrices, shape (chunk, models, classes, classes + 1), rows the true class, until `samples` are drawn.

    `y`, each of `predictions` and `groups` are integers of shape (rows,); a prediction outside 0..classes-1 falls into the last
    column, which no class owns. Without groups each class keeps its number of rows.
    """
    stacked = np.stack([np.where((p >= 0) & (p < classes), p, classes) for p in predictions])
    # sorted: the order of rows is no input
    cells, cell, counts = np.unique(np.vstack([y, stacked]), axis=1, return_inverse=True, return_counts=True)
    strata = cells[0] if groups is None else None
    for drawn in _counts(cell, counts, strata=strata, groups=groups, samples=samples, seed=seed):
        matrices = np.zeros((len(drawn), len(predictions), classes, classes + 1), dtype=np.int64)
        for m in range(len(predictions)):
            for j in range(counts.size):
                matrices[:, m, cells[0, j], cells[m + 1, j]] += drawn[:, j]
        yield matrices


def _counts(
    cell: np.ndarray,
    counts: np.ndarray,
    *,
    strata: np.ndarray | None,
    groups: np.ndarray | None,
    samples: int,
    seed: int,
) -> Iterator[np.ndarray]:
    """How often each cell is drawn, shape (chunk, cells). `cell` is each row's, shape (rows,), `counts` the rows of each.

    With `strata`, one for each cell, each of them keeps its rows; with `groups`, one for each row, whole groups are drawn.
    """
    rng = np.random.default_rng(seed)
    sizes = [min(CHUNK, samples - start) for start in range(0, samples, CHUNK)]
    if groups is not None:
        from scipy.sparse import csr_array

        kinds, many = _kinds(cell.ravel(), groups)
        place = np.repeat(np.arange(len(kinds)), [len(kind) for kind in kinds])
        held, times = np.array([pair for kind in kinds for pair in kind], dtype=np.int64).T
        of_kind = csr_array((times, (place, held)), shape=(len(kinds), counts.size))
        for size in sizes:
            yield rng.multinomial(many.sum(), many / many.sum(), size=size) @ of_kind
        return
    parts = [np.full(counts.size, True)] if strata is None else [strata == c for c in np.unique(strata)]
    for size in sizes:
        drawn = np.zeros((size, counts.size), dtype=np.int64)
        for own in parts:
            n = counts[own]
            drawn[:, own] = rng.multinomial(n.sum(), n / n.sum(), size=size)
        yield drawn


def _kinds(cell: np.ndarray, groups: np.ndarray) -> tuple[list[tuple[tuple[int, int], ...]], np.ndarray]:
    """The different groups there are, each as its (cell, rows) pairs, in order; and how many groups are of each kind."""
    own: dict[int, Counter[int]] = defaultdict(Counter)
    for c, g in zip(cell.tolist(), groups.tolist(), strict=True):
        own[g][c] += 1
    kinds = sorted(Counter(tuple(sorted(held.items())) for held in own.values()).items())
    return [kind for kind, _ in kinds], np.array([n for _, n in kinds])


def stretch(groups: np.ndarray | None, alpha: float) -> float:
    """By how much a one-sided bound at `alpha` is widened where rows come in few groups: quantiles of Student's t with groups - 1
    degrees of freedom in place of the normal ones, and the square root of groups / (groups - 1). 1 without groups.

    Cameron and Miller 2015, "A practitioner's guide to cluster-robust inference", section VI.
    """
    from scipy.stats import norm, t

    many = 0 if groups is None else len(np.unique(groups))
    if many < 2 or alpha >= 0.5:
        return 1.0
    return float(t.ppf(1 - alpha, many - 1) / norm.ppf(1 - alpha) * (many / (many - 1)) ** 0.5)


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
    y: np.ndarray, predictions: list[np.ndarray], *, samples: int, seed: int, groups: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For label sets, until `samples` are drawn: hits, rows predicted and rows true, each of shape (chunk, models, labels), rows
    whose whole set is right, (chunk, models), and rows, (chunk,).

    `y` and each of `predictions` are 0 and 1, shape (rows, labels). Rows are resampled from all rows: a row counts for
    several labels, so a label's rows differ from one resample to the next.
    """
    labels = y.shape[1]
    # sorted: the order of rows is no input
    patterns, cell, counts = np.unique(np.hstack([y, *predictions]), axis=0, return_inverse=True, return_counts=True)
    true = patterns[:, :labels]
    said = [patterns[:, labels * (m + 1) : labels * (m + 2)] for m in range(len(predictions))]
    for drawn in _counts(cell, counts, strata=None, groups=groups, samples=samples, seed=seed):
        hits, predicted = (
            np.stack([drawn @ part for part in parts], axis=1) for parts in ([true & p for p in said], said)
        )
        right = np.stack([drawn @ (true == p).all(axis=1) for p in said], axis=1)
        yield hits, predicted, np.repeat((drawn @ true)[:, None], len(said), axis=1), right, drawn.sum(axis=1)


def f1_of(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """F1 from counts of the same shape; 0 where nothing is true or predicted, as in scikit-learn."""
    return 2 * hits / np.maximum(predicted + true, 1)


def interval(point: float, drawn: np.ndarray, *, groups: np.ndarray | None = None) -> dict[str, float]:
    """A figure's `value` and its 95% interval, percentiles of `drawn`, shape (samples,), widened to hold the value: with very few
    rows a label all resamples can lie below it. A single group says nothing of others: 0 to 1."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    if groups is not None and len(np.unique(groups)) < 2:
        low, high = 0.0, 1.0
    return {"value": float(point), "ci_low": float(min(low, point)), "ci_high": float(max(high, point))}


def intervals(
    names: Sequence[str], point: np.ndarray, drawn: np.ndarray, *, groups: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """The `interval` of each figure; `drawn` has the shape (samples, figures)."""
    return {name: interval(point[i], drawn[:, i], groups=groups) for i, name in enumerate(names)}


def label_f1(
    y: np.ndarray,
    predictions: list[np.ndarray],
    *,
    classes: int,
    samples: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """F1 of each label for each model in each resample, shape (samples, models, classes); the models share the resampled rows.

    `y` and `predictions` are indices, shape (rows,), or for label sets 0 and 1, shape (rows, classes).
    """
    if y.ndim == 2:
        sets = draw_sets(y, predictions, samples=samples, seed=seed, groups=groups)
        return np.concatenate([f1_of(hits, said, true) for hits, said, true, _, _ in sets])
    chunks = draw(y, predictions, classes=classes, samples=samples, seed=seed, groups=groups)
    return np.concatenate([precision_recall_f1(m)[2] for m in chunks])


def macro_f1(
    y: np.ndarray,
    predictions: list[np.ndarray],
    *,
    classes: int,
    samples: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """The mean of `label_f1` over the labels, shape (samples, models)."""
    return label_f1(y, predictions, classes=classes, samples=samples, seed=seed, groups=groups).mean(axis=-1)
