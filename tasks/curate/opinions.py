"""What a simple classifier, trained on the other rows, makes of each row's label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.encoder.linear_probe import fit_probe
from tasks.labels import are_label_sets, confidence, decode, encode, label_of, predict_codes
from tasks.records import Label, Record, label_text
from tasks.statistics import stratified_split

if TYPE_CHECKING:
    import numpy as np

FOLDS = 5
MOST = 20_000  # rows that one fold learns from: more change the probe little, and time must grow with rows only


@dataclass(frozen=True)
class Opinions:
    """Out-of-fold probabilities: `p` has a row for each record (`rows`: id to row) and a column for each of `names`.

    `labels` holds the records' own, as tasks/labels.py codes them. Of label sets each column is a probability of its own.
    """

    names: list[str]
    rows: dict[str, int]
    p: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(
        cls, records: list[Record], vectors: Callable[[list[Record]], np.ndarray]
    ) -> Opinions | None:
        """None while a label has fewer than two rows (of label sets also: while fewer than two rows lack it).

        The probe is logistic regression on the encoder's embeddings, cross-fitted (out-of-sample probabilities as in
        confident learning: Northcutt et al. 2021, arXiv:1911.00068).
        """
        import numpy as np
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        own = [label_of(r) for r in records]
        counts = Counter(label for r in records for label in r.labels)
        rare = min(
            (min(n, len(records) - n) if are_label_sets(own) else n for n in counts.values()),
            default=0,
        )
        if len(counts) < 2 or rare < 2:
            return None
        names = sorted(counts)
        y = encode(own, names)
        x = vectors(records)
        p = np.zeros((len(records), len(names)))
        with threadpool_limits(
            1
        ):  # on products this small, threads wait for one another: fifteen times slower on 2 cores
            for train, test in _folds(records, y, min(FOLDS, rare)):
                some = _some(train, y)
                probe = fit_probe(x[some], [own[i] for i in some])
                columns = np.array([names.index(str(k)) for k in probe.classes_])
                p[np.ix_(test, columns)] = probe.predict_proba(x[test])
        return cls(names, {r.id: i for i, r in enumerate(records)}, p, y)

    def know(self, records: list[Record]) -> bool:
        """True where each record, with its label, was among those that the probe saw."""
        return all(
            (i := self.rows.get(r.id)) is not None and self.label(i) == r.label for r in records
        )

    def label(self, row: int) -> Label:
        """The label, or label set, with which the probe saw the record in this row."""
        return decode(self.labels[row : row + 1], self.names)[0]

    def of_rows(self, records: list[Record]) -> np.ndarray:
        return self.p[[self.rows[r.id] for r in records]]

    def own(self, record: Record) -> float:
        """The probability of the record's own label; of a set, of the least probable of its labels (of an empty one, that no
        label is there, by the most probable)."""
        return self._own(self.rows[record.id])

    def _own(self, i: int) -> float:
        if self.labels.ndim == 1:
            return float(self.p[i, self.labels[i]])
        mine = self.p[i][self.labels[i] == 1]
        return float(mine.min()) if len(mine) else 1 - float(self.p[i].max())

    def seen(self, record: Record) -> tuple[Label, float]:
        """The label that the probe sees, and its probability; of sets the labels of one half and more, and the probability of
        the least certain decision."""
        return self._seen(self.rows[record.id])

    def _seen(self, i: int) -> tuple[Label, float]:
        several, p = self.labels.ndim == 2, self.p[i : i + 1]
        label = decode(predict_codes(p, multi_label=several), self.names)[0]
        return label, float(confidence(p, multi_label=several)[0])

    def to_json(self) -> list[dict[str, Any]]:
        """A row for each record: its id, its own label's probability, the probe's label and that one's probability."""
        found = []
        for row_id, i in self.rows.items():
            label, probability = self._seen(i)
            about = {"label": label_text(label), "probability": round(probability, 4)}
            found.append({"id": row_id, "own": round(self._own(i), 4), **about})
        return found


def _folds(records: list[Record], y: np.ndarray, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows to learn from, rows to judge) `n` times, every label evenly dealt."""
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    if y.ndim == 1:
        yield from StratifiedKFold(n, shuffle=True, random_state=0).split(np.zeros(len(y)), y)
        return
    fold = np.array(stratified_split.folds(records, n))
    for k in range(n):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)


def _some(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """At most MOST of the rows, every label in its proportion and with at least one row; of label sets, any rows."""
    import numpy as np

    if len(rows) <= MOST:
        return rows
    shuffled = np.random.default_rng(0).permutation(rows)
    if y.ndim == 2:
        return shuffled[:MOST]
    by_label = [shuffled[y[shuffled] == label] for label in np.unique(y[rows])]
    return np.concatenate([part[: max(1, MOST * len(part) // len(rows))] for part in by_label])
