"""Out-of-fold probabilities: what a linear probe that was not fitted on a row says of its label.

They are the out-of-sample probabilities that confident learning asks for (Northcutt et al. 2021,
arXiv:1911.00068).
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
MAX_FITTED = (
    20_000  # rows of one fit: more change the probe little, and time must grow with rows only
)


def learnable_labels(records: Sequence[Record]) -> list[str]:
    """The labels that two records or more have, sorted; of label sets, that two or more also lack."""
    return sorted(label for label, n in _scarcity(records).items() if n >= 2)


def out_of_fold_probabilities(
    records: Sequence[Record], x: np.ndarray, names: list[str], *, balanced: bool = True
) -> np.ndarray:
    """Probabilities of the labels `names`, shape (rows, labels), each row's from a probe not fitted on it.

    `x` are the records' embeddings and `names` all their labels, each of them learnable. `balanced`
    is that of `fit_probe`. There are five folds, or as many as the scarcest label has rows.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    labels = [label_of(r) for r in records]
    y = encode(labels, names)
    p = np.zeros((len(records), len(names)))
    n = min(FOLDS, *_scarcity(records).values())
    with threadpool_limits(1):  # threads wait for one another on products this small
        for rows, held_out in _folds(records, y, n):
            fitted = _sample(rows, y)
            probe = fit_probe(x[fitted], [labels[i] for i in fitted], balanced=balanced)
            columns = np.array([names.index(str(label)) for label in probe.classes_])
            p[np.ix_(held_out, columns)] = probe.predict_proba(x[held_out])
    return p


def _scarcity(records: Sequence[Record]) -> dict[str, int]:
    """The rows of each label; of label sets, of those with and those without it the fewer."""
    counts = Counter(label for r in records for label in r.labels)
    if are_label_sets([r.label for r in records]):
        return {label: min(n, len(records) - n) for label, n in counts.items()}
    return counts


def _folds(
    records: Sequence[Record], y: np.ndarray, n: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows to fit on, rows held out) of each of `n` folds, every label evenly dealt."""
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    if y.ndim == 1:
        yield from StratifiedKFold(n, shuffle=True, random_state=0).split(np.zeros(len(y)), y)
        return
    fold = np.array(stratified_split.assign_folds(records, n))
    for k in range(n):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)


def _sample(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """At most MAX_FITTED of the rows, every label in its proportion; of label sets, any rows."""
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
