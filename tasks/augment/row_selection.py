"""Choose the unlabelled rows on whose label the model and the probe agree with confidence.

Among confident rows the content hash decides, not the confidence: the most confident rows teach
least. Each label gets its estimated share of the unlabelled text, so that easy labels do not
displace others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.figures import Figures
from tasks.project import SelfTraining
from tasks.records import NO_LABEL, Label, Record

if TYPE_CHECKING:
    import numpy as np

_MIN_SCORE = 1e-9  # the score is 0 where the model and the probe disagree


class Selection(Figures):
    """The figures behind a selection, by label; see SelfTrainingResult."""

    proportions: dict[str, float]
    confident: dict[str, int]
    quota: dict[str, int]


def row_quotas(
    proportions: dict[str, float], candidates: dict[str, int], *, rows: int, settings: SelfTraining
) -> dict[str, int]:
    """Rows to select per label: its proportion of `self_training.share` of all `rows`.

    At most `self_training.per_label` and the label's candidates. Where that limits one label, the
    others are reduced in proportion, but not below half of what they could have.
    """
    wanted = {k: p * settings.share * rows for k, p in proportions.items()}
    limits = {k: min(n, settings.per_label, candidates.get(k, 0)) for k, n in wanted.items()}
    scale = min((limits[k] / n for k, n in wanted.items() if n > 0), default=0.0)
    return {k: int(max(min(n * scale, limits[k]), limits[k] / 2)) for k, n in wanted.items()}


def select_rows(
    rows: list[Record],
    p: np.ndarray,
    q: np.ndarray,
    *,
    labels: list[str],
    settings: SelfTraining,
    number: int,
) -> tuple[list[Record], Selection]:
    """The selected rows by label, each in the order of their ids, and the figures behind them.

    `p` and `q` are the calibrated probabilities of the model and of the probe, each of shape (rows,
    labels). A row's score is their geometric mean for its label, and 0 where the labels differ.
    """
    import numpy as np

    best, i_row = p.argmax(axis=1), np.arange(len(rows))
    scores = np.where(best == q.argmax(axis=1), np.sqrt(p[i_row, best] * q[i_row, best]), 0.0)
    proportions = {label: float(share) for label, share in zip(labels, p.mean(axis=0), strict=True)}
    confident: dict[str, list[int]] = {label: [] for label in labels}
    for i in _confident(rows, scores, settings):
        confident[labels[best[i]]].append(i)
    counts = {label: len(indices) for label, indices in confident.items()}
    quota = row_quotas(proportions, counts, rows=len(rows), settings=settings)
    selected = [
        _label_row(rows[i], label, scores[i], number)
        for label, indices in confident.items()
        for i in indices[: quota[label]]
    ]
    return selected, _selection(proportions, counts, quota)


def select_multi_label_rows(
    rows: list[Record],
    p: np.ndarray,
    q: np.ndarray,
    *,
    labels: list[str],
    settings: SelfTraining,
    number: int,
) -> tuple[list[Record], Selection]:
    """As `select_rows`, for label sets.

    A label's score is the geometric mean of what the model and the probe give to its being
    assigned, or not. A row's score is the lowest of its labels', and 0 where one label is decided
    differently. A row is selected while one of its labels needs rows and none has
    `self_training.per_label`; rows without a label have a quota of their own.
    """
    import numpy as np

    assigned = p >= 0.5
    certainty = np.sqrt(np.where(assigned, p, 1 - p) * np.where(q >= 0.5, q, 1 - q))
    agree = (assigned == (q >= 0.5)).all(axis=1)
    scores = np.where(agree, certainty.min(axis=1), 0.0)
    sets = [
        tuple(sorted(labels[k] for k in np.flatnonzero(row))) or (NO_LABEL,) for row in assigned
    ]
    shares = [*p.mean(axis=0), (~assigned).all(axis=1).mean()]
    names = [*labels, NO_LABEL]
    proportions = {label: float(share) for label, share in zip(names, shares, strict=True)}
    confident = _confident(rows, scores, settings)
    frequencies = Counter(label for i in confident for label in sets[i])
    counts = {label: frequencies[label] for label in proportions}
    quota = row_quotas(proportions, counts, rows=len(rows), settings=settings)
    totals: Counter[str] = Counter()
    selected = []
    for i in confident:
        full = any(totals[label] >= settings.per_label for label in sets[i])
        if not full and any(totals[label] < quota[label] for label in sets[i]):
            totals.update(sets[i])
            label = tuple(name for name in sets[i] if name != NO_LABEL)
            selected.append(_label_row(rows[i], label, scores[i], number))
    return selected, _selection(proportions, counts, quota)


def _confident(rows: list[Record], scores: np.ndarray, settings: SelfTraining) -> list[int]:
    """The indices of the rows with a high enough score, in the order of the rows' ids."""
    threshold = max(settings.confidence, _MIN_SCORE)
    indices = [i for i in range(len(rows)) if scores[i] >= threshold]
    return sorted(indices, key=lambda i: rows[i].id)


def _label_row(row: Record, label: Label, score: float, number: int) -> Record:
    lineage = row.lineage | {"score": round(float(score), 4), "self_training_round": number}
    return replace(row, label=label, source="harvested", lineage=lineage)


def _selection(
    proportions: dict[str, float], confident: dict[str, int], quota: dict[str, int]
) -> Selection:
    shares = {k: round(v, 4) for k, v in proportions.items()}
    return Selection(proportions=shares, confident=confident, quota=quota)
