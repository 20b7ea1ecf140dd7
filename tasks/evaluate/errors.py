"""Tables of errors on the test rows, for a person to read. Nothing is edited."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from tasks.curate.checks.label_noise import MIN_ROWS_PER_LABEL, label_issues
from tasks.figures import Figures
from tasks.labels import are_label_sets, decode, encode, label_of, predict_codes
from tasks.records import Label, Record, label_text
from tasks.statistics.probability_scores import confident_mistakes

TABLES = ("mistakes", "confusion_pairs", "likely_label_errors")
MOST_ROWS = 50  # of a table
MOST_IDS = 20  # of a confusion

Side = Literal["predicted alone", "true alone"]


class ConfusionPair(Figures):
    """Rows of the label `true` that were answered with `predicted`, and their share of its rows."""

    true: str
    predicted: str
    rows: int
    share: float
    ids: str


class LabelSetErrors(Figures):
    """Rows that the model alone, or the test set alone, gives `label`.

    `share` is of all rows that this side gives it.
    """

    label: str
    side: Side
    rows: int
    share: float
    ids: str


class Mistake(Figures):
    """A wrong answer, with the probabilities of the answer and of the true label.

    Of label sets they are those of the most confident wrong decision, which is about `label`.
    """

    id: str
    true: str
    predicted: str
    score: float
    score_of_true: float
    text: str
    label: str | None = None


class LikelyLabelError(Figures):
    """A test row whose `label` is likely wrong, the probability of it, and the `likely` one."""

    id: str
    label: str
    likely: str
    score_of_label: float
    text: str


def error_tables(
    rows: list[Record], predicted: list[Label], p: np.ndarray | None, labels: list[str]
) -> dict[str, Sequence[Figures]]:
    """TABLES; without probabilities `p`, shape (rows, labels), `confusion_pairs` alone."""
    tables: dict[str, Sequence[Figures]] = {
        "confusion_pairs": label_set_errors(rows, predicted, labels)
        if are_label_sets([label_of(r) for r in rows])
        else confusion_pairs(rows, predicted)
    }
    if p is not None:
        tables["mistakes"] = mistakes(rows, predicted, p, labels)
        tables["likely_label_errors"] = likely_label_errors(rows, p, labels)
    return tables


def confusion_pairs(rows: list[Record], predicted: list[Label]) -> list[ConfusionPair]:
    """Which label was taken for which, most rows first."""
    sizes = Counter(label_text(r.label) for r in rows)
    ids: dict[tuple[str, str], list[str]] = defaultdict(list)
    for r, answer in zip(rows, predicted, strict=True):
        if answer != r.label:
            ids[label_text(r.label), label_text(answer)].append(r.id)
    pairs = [
        ConfusionPair(true=true, predicted=answer, **_counts(found, sizes[true]))
        for (true, answer), found in ids.items()
    ]
    return sorted(pairs, key=lambda p: (-p.rows, p.true, p.predicted))


def label_set_errors(
    rows: list[Record], predicted: list[Label], labels: list[str]
) -> list[LabelSetErrors]:
    """Wrong decisions by label and side, most rows first."""
    sizes: Counter[tuple[str, Side]] = Counter()
    ids: dict[tuple[str, Side], list[str]] = defaultdict(list)
    for r, answer in zip(rows, predicted, strict=True):
        for side, has, lacks in _sides(set(r.labels), set(answer)):
            for label in has & set(labels):
                sizes[label, side] += 1
                if label not in lacks:
                    ids[label, side].append(r.id)
    errors = [
        LabelSetErrors(label=label, side=side, **_counts(found, sizes[label, side]))
        for (label, side), found in ids.items()
    ]
    return sorted(errors, key=lambda e: (-e.rows, e.label, e.side))


def _sides(true: set[str], predicted: set[str]) -> Iterator[tuple[Side, set[str], set[str]]]:
    yield "predicted alone", predicted, true
    yield "true alone", true, predicted


def _counts(ids: list[str], size: int) -> dict[str, Any]:
    share = round(len(ids) / size, 4)
    return {"rows": len(ids), "share": share, "ids": ", ".join(sorted(ids)[:MOST_IDS])}


def mistakes(
    rows: list[Record], predicted: list[Label], p: np.ndarray, labels: list[str]
) -> list[Mistake]:
    """The most confident mistakes: of the model, or of whoever labelled the test rows."""
    true = encode([label_of(r) for r in rows], labels)
    if true.ndim == 1:
        found = [(i, a, b, None) for i, a, b in confident_mistakes(true, p, MOST_ROWS)]
    else:
        wrong = np.where((p >= 0.5) != (true > 0), np.maximum(p, 1 - p), 0.0)
        order = np.argsort(-wrong.max(axis=1), kind="stable")[:MOST_ROWS]
        worst = [(i, wrong[i].max(), wrong[i].argmax()) for i in order if wrong[i].max() > 0]
        found = [(i, score, 1 - score, labels[k]) for i, score, k in worst]
    return [
        Mistake(
            id=rows[i].id,
            true=label_text(rows[i].label),
            predicted=label_text(predicted[i]),
            score=round(float(score), 4),
            score_of_true=round(float(score_of_true), 4),
            text=rows[i].text,
            label=label,
        )
        for i, score, score_of_true, label in found
    ]


def likely_label_errors(
    rows: list[Record], p: np.ndarray, labels: list[str]
) -> list[LikelyLabelError]:
    """Test rows whose label is likely wrong by confident learning, the least likely label first.

    The model has not seen these rows, so its probabilities are out of sample, as the method
    requires (Northcutt et al. 2021, arXiv:1911.00068). Empty where a label has fewer than
    MIN_ROWS_PER_LABEL rows.
    """
    y = encode([label_of(r) for r in rows], labels)
    several = y.ndim == 2
    hot = y if several else np.eye(len(labels), dtype=np.int64)[y]
    if not rows or hot.sum(axis=0).min() < MIN_ROWS_PER_LABEL:
        return []
    score = np.where(hot > 0, p, 1 - p).min(axis=1) if several else p[np.arange(len(y)), y]
    likely = decode(predict_codes(p, multi_label=several), labels)
    wrong = label_issues(y, p)
    order = [i for i in np.argsort(score, kind="stable") if wrong[i]]
    return [
        LikelyLabelError(
            id=rows[i].id,
            label=label_text(rows[i].label),
            likely=label_text(likely[i]),
            score_of_label=round(float(score[i]), 4),
            text=rows[i].text,
        )
        for i in order[:MOST_ROWS]
    ]
