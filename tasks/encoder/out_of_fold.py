"""Out-of-fold probabilities of labels: each row's are from a probe that was not fitted on the row.

Confident learning needs them (Northcutt et al. 2021, arXiv:1911.00068).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tasks.encoder.linear_probe import fit_probe
from tasks.labels import are_label_sets, encode, label_of
from tasks.records import Record
from tasks.statistics import stratified_split

if TYPE_CHECKING:
    import numpy as np

FOLDS = 5
MAX_FITTED = 20_000  # rows of one fit; more change the probe little and take much longer


def learnable_labels(records: Sequence[Record]) -> list[str]:
    """The labels, sorted, that at least two records have, and with label sets at least two lack."""
    return sorted(label for label, n in _rarest_rows(records).items() if n >= 2)


def out_of_fold_probabilities(
    records: Sequence[Record], x: np.ndarray, names: list[str], *, balanced: bool = True
) -> np.ndarray:
    """Out-of-fold probabilities of the labels `names`, shape (rows, labels).

    `x` holds the records' embeddings. `names` are all their labels, each of which is learnable.
    `balanced` is that of `fit_probe`. There are FOLDS folds, or as many as the rarest label's rows.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    labels = [label_of(r) for r in records]
    y = encode(labels, names)
    p = np.zeros((len(records), len(names)))
    n = min(FOLDS, *_rarest_rows(records).values())
    with threadpool_limits(1):  # more threads are slower on matrices of this size
        for rows, held_out in _folds(records, y, n):
            fitted = _sample(rows, y)
            probe = fit_probe(x[fitted], [labels[i] for i in fitted], balanced=balanced)
            columns = np.array([names.index(str(label)) for label in probe.classes_])
            p[np.ix_(held_out, columns)] = probe.predict_proba(x[held_out])
    return p


def _rarest_rows(records: Sequence[Record]) -> dict[str, int]:
    """The rows of each label; with label sets, the rows with or without it, whichever are fewer."""
    counts = Counter(label for r in records for label in r.labels)
    if are_label_sets([r.label for r in records]):
        return {label: min(n, len(records) - n) for label, n in counts.items()}
    return counts


def _folds(
    records: Sequence[Record], y: np.ndarray, n: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows to fit on, rows held out) for each of `n` folds, stratified by label."""
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    if y.ndim == 1:
        yield from StratifiedKFold(n, shuffle=True, random_state=0).split(np.zeros(len(y)), y)
        return
    fold = np.array(stratified_split.assign_folds(records, n))
    for k in range(n):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)


def _sample(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """At most MAX_FITTED random rows, stratified by label unless the labels are sets."""
    import numpy as np

    if len(rows) <= MAX_FITTED:
        return rows
    shuffled = np.random.default_rng(0).permutation(rows)
    if y.ndim == 2:
        return shuffled[:MAX_FITTED]
    by_label = [shuffled[y[shuffled] == label] for label in np.unique(y[rows])]
    return np.concatenate(
        [part[: max(1, MAX_FITTED * len(part) // len(rows))] for part in by_label]
    )
