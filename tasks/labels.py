"""Encode labels as numbers and decode them: one label per text, or a set in a multi-label project.

One label is encoded as an index and decided by softmax and argmax. A label set is a row of zeros
and ones, and each label is decided by its sigmoid and a threshold of one half. Functions tell the
two apart by the dimensions of an array or the items of a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tasks.records import Label, Record, label_text

if TYPE_CHECKING:
    import numpy as np

MULTI_LABEL = "multi_label_classification"  # `problem_type` in a transformers config


def are_label_sets(labels: Any) -> bool:
    """True for label sets: an array of two dimensions, or a sequence of tuples or lists."""
    dimensions = getattr(labels, "ndim", None)
    if dimensions is not None:
        return bool(dimensions == 2)
    return len(labels) > 0 and isinstance(labels[0], (tuple, list))


def encode(labels: Sequence[Label] | Sequence[list[str]], names: Sequence[str]) -> np.ndarray:
    """Labels as indices in `names`, shape (rows,), or label sets as 0 and 1, shape (rows, labels).

    An unknown label is -1, and is ignored in a label set.
    """
    import numpy as np

    at = {name: i for i, name in enumerate(names)}
    if not are_label_sets(labels):
        return np.array([at.get(str(label), -1) for label in labels], dtype=np.int64)
    codes = np.zeros((len(labels), len(names)), dtype=np.int64)
    for row, label_set in zip(codes, labels, strict=True):
        row[[at[label] for label in label_set if label in at]] = 1
    return codes


def labels_in(labels: Iterable[Label]) -> set[str]:
    """Every label that occurs in the labels or label sets."""
    return {name for label in labels for name in ([label] if isinstance(label, str) else label)}


def unknown_labels(labels: Iterable[Label], names: Sequence[str]) -> set[str]:
    """The labels, alone or in sets, that are not in `names`."""
    return labels_in(labels) - set(names)


def decode(codes: np.ndarray, names: Sequence[str]) -> list[Label]:
    """The labels or label sets that `encode` encoded as `codes`."""
    if codes.ndim == 1:
        return [names[int(i)] for i in codes]
    return [tuple(sorted(names[i] for i in row.nonzero()[0])) for row in codes]


def label_of(record: Record) -> Label:
    """The label, or label set, of a record that must have one."""
    assert record.label is not None, record.id
    return record.label


def convert_answer(answer: Label, *, multi_label: bool) -> Label:
    """The answer as a label set with `multi_label`, otherwise as a label.

    A set of one is its label. Another set becomes a text that is none of the labels.
    """
    if multi_label == isinstance(answer, tuple):
        return answer
    return (answer,) if isinstance(answer, str) else label_text(answer)


def probabilities(logits: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Probabilities of the same shape, float64: softmax over the labels, or a sigmoid for each."""
    from scipy.special import expit, softmax

    logits = logits.astype("float64")
    return expit(logits) if multi_label else softmax(logits, axis=-1)


def predict_codes(scores: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """The codes of the most probable label, or of the labels with a probability of 0.5 or more."""
    return (scores >= 0.5).astype("int64") if multi_label else scores.argmax(axis=1)


def confidence(scores: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """The probability of each row's answer; for a label set, of the least certain of its labels."""
    import numpy as np

    return np.maximum(scores, 1 - scores).min(axis=1) if multi_label else scores.max(axis=1)
