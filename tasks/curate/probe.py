"""What a simple classifier, trained on the other rows, makes of each row's label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.probe import fit_probe
from tasks.records import Record

if TYPE_CHECKING:
    import numpy as np

FOLDS = 5
MOST = 20_000  # rows that one fold learns from: more change the probe little, and time must grow with rows only


@dataclass(frozen=True)
class Opinions:
    """Out-of-fold probabilities: `p` has a row for each record (`rows`: id to row) and a column for each of `names`."""

    names: list[str]
    rows: dict[str, int]
    p: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, records: list[Record], vectors: Callable[[list[Record]], np.ndarray]) -> Opinions | None:
        """None while a label has fewer than two rows.

        The probe is logistic regression on the encoder's embeddings, cross-fitted (out-of-sample probabilities as in
        confident learning: Northcutt et al. 2021, arXiv:1911.00068).
        """
        import numpy as np
        from sklearn.model_selection import StratifiedKFold
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        counts = Counter(str(r.label) for r in records)
        if len(counts) < 2 or min(counts.values()) < 2:
            return None
        names = sorted(counts)
        y = np.array([names.index(str(r.label)) for r in records])
        x = vectors(records)
        p = np.zeros((len(records), len(names)))
        folds = StratifiedKFold(min(FOLDS, min(counts.values())), shuffle=True, random_state=0)
        with threadpool_limits(
            1
        ):  # on products this small, threads wait for one another: fifteen times slower on 2 cores
            for train, test in folds.split(x, y):
                some = _some(train, y)
                p[test] = fit_probe(x[some], y[some].tolist()).predict_proba(x[test])
        return cls(names, {r.id: i for i, r in enumerate(records)}, p, y)

    def know(self, records: list[Record]) -> bool:
        """True where each record, with its label, was among those that the probe saw."""
        return all(
            (i := self.rows.get(r.id)) is not None and self.names[self.labels[i]] == str(r.label) for r in records
        )

    def of_rows(self, records: list[Record]) -> np.ndarray:
        return self.p[[self.rows[r.id] for r in records]]

    def own(self, record: Record) -> float:
        """The probability of the record's own label."""
        i = self.rows[record.id]
        return float(self.p[i, self.labels[i]])

    def seen(self, record: Record) -> tuple[str, float]:
        """The label that the probe sees, and its probability."""
        row = self.p[self.rows[record.id]]
        return self.names[int(row.argmax())], float(row.max())

    def to_json(self) -> list[dict[str, Any]]:
        """A row for each record: its id, its own label's probability, the probe's label and that one's probability."""
        best = self.p.argmax(1)
        return [
            {
                "id": row_id,
                "own": round(float(self.p[i, self.labels[i]]), 4),
                "label": self.names[best[i]],
                "probability": round(float(self.p[i, best[i]]), 4),
            }
            for row_id, i in self.rows.items()
        ]


def _some(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """At most MOST of the rows, every label in its proportion and with at least one row."""
    import numpy as np

    if len(rows) <= MOST:
        return rows
    shuffled = np.random.default_rng(0).permutation(rows)
    by_label = [shuffled[y[shuffled] == label] for label in np.unique(y[rows])]
    return np.concatenate([part[: max(1, MOST * len(part) // len(rows))] for part in by_label])
