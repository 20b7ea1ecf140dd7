"""Bootstrap of classification metrics, for one or several models on the same rows.

Rows are resampled within their class, or, of label sets, from all rows. Rows that are alike in truth
and predictions form a cell, and the counts of the cells are drawn from a multinomial distribution:
equal in distribution to drawing rows, faster, and independent of their order (Efron and Tibshirani
1993, chapters 13 and 16).

Rows of one group (an author, a thread) are alike, so treating them as independent makes bounds too
narrow. Then whole groups are drawn (the pairs cluster bootstrap: Cameron, Gelbach and Miller 2008;
Field and Welsh 2007), groups with equal counts of cells together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tasks.figures import Interval

CHUNK = 500  # resamples held in memory at once


def group_codes(keys: Sequence[str | None]) -> np.ndarray | None:
    """The index of each row's group, shape (rows,); None where no row has one.

    A row whose key is None is a group of its own.
    """
    if not any(keys):
        return None
    codes: dict[object, int] = {}
    return np.array(
        [codes.setdefault(key or i, len(codes)) for i, key in enumerate(keys)], dtype=np.int64
    )


def f1_from_counts(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """F1 from counts of rows; 0 where nothing is true or predicted (`zero_division=0`)."""
    return np.asarray(2 * hits / np.maximum(predicted + true, 1))


@dataclass(frozen=True, slots=True)
class Tallies:
    """Counts of rows in each resample.

    `true`, `predicted` and `hits` (both) are per label, shape (samples, models, labels); `right` is
    the rows whose whole answer is right, (samples, models); `rows` all rows, (samples,).
    """

    hits: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    right: np.ndarray
    rows: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Per label; 0 where nothing is predicted."""
        return self.hits / np.maximum(self.predicted, 1)

    @property
    def recall(self) -> np.ndarray:
        """Per label; 0 where nothing is true."""
        return self.hits / np.maximum(self.true, 1)

    @property
    def f1(self) -> np.ndarray:
        """Per label; 0 where nothing is true or predicted."""
        return f1_from_counts(self.hits, self.predicted, self.true)

    @property
    def accuracy(self) -> np.ndarray:
        """The share of rows whose whole answer is right, shape (samples, models)."""
        return np.asarray(self.right / self.rows[:, None])


@dataclass(frozen=True, slots=True)
class Cells:
    """Kinds of rows that are alike in truth and predictions.

    `counts` is the rows of each cell and `cell` the cell of each row. `true`, and for each model
    `predicted` and `hits` (both), are 0 or 1 per cell and label; `right` is 1 where a model's whole
    answer is right. `first` is the true label where rows have one.
    """

    counts: np.ndarray
    cell: np.ndarray
    first: np.ndarray
    true: np.ndarray
    predicted: list[np.ndarray]
    hits: list[np.ndarray]
    right: list[np.ndarray]


def tabulate(y: np.ndarray, predictions: list[np.ndarray], *, classes: int) -> Cells:
    """The cells of these rows, in an order that is independent of the rows' order.

    `y` and each of `predictions` are indices, shape (rows,), where a prediction outside
    0..classes-1 is no label; or label sets of 0 and 1, shape (rows, classes).
    """
    if y.ndim == 2:
        table = np.hstack([y, *predictions])
    else:
        known = [np.where((p >= 0) & (p < classes), p, classes) for p in predictions]
        table = np.stack([y, *known], axis=1)
    cells, cell, counts = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    hot = np.split(cells, 1 + len(predictions), axis=1)
    if y.ndim == 1:
        hot = [column == np.arange(classes) for column in hot]
    true, *predicted = (values.astype(np.int64) for values in hot)
    right = [(true == p).all(axis=1).astype(np.int64) for p in predicted]
    hits = [true * p for p in predicted]
    return Cells(counts, cell.ravel(), cells[:, 0], true, predicted, hits, right)


def count_group_kinds(
    cell: np.ndarray, groups: np.ndarray
) -> tuple[list[Mapping[int, int]], np.ndarray]:
    """The kinds of groups, each as rows by cell, and the number of groups of each kind."""
    rows: dict[int, Counter[int]] = defaultdict(Counter)
    for c, g in zip(cell.tolist(), groups.tolist(), strict=True):
        rows[g][c] += 1
    kinds = sorted(Counter(tuple(sorted(held.items())) for held in rows.values()).items())
    return [dict(kind) for kind, _ in kinds], np.array([n for _, n in kinds])


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How resamples are drawn: how many, the seed, and the index of each row's group, if any.

    The methods take `y` and `predictions` as `tabulate` does; the models share the resampled rows.
    """

    samples: int
    seed: int
    groups: np.ndarray | None = None

    def of_rows(self, rows: np.ndarray) -> Bootstrap:
        """The same for some of the rows, given by their indices."""
        return self if self.groups is None else replace(self, groups=self.groups[rows])

    @property
    def group_count(self) -> int | None:
        """The number of groups; None where rows have none."""
        return None if self.groups is None else len(np.unique(self.groups))

    def draw(
        self, y: np.ndarray, predictions: list[np.ndarray], *, classes: int
    ) -> Iterator[Tallies]:
        """Resamples, in chunks of CHUNK.

        Without groups each class keeps its number of rows. With groups the rows of a class, and all
        rows, differ from one resample to the next.
        """
        from scipy.sparse import csr_array

        cells = tabulate(y, predictions, classes=classes)
        hits = [csr_array(h) for h in cells.hits]
        predicted = [csr_array(p) for p in cells.predicted]
        true = csr_array(cells.true)
        for drawn in self.draw_cells(cells, stratified=y.ndim == 1):
            yield Tallies(
                hits=np.stack([drawn @ h for h in hits], axis=1),
                predicted=np.stack([drawn @ p for p in predicted], axis=1),
                true=np.repeat((drawn @ true)[:, None], len(predictions), axis=1),
                right=np.stack([drawn @ r for r in cells.right], axis=1),
                rows=drawn.sum(axis=1),
            )

    def draw_cells(self, cells: Cells, *, stratified: bool) -> Iterator[np.ndarray]:
        """How often each cell is drawn, shape (chunk, cells); groups take precedence over classes."""
        rng = np.random.default_rng(self.seed)
        sizes = [min(CHUNK, self.samples - start) for start in range(0, self.samples, CHUNK)]
        if self.groups is not None:
            kinds, many = count_group_kinds(cells.cell, self.groups)
            rows = _sparse_rows(kinds, cells.counts.size)
            for size in sizes:
                yield rng.multinomial(many.sum(), many / many.sum(), size=size) @ rows
            return
        strata = cells.first if stratified else np.zeros_like(cells.first)
        members = [np.flatnonzero(strata == c) for c in np.unique(strata)]
        for size in sizes:
            drawn = np.zeros((size, cells.counts.size), dtype=np.int64)
            for member in members:
                n = cells.counts[member]
                drawn[:, member] = rng.multinomial(n.sum(), n / n.sum(), size=size)
            yield drawn

    def label_f1(self, y: np.ndarray, predictions: list[np.ndarray], *, classes: int) -> np.ndarray:
        """F1 of each label in each resample, shape (samples, models, classes)."""
        return np.concatenate([t.f1 for t in self.draw(y, predictions, classes=classes)])

    def macro_f1(self, y: np.ndarray, predictions: list[np.ndarray], *, classes: int) -> np.ndarray:
        """The mean of `label_f1` over the labels, shape (samples, models)."""
        return self.label_f1(y, predictions, classes=classes).mean(axis=-1)

    def interval(self, value: float, drawn: np.ndarray, *, lowest: float = 0.0) -> Interval:
        """`value` with its 95% interval: percentiles of `drawn`, shape (samples,).

        It always contains `value`: with few rows per label all resamples can lie below. It is
        widened where groups are few; a single group gives `lowest` (the least possible value) to 1.
        """
        low, middle, high = np.quantile(drawn, [0.025, 0.5, 0.975])
        if self.groups is not None:
            factor = self.widening(0.025)
            low, high = (np.clip(middle + (v - middle) * factor, lowest, 1) for v in (low, high))
            low, high = (lowest, 1.0) if self.group_count == 1 else (low, high)
        ends = {"ci_low": float(min(low, value)), "ci_high": float(max(high, value))}
        return Interval(value=float(value), **ends)

    def intervals(
        self, names: Sequence[str], values: Sequence[float] | np.ndarray, drawn: np.ndarray
    ) -> dict[str, Interval]:
        """The `interval` of each figure by name; `drawn` has the shape (samples, figures)."""
        figures = zip(names, values, drawn.T, strict=True)
        return {name: self.interval(value, column) for name, value, column in figures}

    def widening(self, alpha: float) -> float:
        """The factor by which a one-sided bound at `alpha` is widened for few groups; 1 without.

        Quantiles of Student's t with groups - 1 degrees of freedom replace normal ones, times the
        square root of groups / (groups - 1): Cameron and Miller 2015, "A practitioner's guide to
        cluster-robust inference", section VI.
        """
        from scipy.stats import norm, t

        n = self.group_count or 0
        if n < 2 or alpha >= 0.5:
            return 1.0
        return float(t.ppf(1 - alpha, n - 1) / norm.ppf(1 - alpha) * (n / (n - 1)) ** 0.5)


def _sparse_rows(kinds: Sequence[Mapping[int, int]], cells: int) -> Any:
    """The rows of each kind of group by cell, as a sparse matrix (kinds, cells)."""
    from scipy.sparse import csr_array

    kind = [k for k, rows in enumerate(kinds) for _ in rows]
    cell = [c for rows in kinds for c in rows]
    rows = [n for rows in kinds for n in rows.values()]
    return csr_array((rows, (kind, cell)), shape=(len(kinds), cells), dtype=np.int64)
