"""Scores of a model's probabilities: how well they are calibrated and how well they rank."""

from __future__ import annotations

import warnings

import numpy as np

from tasks.statistics.scores import ProbabilityScores, ReliabilityBin

BINS = 15
_LEAST = 1e-12


def score_probabilities(y: np.ndarray, p: np.ndarray) -> ProbabilityScores:
    """Log loss, Brier score, expected calibration error, macro ROC-AUC and macro average precision.

    `y` is indices, shape (rows,), or label sets of 0 and 1, (rows, labels); `p` is probabilities,
    (rows, labels). All but the calibration error are scikit-learn's; of label sets each is the mean
    over the labels. ROC-AUC leaves out a label that no row or every row has; None where none is left.
    """
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    names = list(range(p.shape[1]))
    p = np.clip(p.astype(np.float64), _LEAST, 1 - _LEAST)
    if y.ndim == 2:
        hot, columns = y, [(y[:, k], p[:, k]) for k in names]
        loss = np.mean([log_loss(true, q, labels=[0, 1]) for true, q in columns])
        brier = np.mean([brier_score_loss(true, q, labels=[0, 1]) for true, q in columns])
        bins, error = reliability_bins(p.ravel(), hot.ravel())
    else:
        hot, p = np.eye(len(names), dtype=np.int64)[y], p / p.sum(axis=1, keepdims=True)
        loss = log_loss(y, p, labels=names)
        brier = brier_score_loss(y, p, labels=names, scale_by_half=False)
        bins, error = reliability_bins(p.max(axis=1), (p.argmax(axis=1) == y).astype(np.int64))
    mixed = [k for k in names if 0 < hot[:, k].sum() < len(hot)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        auc = [float(roc_auc_score(hot[:, k], p[:, k])) for k in mixed]
        precision = [float(average_precision_score(hot[:, k], p[:, k])) for k in mixed]
    return ProbabilityScores(
        log_loss=float(loss),
        brier=float(brier),
        ece=error,
        roc_auc_macro=float(np.mean(auc)) if auc else None,
        average_precision_macro=float(np.mean(precision)) if precision else None,
        reliability=bins,
    )


def reliability_bins(
    confidence: np.ndarray, right: np.ndarray, bins: int = BINS
) -> tuple[list[ReliabilityBin], float]:
    """The bins of a reliability diagram that have rows, and the expected calibration error.

    The error is the mean distance of confidence and accuracy over the bins, weighted by rows. Bins
    have equal width: Naeini et al. 2015; Guo et al. 2017 (arXiv:1706.04599).
    """
    bin_of_row = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    found = []
    for k in np.unique(bin_of_row):
        rows = bin_of_row == k
        found.append(
            ReliabilityBin(
                rows=int(rows.sum()),
                confidence=float(confidence[rows].mean()),
                right=float(right[rows].mean()),
            )
        )
    error = sum(b.rows * abs(b.confidence - b.right) for b in found) / max(1, len(confidence))
    return found, float(error)


def confident_mistakes(
    y: np.ndarray, p: np.ndarray, most: int = 50
) -> list[tuple[int, float, float]]:
    """Wrongly answered rows, the most confident first: (row, probability of answer, of true label).

    The first ones are the model's worst mistakes and the test set's likely label errors. `y` is
    indices, shape (rows,).
    """
    answers = p.argmax(axis=1)
    wrong = np.flatnonzero(answers != y)
    order = wrong[np.argsort(-p[wrong, answers[wrong]], kind="stable")][:most]
    return [(int(i), float(p[i, answers[i]]), float(p[i, y[i]])) for i in order]
