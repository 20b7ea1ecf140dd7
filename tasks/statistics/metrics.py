"""Scores of one model's answers to one set of rows. All figures are scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.labels import are_label_sets, encode, unknown_labels
from tasks.records import Label
from tasks.statistics.bootstrap import Bootstrap, Tallies
from tasks.statistics.label_sets import label_scores, score_label_sets
from tasks.statistics.scores import Scores

SUMMARY = ("accuracy", "precision_macro", "recall_macro", "f1_macro")
MORE = ("balanced_accuracy", "f1_micro", "f1_weighted", "matthews")


def f1_macro(true: Any, predicted: Any, labels: list[Any]) -> float:
    """Macro-F1 over `labels`; a label without a row or an answer counts as 0.

    Takes labels, label sets, or label sets encoded as 0 and 1, shape (rows, labels).
    """
    from sklearn.metrics import f1_score

    if are_label_sets(true):
        y, z = (v if isinstance(v, np.ndarray) else encode(v, labels) for v in (true, predicted))
        return float(f1_score(y, z, average="macro", zero_division=0.0))
    return float(f1_score(true, predicted, labels=labels, average="macro", zero_division=0.0))


def f1_by_label(true: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """F1 of each label, shape (labels,), from indices (rows,) or 0 and 1 (rows, labels)."""
    from sklearn.metrics import f1_score

    names = list(range(labels)) if true.ndim == 1 else None
    return np.asarray(f1_score(true, predicted, labels=names, average=None, zero_division=0.0))


def f1_of_present_labels(
    y: np.ndarray, predictions: list[np.ndarray], *, bootstrap: Bootstrap
) -> tuple[np.ndarray, np.ndarray] | None:
    """Macro-F1 over the labels that occur in `y`; None where none does.

    Returns that of each model, shape (models,), and in each resample, (samples, models). `y` and
    the predictions are indices (rows,) or 0 and 1 (rows, labels).
    """
    if y.ndim == 2:
        present = np.flatnonzero(y.any(axis=0))
        y, predictions = y[:, present], [z[:, present] for z in predictions]
    else:
        present = np.unique(y)
        predictions = [_positions(z, present) for z in predictions]
        y = _positions(y, present)
    n = len(present)
    if not n:
        return None
    observed = np.array([f1_by_label(y, z, n).mean() for z in predictions])
    return observed, bootstrap.macro_f1(y, predictions, classes=n)


def _positions(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The positions of `values` in the sorted `present`; -1 where a value is absent."""
    place = np.minimum(np.searchsorted(present, values), len(present) - 1)
    return np.where(present[place] == values, place, -1)


def score_answers(
    true: Sequence[Label], predicted: Sequence[Label], labels: list[str], *, bootstrap: Bootstrap
) -> Scores:
    """SUMMARY and MORE with 95% intervals, the scores of each label, and the confusion matrix.

    Label sets are scored by `score_label_sets`. A predicted label that is not among `labels` is
    wrong. Raises ValueError for a true label that is not among them, and for numbers of answers
    that differ or are 0.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    if not true or len(true) != len(predicted):
        raise ValueError(
            f"{len(true)} true and {len(predicted)} predicted labels cannot be scored: pass as many "
            f"of one as of the other, at least one"
        )
    if others := unknown_labels(true, labels):
        raise ValueError(f"the true label {min(others)!r} is not among the labels {labels}")
    y, z = encode(true, labels), encode(predicted, labels)
    if y.ndim == 2:
        return score_label_sets(y, z, labels, bootstrap=bootstrap)
    p, r, f, n = precision_recall_fscore_support(
        true, predicted, labels=labels, average=None, zero_division=0
    )
    values = [accuracy_score(true, predicted), p.mean(), r.mean(), f.mean()]
    chunks = list(bootstrap.draw(y, [z], classes=len(labels)))
    summary = np.concatenate([_summary_of(chunk) for chunk in chunks])
    present = np.unique(y)
    more = np.concatenate([more_of(chunk, present) for chunk in chunks])
    return Scores(
        rows=len(true),
        summary=bootstrap.intervals(SUMMARY, values, summary),
        labels=label_scores(labels, (p, r, f, n), chunks, bootstrap=bootstrap),
        more={
            name: bootstrap.interval(value, drawn, lowest=-1.0 if name == "matthews" else 0.0)
            for name, value, drawn in zip(MORE, _more(y, z, len(labels)), more.T, strict=True)
        },
        confusion=_confusion(y, z, len(labels)),
    )


def _confusion(y: np.ndarray, z: np.ndarray, labels: int) -> list[list[int]]:
    """Counts, true labels down and predicted ones across; answers that are no label are left out."""
    counts = np.zeros((labels, labels + 1), dtype=int)
    np.add.at(counts, (y, np.where(z < 0, labels, z)), 1)
    return counts[:, :labels].tolist()


def _more(y: np.ndarray, z: np.ndarray, labels: int) -> list[float]:
    from sklearn.metrics import f1_score, matthews_corrcoef, recall_score

    names, present = list(range(labels)), np.unique(y).tolist()
    return [
        float(recall_score(y, z, labels=present, average="macro", zero_division=0.0)),
        float(f1_score(y, z, labels=names, average="micro", zero_division=0.0)),
        float(f1_score(y, z, labels=names, average="weighted", zero_division=0.0)),
        float(matthews_corrcoef(y, z)),
    ]


def _summary_of(tallies: Tallies) -> np.ndarray:
    """SUMMARY of one model in each resample, shape (samples, figures)."""
    rates = (tallies.precision, tallies.recall, tallies.f1)
    return np.column_stack([tallies.accuracy[:, 0], *(v[:, 0].mean(axis=-1) for v in rates)])


def more_of(tallies: Tallies, present: np.ndarray) -> np.ndarray:
    """MORE of one model in each resample, shape (samples, figures).

    `present` is the indices of the labels that have rows.
    """
    hits, predicted, true = (v[:, 0] for v in (tallies.hits, tallies.predicted, tallies.true))
    rows = tallies.rows.astype(np.float64)
    balanced = tallies.recall[:, 0][:, present].mean(axis=1)
    micro = 2 * hits.sum(axis=1) / (predicted.sum(axis=1) + true.sum(axis=1))
    weighted = (tallies.f1[:, 0] * true).sum(axis=1) / rows
    # Gorodkin 2004. An answer that is no label is one more class, which no row has
    other = rows - predicted.sum(axis=1)
    covariance = tallies.right[:, 0] * rows - (predicted * true).sum(axis=1)
    variances = (rows**2 - (predicted**2).sum(axis=1) - other**2) * (
        rows**2 - (true**2).sum(axis=1)
    )
    matthews = covariance / np.sqrt(np.where(variances > 0, variances, np.inf))
    return np.column_stack([balanced, micro, weighted, matthews])
