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
from dataclasses import dataclass

import numpy as np

from tasks.figures import Interval

CHUNK = 500
LEAST_GROUPS = (
    12  # with fewer no bound is trusted: wrong promotions were measured above the rate that is said
)


def group_codes(keys: Sequence[str | None]) -> np.ndarray | None:
    """An index for each group, shape (rows,); a row without one (None) is its own. None where no row has a group."""
    if not any(keys):
        return None
    at: dict[object, int] = {}
    return np.array(
        [at.setdefault(key or i, len(at)) for i, key in enumerate(keys)], dtype=np.int64
    )


def f1_of(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """F1 of rows found, rows said and rows there are: 0 where nothing is true or predicted, as scikit-learn's zero_division=0."""
    return np.asarray(2 * hits / np.maximum(predicted + true, 1))


@dataclass(frozen=True, slots=True)
class Tallies:
    """What resamples hold. Of each label the rows that have it (`true`), that are given it (`predicted`) and both (`hits`), shape
    (samples, models, labels); rows whose whole answer is right, (samples, models); and rows, (samples,)."""

    hits: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    right: np.ndarray
    rows: np.ndarray

    # 0 where nothing is true or predicted, as in scikit-learn with zero_division=0

    @property
    def precision(self) -> np.ndarray:
        return self.hits / np.maximum(self.predicted, 1)

    @property
    def recall(self) -> np.ndarray:
        return self.hits / np.maximum(self.true, 1)

    @property
    def f1(self) -> np.ndarray:
        return f1_of(self.hits, self.predicted, self.true)

    @property
    def accuracy(self) -> np.ndarray:
        return np.asarray(self.right / self.rows[:, None])


@dataclass(frozen=True, slots=True)
class Cells:
    """Rows that are alike in truth and answers: how many there are of each (`counts`), each row's (`cell`), and of one such row the
    labels that it has (`true`), that each model gives it (`predicted`) and both (`hits`), shape (cells, labels), and whether a model's
    whole answer is right, (cells,). `first` is the label of rows with one."""

    counts: np.ndarray
    cell: np.ndarray
    first: np.ndarray
    true: np.ndarray
    predicted: list[np.ndarray]
    hits: list[np.ndarray]
    right: list[np.ndarray]


def cells_of(y: np.ndarray, predictions: list[np.ndarray], *, classes: int) -> Cells:
    """The different rows that there are, in an order that does not depend on theirs. See `draw` for what goes in."""
    answers = (
        [y, *predictions]
        if y.ndim == 2
        else [y, *(np.where((p >= 0) & (p < classes), p, classes) for p in predictions)]
    )
    table = np.hstack(answers) if y.ndim == 2 else np.stack(answers, axis=1)
    cells, cell, counts = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    hot = (
        np.split(cells, len(answers), axis=1)
        if y.ndim == 2
        else [cells[:, [m]] == np.arange(classes) for m in range(len(answers))]
    )
    true, said = hot[0].astype(np.int64), [h.astype(np.int64) for h in hot[1:]]
    right = [(true == p).all(axis=1).astype(np.int64) for p in said]
    return Cells(counts, cell.ravel(), cells[:, 0], true, said, [true * p for p in said], right)


def draw(
    y: np.ndarray,
    predictions: list[np.ndarray],
    *,
    classes: int,
    samples: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> Iterator[Tallies]:
    """Resamples in chunks, until `samples` are drawn; the models share the resampled rows.

    `y` and each of `predictions` are indices, shape (rows,), where a prediction outside 0..classes-1 is no label; or for label
    sets 0 and 1, shape (rows, classes). `groups` holds an index for each row. Without groups each class keeps its number of
    rows; of label sets rows are resampled from all rows: a row counts for several labels.
    """
    from scipy.sparse import csr_array

    cells = cells_of(y, predictions, classes=classes)
    hits, predicted = [csr_array(h) for h in cells.hits], [csr_array(p) for p in cells.predicted]
    right, truth = cells.right, csr_array(cells.true)
    strata = cells.first if y.ndim == 1 and groups is None else None
    for drawn in _counts(
        cells.cell, cells.counts, strata=strata, groups=groups, samples=samples, seed=seed
    ):
        yield Tallies(
            np.stack([drawn @ h for h in hits], axis=1),
            np.stack([drawn @ p for p in predicted], axis=1),
            np.repeat((drawn @ truth)[:, None], len(predictions), axis=1),
            np.stack([drawn @ r for r in right], axis=1),
            drawn.sum(axis=1),
        )


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

        found, many = kinds(cell, groups)
        place = np.repeat(np.arange(len(found)), [len(kind) for kind in found])
        held, times = np.array([pair for kind in found for pair in kind], dtype=np.int64).T
        of_kind = csr_array((times, (place, held)), shape=(len(found), counts.size))
        for size in sizes:
            yield rng.multinomial(many.sum(), many / many.sum(), size=size) @ of_kind
        return
    parts = (
        [np.full(counts.size, True)] if strata is None else [strata == c for c in np.unique(strata)]
    )
    for size in sizes:
        drawn = np.zeros((size, counts.size), dtype=np.int64)
        for own in parts:
            n = counts[own]
            drawn[:, own] = rng.multinomial(n.sum(), n / n.sum(), size=size)
        yield drawn


def kinds(
    cell: np.ndarray, groups: np.ndarray
) -> tuple[list[tuple[tuple[int, int], ...]], np.ndarray]:
    """The different groups there are, each as its (cell, rows) pairs, in order; and how many groups are of each kind."""
    own: dict[int, Counter[int]] = defaultdict(Counter)
    for c, g in zip(cell.tolist(), groups.tolist(), strict=True):
        own[g][c] += 1
    found = sorted(Counter(tuple(sorted(held.items())) for held in own.values()).items())
    return [kind for kind, _ in found], np.array([n for _, n in found])


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


def interval(
    point: float, drawn: np.ndarray, *, groups: np.ndarray | None = None, least: float = 0.0
) -> Interval:
    """A figure's `value` and its 95% interval, percentiles of `drawn`, shape (samples,), widened to hold the value: with very few
    rows a label all resamples can lie below it. Few groups widen it by `stretch`, and a single one says nothing of others:
    `least` (what the figure can be at worst) to 1."""
    low, middle, high = np.quantile(drawn, [0.025, 0.5, 0.975])
    if groups is not None:
        wider = stretch(groups, 0.025)
        low, high = (np.clip(middle + (v - middle) * wider, least, 1) for v in (low, high))
        low, high = (low, high) if len(np.unique(groups)) > 1 else (least, 1.0)
    return Interval(
        value=float(point), ci_low=float(min(low, point)), ci_high=float(max(high, point))
    )


def intervals(
    names: Sequence[str], point: np.ndarray, drawn: np.ndarray, *, groups: np.ndarray | None = None
) -> dict[str, Interval]:
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
    chunks = draw(y, predictions, classes=classes, samples=samples, seed=seed, groups=groups)
    return np.concatenate([chunk.f1 for chunk in chunks])


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
    return label_f1(
        y, predictions, classes=classes, samples=samples, seed=seed, groups=groups
    ).mean(axis=-1)
