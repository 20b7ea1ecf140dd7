"""Scores on parts of the test rows: by length, by label, by kept column, and by the project's rules.

A slice depends on the rows alone, never on an answer, so every model is scored on the same slices.
Those that the project file names may be judged (tasks/verdict/guardrails.py), the others are only
shown. Of many slices some look bad by chance: read the intervals.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tasks.figures import Figures, Interval
from tasks.labels import encode, label_of
from tasks.project import SliceRule
from tasks.records import NO_LABEL, Label, Record
from tasks.statistics.bootstrap import Bootstrap
from tasks.statistics.metrics import f1_of_present_labels
from tasks.text.tokens import split_words

MIN_SLICE_ROWS = 30  # with fewer a slice is shown, but never judged
MOST_VALUES = 20  # of a column; rows with rarer values are the slice `other`
LENGTHS = ("short", "middle", "long")
SHOWN_SAMPLES = 1000  # resamples at most for a slice that is only shown: there may be hundreds
EMPTY = "(empty)"  # the value of a row that has none in a column


class SliceScore(Figures):
    """The scores of one slice; `judged` is true where the verdict may depend on it.

    `f1_macro` is over the labels that occur in the slice, None where no row has any; both figures
    are None of no rows. Of label sets `accuracy` is that of whole sets.
    """

    name: str
    rows: int
    judged: bool
    f1_macro: Interval | None
    accuracy: Interval | None

    def row(self) -> dict[str, object]:
        """The slice as a row of a table."""
        row: dict[str, object] = {"slice": self.name, "rows": self.rows, "judged": self.judged}
        for name, figure in (("f1_macro", self.f1_macro), ("accuracy", self.accuracy)):
            row[name] = figure and figure.value
            row[f"{name}.ci_low"] = figure and figure.ci_low
            row[f"{name}.ci_high"] = figure and figure.ci_high
        return row


def slices_of_rows(
    records: Sequence[Record], rules: Mapping[str, SliceRule], columns: Sequence[str]
) -> list[list[str]]:
    """The names of each row's slices: of rules, then `length=short`, `label=sport`, `country=uk`."""
    slices = [[name for name, rule in rules.items() if follows_rule(r, rule)] for r in records]
    for names, length, r in zip(slices, bucket_lengths(records), records, strict=True):
        names += [f"length={length}", *(f"label={label}" for label in r.labels or (NO_LABEL,))]
    for column in columns:
        values = [str(r.lineage.get("columns", {}).get(column, EMPTY)) for r in records]
        ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
        frequent = {value for value, _ in ranked[:MOST_VALUES]}
        for names, value in zip(slices, values, strict=True):
            names.append(f"{column}={value if value in frequent else 'other'}")
    return slices


def follows_rule(record: Record, rule: SliceRule) -> bool:
    """True where every condition of the rule holds for the row."""
    n = len(split_words(record.text))
    column = record.lineage.get("columns", {}).get(rule.column)
    return (
        (rule.min_words is None or n >= rule.min_words)
        and (rule.max_words is None or n <= rule.max_words)
        and (rule.pattern is None or re.search(rule.pattern, record.text) is not None)
        and (rule.column is None or column == rule.equals)
    )


def bucket_lengths(records: Sequence[Record]) -> list[str]:
    """`short`, `middle` or `long` for each row: the terciles of words per text in these rows."""
    n = np.array([len(split_words(r.text)) for r in records])
    cuts = np.quantile(n, [1 / 3, 2 / 3], method="lower") if len(n) else []
    return [LENGTHS[int(k)] for k in np.searchsorted(cuts, n, side="left")]


def score_slices(
    records: Sequence[Record],
    predicted: Sequence[Label],
    slices: Sequence[Sequence[str]],
    *,
    labels: list[str],
    declared: Sequence[str],
    bootstrap: Bootstrap,
) -> list[SliceScore]:
    """The scores of each slice, the `declared` ones first, then by name.

    `slices` is the names of each row's slices. Only declared ones may be judged.
    """
    y, z = encode([label_of(r) for r in records], labels), encode(predicted, labels)
    members: dict[str, list[int]] = {name: [] for name in declared}
    for i, names in enumerate(slices):
        for name in names:
            members.setdefault(name, []).append(i)
    shown = replace(bootstrap, samples=min(bootstrap.samples, SHOWN_SAMPLES))
    scores = []
    for name in [*declared, *sorted(set(members) - set(declared))]:
        rows = np.array(members[name], dtype=np.int64)
        f1, accuracy = None, None
        if len(rows):
            how = (bootstrap if name in declared else shown).of_rows(rows)
            f1, accuracy = _score_slice(y[rows], z[rows], how)
        judged = name in declared and len(rows) >= MIN_SLICE_ROWS
        scores.append(
            SliceScore(name=name, rows=len(rows), judged=judged, f1_macro=f1, accuracy=accuracy)
        )
    return scores


def _score_slice(
    y: np.ndarray, z: np.ndarray, bootstrap: Bootstrap
) -> tuple[Interval | None, Interval]:
    """Macro-F1 and accuracy. Rows are drawn within their class for both; label sets have none."""
    f1 = f1_of_present_labels(y, [z], bootstrap=bootstrap)
    classes = np.unique(y, return_inverse=True)[1] if y.ndim == 1 else np.zeros(len(y), dtype=int)
    right = (y == z) if y.ndim == 1 else (y == z).all(axis=1)
    answers = np.where(right, classes, -1)
    chunks = bootstrap.draw(classes, [answers], classes=int(classes.max()) + 1)
    drawn = np.concatenate([chunk.accuracy[:, 0] for chunk in chunks])
    accuracy = bootstrap.interval(float(right.mean()), drawn)
    return f1 and bootstrap.interval(f1[0][0], f1[1][:, 0]), accuracy
