"""Scores of a model that answers each text with a set of labels."""

from __future__ import annotations

import numpy as np

from tasks.statistics.bootstrap import Bootstrap, Tallies
from tasks.statistics.scores import LabelScore, Scores

SUMMARY = (
    "f1_macro",
    "f1_micro",
    "precision_macro",
    "recall_macro",
    "subset_accuracy",
    "hamming_loss",
)


def score_label_sets(
    y: np.ndarray, z: np.ndarray, labels: list[str], *, bootstrap: Bootstrap
) -> Scores:
    """SUMMARY with 95% intervals, the scores of each label, and a confusion matrix per label.

    `y` (true) and `z` (predicted) are 0 and 1, shape (rows, labels). Subset accuracy is the share of
    rows whose whole set is right, Hamming loss the share of wrong decisions. Figures are
    scikit-learn's.
    """
    from sklearn.metrics import (
        accuracy_score,
        f1_score,
        hamming_loss,
        multilabel_confusion_matrix,
        precision_recall_fscore_support,
    )

    p, r, f, n = precision_recall_fscore_support(y, z, average=None, zero_division=0)
    micro = f1_score(y, z, average="micro", zero_division=0)
    values = [f.mean(), micro, p.mean(), r.mean(), accuracy_score(y, z), hamming_loss(y, z)]
    chunks = list(bootstrap.draw(y, [z], classes=len(labels)))
    drawn = np.concatenate([_summary_of(chunk) for chunk in chunks])
    return Scores(
        rows=len(y),
        summary=bootstrap.intervals(SUMMARY, values, drawn),
        labels=label_scores(labels, (p, r, f, n), chunks, bootstrap=bootstrap),
        more={},
        confusion=dict(zip(labels, multilabel_confusion_matrix(y, z).tolist(), strict=True)),
    )


def label_scores(
    labels: list[str],
    figures: tuple[np.ndarray, ...],
    chunks: list[Tallies],
    *,
    bootstrap: Bootstrap,
) -> dict[str, LabelScore]:
    """Precision, recall and F1 of each label, with the 95% interval of F1.

    `figures` are those of scikit-learn's precision_recall_fscore_support; `chunks` are resamples of
    one model.
    """
    drawn = np.concatenate([chunk.f1[:, 0] for chunk in chunks])
    scores = {}
    for i, (label, p, r, f, n) in enumerate(zip(labels, *figures, strict=True)):
        f1 = bootstrap.interval(f, drawn[:, i])
        scores[label] = LabelScore(
            precision=float(p),
            recall=float(r),
            f1=f1.value,
            f1_ci_low=f1.ci_low,
            f1_ci_high=f1.ci_high,
            rows=int(n),
        )
    return scores


def _summary_of(tallies: Tallies) -> np.ndarray:
    """SUMMARY of one model in each resample, shape (samples, figures)."""
    hits, predicted, true = (
        counts[:, 0].sum(axis=1) for counts in (tallies.hits, tallies.predicted, tallies.true)
    )
    f1, precision, recall = (
        values[:, 0].mean(axis=1) for values in (tallies.f1, tallies.precision, tallies.recall)
    )
    micro = 2 * hits / np.maximum(predicted + true, 1)
    wrong = (predicted + true - 2 * hits) / (tallies.rows * tallies.hits.shape[2])
    return np.column_stack([f1, micro, precision, recall, tallies.accuracy[:, 0], wrong])
