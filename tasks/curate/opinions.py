"""What a linear probe that was fitted on the other rows makes of each row's label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.encoder.out_of_fold import learnable_labels, out_of_fold_probabilities
from tasks.labels import confidence, decode, encode, label_of, labels_in, predict_codes
from tasks.records import Label, Record, label_text

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Opinion:
    """A row's label with its probability `own`, and the `predicted` label with its `probability`.

    Of label sets, `own` is the probability of the row's least probable label (of an empty set, that
    no label applies), and `probability` that of the least certain decision. `p` has the
    probabilities of all labels, sorted by name.
    """

    label: Label
    own: float
    predicted: Label
    probability: float
    p: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """The opinion as a line of `opinions.jsonl`."""
        return {
            "own": round(self.own, 4),
            "label": label_text(self.predicted),
            "probability": round(self.probability, 4),
        }


Opinions = dict[str, Opinion]  # by record id


def form_opinions(
    records: list[Record], vectors: Callable[[list[Record]], np.ndarray]
) -> Opinions | None:
    """The opinion of each record, from embeddings that `vectors(records)` gives.

    None while a label has fewer than two rows (of label sets also: while fewer than two rows lack it).
    """
    labels = [label_of(r) for r in records]
    names = learnable_labels(records)
    if len(names) < 2 or set(names) != labels_in(labels):
        return None
    p = out_of_fold_probabilities(records, vectors(records), names)
    y = encode(labels, names)
    several = y.ndim == 2
    predicted = decode(predict_codes(p, multi_label=several), names)
    certainty = confidence(p, multi_label=several)
    return {
        r.id: Opinion(labels[i], _own(y[i], p[i]), predicted[i], float(certainty[i]), p[i])
        for i, r in enumerate(records)
    }


def _own(y: np.ndarray, p: np.ndarray) -> float:
    """The probability of a row's own label, or label set, coded as `y`."""
    if y.ndim == 0:
        return float(p[y])
    return float(p[y == 1].min()) if y.any() else 1 - float(p.max())
