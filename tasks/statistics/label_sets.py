"""What is said of a model that gives each text a set of labels."""

from __future__ import annotations

import numpy as np

from tasks.statistics import bootstrap
from tasks.statistics.scores import LabelScore, Scores

SUMMARY = (
    "f1_macro",
    "f1_micro",
    "precision_macro",
    "recall_macro",
    "subset_accuracy",
    "hamming_loss",
)


def measure(
    y: np.ndarray,
    z: np.ndarray,
    labels: list[str],
    *,
    samples: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> Scores:
    """Macro-F1, micro-F1, macro precision and recall, subset accuracy (the share of rows whose whole set is right) and Hamming
    loss (the share of wrong decisions), each with its 95% interval; precision, recall and F1 per label, F1 with its
    interval; and each label's confusion, [[neither, predicted alone], [true alone, both]].

    `y` (true) and `z` (predicted) are 0 and 1, shape (rows, labels). The figures are scikit-learn's, the intervals percentiles
    of a bootstrap over rows, or with `groups` (an index for each row) over whole groups, widened to hold the figure itself.
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
    point = np.array(
        [f.mean(), micro, p.mean(), r.mean(), accuracy_score(y, z), hamming_loss(y, z)]
    )
    chunks = list(
        bootstrap.draw(y, [z], classes=len(labels), samples=samples, seed=seed, groups=groups)
    )
    drawn, each = (np.concatenate([of(chunk) for chunk in chunks]) for of in (_summary, f1_of_each))
    return Scores(
        rows=len(y),
        summary=bootstrap.intervals(SUMMARY, point, drawn, groups=groups),
        labels=by_label(labels, (p, r, f, n), each, groups=groups),
        more={},
        confusion=dict(zip(labels, multilabel_confusion_matrix(y, z).tolist(), strict=True)),
    )


def by_label(
    labels: list[str],
    figures: tuple[np.ndarray, ...],
    drawn: np.ndarray,
    *,
    groups: np.ndarray | None,
) -> dict[str, LabelScore]:
    """What scikit-learn's precision_recall_fscore_support gives (`figures`), by label, and F1's 95% interval: `drawn` is F1 in each
    resample, shape (samples, labels)."""
    found = {}
    for i, (label, p, r, f, n) in enumerate(zip(labels, *figures, strict=True)):
        own = bootstrap.interval(f, drawn[:, i], groups=groups)
        found[label] = LabelScore(
            precision=float(p),
            recall=float(r),
            f1=own.value,
            f1_ci_low=own.ci_low,
            f1_ci_high=own.ci_high,
            rows=int(n),
        )
    return found


def f1_of_each(chunk: bootstrap.Tallies) -> np.ndarray:
    """F1 of each label, of the one model in each resample, shape (samples, labels)."""
    return chunk.f1[:, 0]


def _summary(chunk: bootstrap.Tallies) -> np.ndarray:
    """SUMMARY of the one model in each resample, shape (samples, figures)."""
    hits, said, true = (v[:, 0].sum(axis=1) for v in (chunk.hits, chunk.predicted, chunk.true))
    macro = [v[:, 0].mean(axis=1) for v in (chunk.f1, chunk.precision, chunk.recall)]
    micro = 2 * hits / np.maximum(said + true, 1)
    wrong = (said + true - 2 * hits) / (chunk.rows * chunk.hits.shape[2])
    return np.column_stack([macro[0], micro, *macro[1:], chunk.accuracy[:, 0], wrong])
