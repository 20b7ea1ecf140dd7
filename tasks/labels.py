"""A text's labels as numbers and back: one of them, or in a multi-label project any of them.

One label is an index, and its score is compared with the others (softmax, argmax). A set of labels is a row of zeros and
ones, and each score is compared with one half (sigmoid). Arrays tell which is meant by their dimensions, lists by what they
hold; so what reads them need not ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tasks.records import Label, Record, label_text

if TYPE_CHECKING:
    import numpy as np

MULTI_LABEL = "multi_label_classification"  # transformers' word for it, in a model's config


def are_label_sets(found: Any) -> bool:
    """True for label sets: an array of two dimensions, or a sequence of sequences that are not text."""
    dimensions = getattr(found, "ndim", None)
    return (
        dimensions == 2
        if dimensions is not None
        else len(found) > 0 and isinstance(found[0], (tuple, list))
    )


def encode(found: Sequence[Label] | Sequence[list[str]], names: Sequence[str]) -> np.ndarray:
    """Of labels, each one's index in `names` or -1, shape (rows,); of label sets, 0 and 1, shape (rows, labels).

    In a set, what is not among the names is left out: `unknown_labels` finds it.
    """
    import numpy as np

    at = {name: i for i, name in enumerate(names)}
    if not are_label_sets(found):
        return np.array([at.get(str(label), -1) for label in found], dtype=np.int64)
    coded = np.zeros((len(found), len(names)), dtype=np.int64)
    for row, own in zip(coded, found, strict=True):
        row[[at[label] for label in own if label in at]] = 1
    return coded


def labels_in(found: Iterable[Label]) -> set[str]:
    """Every label that stands there, alone or in sets."""
    return {label for own in found for label in ([own] if isinstance(own, str) else own)}


def unknown_labels(found: Iterable[Label], names: Sequence[str]) -> set[str]:
    """The labels, alone or in sets, that are not among `names`."""
    return labels_in(found) - set(names)


def decode(coded: np.ndarray, names: Sequence[str]) -> list[Label]:
    """The labels or label sets that `coded` stands for."""
    if coded.ndim == 1:
        return [names[int(i)] for i in coded]
    return [tuple(sorted(names[i] for i in row.nonzero()[0])) for row in coded]


def label_of(record: Record) -> Label:
    """The label, or label set, of a record that must have one."""
    assert record.label is not None, record.id
    return record.label


def convert_answer(answer: Label, *, multi_label: bool) -> Label:
    """The answer of a model that may be of the other kind: a label as a set of one, a set of one as a label. Another set is no
    label, so as one it is wrong."""
    if multi_label == isinstance(answer, tuple):
        return answer
    return (answer,) if isinstance(answer, str) else label_text(answer)


def probabilities(logits: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Of the same shape, float64: softmax over the labels, or each label's own sigmoid."""
    from scipy.special import expit, softmax

    return (
        expit(logits.astype("float64"))
        if multi_label
        else softmax(logits.astype("float64"), axis=-1)
    )


def predict_codes(scores: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """The codes that probabilities decide for: the most probable label, or those of one half and more."""
    return (scores >= 0.5).astype("int64") if multi_label else scores.argmax(axis=1)


def confidence(scores: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """For each row the probability of what is decided: of the most probable label; of a set, of its least certain decision."""
    import numpy as np

    return np.maximum(scores, 1 - scores).min(axis=1) if multi_label else scores.max(axis=1)
