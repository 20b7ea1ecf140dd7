"""Where a model errs on the test rows, and which test rows may be mislabelled. For a person: nothing is edited."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from tasks.curate.checks.label_noise import MIN_ROWS_PER_LABEL, label_issues
from tasks.labels import encode, label_of
from tasks.records import Label, Record, label_text
from tasks.statistics.probability_scores import confident_mistakes

TABLES = ("mistakes", "confusion_pairs", "likely_label_errors")
MOST = 50  # rows of a table
MOST_IDS = 20  # ids of a confusion


def tables(
    rows: list[Record], said: list[Label], scores: np.ndarray | None, labels: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """`confusion_pairs`; and where the model gives probabilities, shape (rows, labels), `mistakes` and `likely_label_errors`."""
    found = {"confusion_pairs": confusion_pairs(rows, said, labels)}
    if scores is not None:
        found["mistakes"] = mistakes(rows, said, scores, labels)
        found["likely_label_errors"] = likely_label_errors(rows, scores, labels)
    return found


def confusion_pairs(
    rows: list[Record], said: list[Label], labels: list[str]
) -> list[dict[str, Any]]:
    """Which label was taken for which, most rows first: {true, predicted, rows, share, ids}, `share` of the true label's rows.

    Of label sets {label, side, rows, share, ids}: rows that the model alone gives the label (`predicted alone`, a share of
    those it gives it), and rows that have it and don't get it (`true alone`, a share of those that have it).
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    sizes: dict[tuple[str, str] | str, int] = defaultdict(int)
    several = any(isinstance(r.label, tuple) for r in rows)
    for r, predicted in zip(rows, said, strict=True):
        if not several:
            sizes[label_text(r.label)] += 1
            if predicted != r.label:
                groups[label_text(r.label), label_text(predicted)].append(r.id)
            continue
        mine, theirs = set(r.labels), set(predicted)
        for label in labels:
            for side, has, lacks in (
                ("predicted alone", theirs, mine),
                ("true alone", mine, theirs),
            ):
                sizes[label, side] += label in has
                if label in has and label not in lacks:
                    groups[label, side].append(r.id)
    names = ("label", "side") if several else ("true", "predicted")
    found = []
    for pair, ids in groups.items():
        share = round(len(ids) / sizes[pair if several else pair[0]], 4)
        row = dict(zip(names, pair, strict=True)) | {"rows": len(ids), "share": share}
        found.append(row | {"ids": ", ".join(sorted(ids)[:MOST_IDS])})
    return sorted(found, key=lambda row: (-row["rows"], row[names[0]], row[names[1]]))


def mistakes(
    rows: list[Record], said: list[Label], p: np.ndarray, labels: list[str]
) -> list[dict[str, Any]]:
    """The 50 most confident mistakes: of the model, or of whoever labelled the test rows.

    `score` is the probability of the answer and `score_of_true` of the true label; of label sets they are those of the
    surest wrong decision of the row, about `label`.
    """
    true = encode([label_of(r) for r in rows], labels)
    if true.ndim == 1:
        return [
            _row(rows[i], said[i], score, own)
            for i, score, own in confident_mistakes(true, p, MOST)
        ]
    sure = np.where((p >= 0.5) != (true > 0), np.maximum(p, 1 - p), 0.0)
    worst = sure.argmax(axis=1)
    order = [i for i in np.argsort(-sure.max(axis=1), kind="stable")[:MOST] if sure[i].max() > 0]
    return [
        _row(rows[i], said[i], sure[i, worst[i]], 1 - sure[i, worst[i]])
        | {"label": labels[worst[i]]}
        for i in order
    ]


def likely_label_errors(
    rows: list[Record], p: np.ndarray, labels: list[str]
) -> list[dict[str, Any]]:
    """Test rows whose label is likely wrong by confident learning, the least likely label first; at most 50.

    The model has not seen these rows, so its probabilities are out of sample, as the method asks (Northcutt et al. 2021,
    arXiv:1911.00068). Where a label has fewer than 10 rows nothing is listed. Nobody's label is changed: a person looks.
    """
    y = encode([label_of(r) for r in rows], labels)
    hot = y if y.ndim == 2 else np.eye(len(labels), dtype=np.int64)[y]
    if not len(rows) or hot.sum(axis=0).min() < MIN_ROWS_PER_LABEL:
        return []
    own = np.where(hot > 0, p, 1 - p).min(axis=1) if y.ndim == 2 else p[np.arange(len(y)), y]
    wrong = label_issues(y, p)
    found = [i for i in np.argsort(own, kind="stable") if wrong[i]]
    return [_suspect(rows[i], p[i], own[i], labels) for i in found[:MOST]]


def _suspect(row: Record, p: np.ndarray, own: float, labels: list[str]) -> dict[str, Any]:
    several = isinstance(row.label, tuple)
    likely = (
        tuple(sorted(labels[k] for k in np.flatnonzero(p >= 0.5)))
        if several
        else labels[int(p.argmax())]
    )
    told = {"id": row.id, "label": label_text(row.label), "likely": label_text(likely)}
    return told | {"score_of_label": round(float(own), 4), "text": row.text}


def _row(row: Record, said: Label, score: float, own: float) -> dict[str, Any]:
    return {
        "id": row.id,
        "true": label_text(row.label),
        "predicted": label_text(said),
        "score": round(float(score), 4),
        "score_of_true": round(float(own), 4),
        "text": row.text,
    }
