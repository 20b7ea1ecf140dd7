"""What is said of one model on one set of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.labels import are_label_sets, encode, unknown_labels
from tasks.records import Label
from tasks.statistics import bootstrap, label_sets
from tasks.statistics.scores import Scores

SUMMARY = ("accuracy", "precision_macro", "recall_macro", "f1_macro")
MORE = ("balanced_accuracy", "f1_micro", "f1_weighted", "matthews")  # what some ask for beside


def f1_macro(true: Any, predicted: Any, labels: list[Any]) -> float:
    """scikit-learn's macro-F1 over `labels`; a label without a row or an answer counts as 0. Of label sets too, or of 0 and 1
    in their place, shape (rows, labels)."""
    from sklearn.metrics import f1_score

    if are_label_sets(true):
        y, z = (v if isinstance(v, np.ndarray) else encode(v, labels) for v in (true, predicted))
        return float(f1_score(y, z, average="macro", zero_division=0.0))
    return float(f1_score(true, predicted, labels=labels, average="macro", zero_division=0.0))


def f1_by_label(true: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """scikit-learn's F1 of each label, shape (labels,), of indices, shape (rows,), or 0 and 1, shape (rows, labels)."""
    from sklearn.metrics import f1_score

    names = list(range(labels)) if true.ndim == 1 else None
    return np.asarray(f1_score(true, predicted, labels=names, average=None, zero_division=0.0))


def f1_in(
    y: np.ndarray,
    answers: list[np.ndarray],
    *,
    samples: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Macro-F1 over the labels that occur in `y`: of each model, shape (models,), and in each resample, shape (samples, models).
    None where no label occurs. `y` and the answers are indices, shape (rows,), or 0 and 1, shape (rows, labels)."""
    if y.ndim == 2:
        there = y.any(axis=0)
        y, answers = y[:, there], [z[:, there] for z in answers]
        n = int(there.sum())
    else:
        own = np.unique(y)
        n = len(own)
        y, answers = np.searchsorted(own, y), [_among(own, z) for z in answers]
    if not n:
        return None
    point = np.array([f1_by_label(y, z, n).mean() for z in answers])
    return point, bootstrap.macro_f1(
        y, answers, classes=n, samples=samples, seed=seed, groups=groups
    )


def _among(own: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The places of `z` in the sorted `own`; -1 for what is not there."""
    place = np.minimum(np.searchsorted(own, z), len(own) - 1)
    return np.where(own[place] == z, place, -1)


def measure(
    true: Sequence[Label],
    predicted: Sequence[Label],
    labels: list[str],
    *,
    samples: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> Scores:
    """Accuracy, macro precision, recall and F1, and under `more` MORE, each with its 95% interval; precision, recall and F1 per
    label, F1 with its interval; and the confusion matrix. For label sets what tasks/statistics/label_sets.py measures.

    The figures are scikit-learn's; the intervals are percentiles of a stratified bootstrap, or with `groups` (an index for
    each row) of one of whole groups, widened to hold the figure itself. A predicted label that is not among `labels` is a
    mistake.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    if not true or len(true) != len(predicted):
        raise ValueError(
            f"{len(true)} true and {len(predicted)} predicted labels: there must be as many, and some"
        )
    if others := unknown_labels(true, labels):
        raise ValueError(f"the true label {min(others)!r} is not among the labels")
    if are_label_sets(true):
        coded = encode(true, labels), encode(predicted, labels)
        return label_sets.measure(*coded, labels, samples=samples, seed=seed, groups=groups)
    p, r, f, n = precision_recall_fscore_support(
        true, predicted, labels=labels, average=None, zero_division=0
    )
    point = np.array([accuracy_score(true, predicted), p.mean(), r.mean(), f.mean()])
    y, z = encode(true, labels), encode(predicted, labels)
    chunks = list(
        bootstrap.draw(y, [z], classes=len(labels), samples=samples, seed=seed, groups=groups)
    )
    there = np.unique(y)
    drawn = np.concatenate([_summary(chunk) for chunk in chunks])
    more = np.concatenate([more_in(chunk, there) for chunk in chunks])
    each = np.concatenate([label_sets.f1_of_each(chunk) for chunk in chunks])
    confusion = np.zeros((len(labels), len(labels) + 1), dtype=int)
    np.add.at(confusion, (y, np.where(z < 0, len(labels), z)), 1)
    return Scores(
        rows=len(true),
        summary=bootstrap.intervals(SUMMARY, point, drawn, groups=groups),
        labels=label_sets.by_label(labels, (p, r, f, n), each, groups=groups),
        more={
            name: bootstrap.interval(
                value, more[:, i], groups=groups, least=-1.0 if name == "matthews" else 0.0
            )
            for i, (name, value) in enumerate(zip(MORE, _more(y, z, len(labels)), strict=True))
        },
        confusion=confusion[:, : len(labels)].tolist(),
    )


def _more(y: np.ndarray, z: np.ndarray, labels: int) -> list[float]:
    """MORE, scikit-learn's."""
    from sklearn.metrics import f1_score, matthews_corrcoef, recall_score

    names = list(range(labels))
    return [
        float(recall_score(y, z, labels=np.unique(y).tolist(), average="macro", zero_division=0.0)),
        float(f1_score(y, z, labels=names, average="micro", zero_division=0.0)),
        float(f1_score(y, z, labels=names, average="weighted", zero_division=0.0)),
        float(matthews_corrcoef(y, z)),
    ]


def _summary(chunk: bootstrap.Tallies) -> np.ndarray:
    """SUMMARY of the one model in each resample, shape (samples, figures)."""
    macro = (v[:, 0].mean(axis=-1) for v in (chunk.precision, chunk.recall, chunk.f1))
    return np.column_stack([chunk.accuracy[:, 0], *macro])


def more_in(chunk: bootstrap.Tallies, there: np.ndarray) -> np.ndarray:
    """MORE of the one model in each resample, shape (samples, figures); `there` are the labels that have rows."""
    hits, said, true = (v[:, 0] for v in (chunk.hits, chunk.predicted, chunk.true))
    rows = chunk.rows.astype(np.float64)
    micro = 2 * hits.sum(axis=1) / (said.sum(axis=1) + true.sum(axis=1))
    weighted = (chunk.f1[:, 0] * true).sum(axis=1) / rows
    # Gorodkin 2004: an answer that is no label is one more class, which no row has; 0 where one class is all there is
    other = rows - said.sum(axis=1)
    above = chunk.right[:, 0] * rows - (said * true).sum(axis=1)
    below = (rows**2 - (said**2).sum(axis=1) - other**2) * (rows**2 - (true**2).sum(axis=1))
    matthews = above / np.sqrt(np.where(below > 0, below, np.inf))
    return np.column_stack([chunk.recall[:, 0][:, there].mean(axis=1), micro, weighted, matthews])
