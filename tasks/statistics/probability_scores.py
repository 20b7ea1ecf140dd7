"""What is said of a model's probabilities, beside its answers: are they right as often as they say, and do they rank."""

from __future__ import annotations

import warnings

import numpy as np

from tasks.statistics.scores import ProbabilityScores, ReliabilityBin

BINS = 15
_LEAST = 1e-12


def measure_scores(y: np.ndarray, p: np.ndarray) -> ProbabilityScores:
    """Log loss, Brier score, expected calibration error, macro ROC-AUC and macro average precision, and the bins of a
    reliability diagram.

    `y` holds indices, shape (rows,), or for label sets 0 and 1, shape (rows, labels); `p` the probabilities, shape (rows, labels).
    All but the calibration error are scikit-learn's; of label sets each is the mean over the labels. A label that no row or every
    row has is left out of ROC-AUC, and where nothing is left it is None.
    """
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

    sets, names = y.ndim == 2, list(range(p.shape[1]))
    hot = y if sets else np.eye(len(names), dtype=np.int64)[y]
    p = np.clip(p.astype(np.float64), _LEAST, 1 - _LEAST)
    some = [k for k in names if 0 < hot[:, k].sum() < len(hot)]
    if sets:
        loss = np.mean([log_loss(hot[:, k], p[:, k], labels=[0, 1]) for k in names])
        brier = np.mean([brier_score_loss(hot[:, k], p[:, k], labels=[0, 1]) for k in names])
        sure, right = p.ravel(), hot.ravel()
    else:
        p /= p.sum(axis=1, keepdims=True)
        loss = log_loss(y, p, labels=names)
        brier = brier_score_loss(y, p, labels=names, scale_by_half=False)
        sure, right = p.max(axis=1), (p.argmax(axis=1) == y).astype(np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        auc = [float(roc_auc_score(hot[:, k], p[:, k])) for k in some]
        precision = [float(average_precision_score(hot[:, k], p[:, k])) for k in some]
    found, error = reliability(sure, right)
    return ProbabilityScores(
        log_loss=float(loss),
        brier=float(brier),
        ece=error,
        roc_auc_macro=float(np.mean(auc)) if auc else None,
        average_precision_macro=float(np.mean(precision)) if precision else None,
        reliability=found,
    )


def reliability(
    sure: np.ndarray, right: np.ndarray, bins: int = BINS
) -> tuple[list[ReliabilityBin], float]:
    """Of each bin of confidence that has rows its rows, mean confidence and share that is right; and their expected
    calibration error, the mean distance of the two weighted by rows.

    Bins of equal width: Naeini et al. 2015; Guo et al. 2017 (arXiv:1706.04599).
    """
    at = np.minimum((sure * bins).astype(np.int64), bins - 1)
    found = []
    for k in np.unique(at):
        own = at == k
        found.append(
            ReliabilityBin(
                rows=int(own.sum()),
                confidence=float(sure[own].mean()),
                right=float(right[own].mean()),
            )
        )
    error = sum(b.rows * abs(b.confidence - b.right) for b in found) / max(1, len(sure))
    return found, float(error)


def confident_mistakes(
    y: np.ndarray, p: np.ndarray, most: int = 50
) -> list[tuple[int, float, float]]:
    """Rows that are answered wrongly, the most confident first: (row, probability of the answer, of the true label).

    High up stand the model's worst mistakes and the test set's likely label errors; a person can tell which. For indices only.
    """
    said = p.argmax(axis=1)
    wrong = np.flatnonzero(said != y)
    order = wrong[np.argsort(-p[wrong, said[wrong]], kind="stable")][:most]
    return [(int(i), float(p[i, said[i]]), float(p[i, y[i]])) for i in order]
