"""How a model does on parts of the test rows: by length, by label, by each column kept, and by the project's own rules.

A slice hangs on the rows alone, never on an answer, so every model is scored on the same ones. Those that the project file names
may be judged (tasks/verdict/guardrails.py); the others are shown. Many are shown, so some will look bad by chance: read the intervals.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tasks.figures import Figures, Interval
from tasks.labels import encode, label_of
from tasks.project import SliceRule
from tasks.records import NO_LABEL, Label, Record
from tasks.statistics import bootstrap
from tasks.statistics.metrics import f1_in
from tasks.text.tokens import words

LEAST_ROWS = 30  # with fewer a slice is shown, and never judged
MOST_VALUES = 20  # of a column; rows with rarer ones are its slice `other`
LENGTHS = ("short", "middle", "long")
SHOWN = 1000  # resamples at most for a slice that is only shown: there may be hundreds
NOTHING = "(empty)"  # how a row is counted that has no value in a column


class SliceScore(Figures):
    """The scores of one slice; `judged` is true where the verdict may depend on it."""

    name: str
    rows: int
    judged: bool
    f1_macro: Interval | None
    accuracy: Interval | None

    def row(self) -> dict[str, object]:
        """The slice as a row of a table."""
        row: dict[str, object] = {"slice": self.name, "rows": self.rows, "judged": self.judged}
        for name, own in (("f1_macro", self.f1_macro), ("accuracy", self.accuracy)):
            row |= {name: own and own.value}
            row |= {f"{name}.ci_low": own and own.ci_low, f"{name}.ci_high": own and own.ci_high}
        return row


def members(
    records: Sequence[Record], rules: Mapping[str, SliceRule], columns: Sequence[str]
) -> list[list[str]]:
    """The names of the slices that each row belongs to: `length=short`, `label=sport`, `country=uk`; of rules their names.

    Lengths are parted at the terciles of the words a text has in this test set. Empty slices are not among them.
    """
    found: list[list[str]] = [
        [name for name, rule in rules.items() if follows(r, rule)] for r in records
    ]
    for own, length, r in zip(found, lengths(records), records, strict=True):
        own += [f"length={length}", *(f"label={label}" for label in r.labels or (NO_LABEL,))]
    for column in columns:
        values = [str(r.lineage.get("columns", {}).get(column, NOTHING)) for r in records]
        # the most frequent, and where they tie the first by name: no order of rows
        ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
        named = {value for value, _ in ranked[:MOST_VALUES]}
        for own, value in zip(found, values, strict=True):
            own.append(f"{column}={value if value in named else 'other'}")
    return found


def follows(record: Record, rule: SliceRule) -> bool:
    """Whether everything that the rule gives holds for the row."""
    n = len(words(record.text))
    return (
        (rule.min_words is None or n >= rule.min_words)
        and (rule.max_words is None or n <= rule.max_words)
        and (rule.pattern is None or re.search(rule.pattern, record.text) is not None)
        and (
            rule.column is None or record.lineage.get("columns", {}).get(rule.column) == rule.equals
        )
    )


def lengths(records: Sequence[Record]) -> list[str]:
    """`short`, `middle` or `long` for each row; texts of as many words are of the same length."""
    n = np.array([len(words(r.text)) for r in records])
    cuts = np.quantile(n, [1 / 3, 2 / 3], method="lower") if len(n) else []
    return [LENGTHS[int(k)] for k in np.searchsorted(cuts, n, side="left")]


def measure(
    records: Sequence[Record],
    predicted: Sequence[Label],
    belongs: Sequence[Sequence[str]],
    *,
    labels: list[str],
    declared: Sequence[str],
    samples: int,
    seed: int,
) -> list[SliceScore]:
    """Each slice's `name`, `rows`, `judged` (whether it may be), `f1_macro` and `accuracy`, these two with 95% intervals: the
    `declared` ones first, then by name.

    Macro-F1 is over the labels that occur in the slice. A slice without rows has no figures, one in which no row has any label no
    macro-F1. Of label sets the accuracy is that of whole sets. Rows of a group are drawn together, as in the whole test set.
    """
    true, groups = [label_of(r) for r in records], bootstrap.group_codes([r.group for r in records])
    y, z = encode(true, labels), encode(predicted, labels)
    at: dict[str, list[int]] = {name: [] for name in declared}
    for i, own in enumerate(belongs):
        for name in own:
            at.setdefault(name, []).append(i)
    names = [*declared, *sorted(set(at) - set(declared))]
    found = []
    for name in names:
        own_rows = np.array(at[name], dtype=np.int64)
        f1, accuracy = None, None
        if len(own_rows):
            together = None if groups is None else groups[own_rows]
            many = samples if name in declared else min(samples, SHOWN)
            f1, accuracy = _figures(
                y[own_rows], z[own_rows], samples=many, seed=seed, groups=together
            )
        judged = name in declared and len(own_rows) >= LEAST_ROWS
        found.append(
            SliceScore(name=name, rows=len(own_rows), judged=judged, f1_macro=f1, accuracy=accuracy)
        )
    return found


def _figures(
    y: np.ndarray, z: np.ndarray, *, samples: int, seed: int, groups: np.ndarray | None
) -> tuple[Interval | None, Interval]:
    f1 = f1_in(y, [z], samples=samples, seed=seed, groups=groups)
    # a row is right or not, drawn within its class as for F1; label sets have no classes
    own = np.unique(y, return_inverse=True)[1] if y.ndim == 1 else np.zeros(len(y), dtype=np.int64)
    right = (y == z) if y.ndim == 1 else (y == z).all(axis=1)
    said, classes = np.where(right, own, -1), int(own.max()) + 1
    chunks = bootstrap.draw(own, [said], classes=classes, samples=samples, seed=seed, groups=groups)
    shares = np.concatenate([chunk.accuracy[:, 0] for chunk in chunks])
    accuracy = bootstrap.interval(float(right.mean()), shares, groups=groups)
    return None if f1 is None else bootstrap.interval(
        f1[0][0], f1[1][:, 0], groups=groups
    ), accuracy
