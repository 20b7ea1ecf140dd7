"""A row as the review ranks it: why its label is doubtful, and the rows close to it."""

from __future__ import annotations

from tasks.decisions import CHECK
from tasks.figures import Figures
from tasks.records import Label, Record, label_text

Pairs = tuple[tuple[str, float], ...]  # (id, cosine) of other rows, the most similar first


class RankedRow(Figures):
    """A row with the check that rejected it, if any, the probe's view of it, and its ranks.

    `opinion` is the label that the probe predicts with `probability`; `own` is the probability of
    the row's own label; see Assessment in tasks/review/probe.py for these and for `margin`,
    `loss` and `influence`. `ranks` are those of the last three, from 1 for the most doubtful row,
    and `rank` is their mean. `near` are the nearest training rows; `like` the rows with its label
    and opinion that are close enough to be decided with it.
    """

    record: Record
    check: str | None
    reason: str
    opinion: Label
    probability: float
    own: float
    margin: float
    loss: float
    influence: float
    ranks: dict[str, float]
    rank: float
    near: Pairs
    like: Pairs

    @property
    def id(self) -> str:
        """The record's id."""
        return self.record.id

    @property
    def doubtful(self) -> bool:
        """True if a check rejected the row, or its own label has a probability under one half."""
        return (self.check is not None and self.check != CHECK) or self.own < 0.5

    def why(self) -> str:
        """What speaks against the row's label, in one sentence."""
        label, opinion = self.record.label, self.opinion
        if self.check:
            return f"rejected as {self.check}: {self.reason}"
        if opinion == label:
            return f"the probe gives its own label only {self.own:.2f}"
        predicted = f"the probe predicts {label_text(opinion)!r} ({self.probability:.2f})"
        if not isinstance(label, tuple):
            return f"{predicted} and gives its own label {self.own:.2f}"
        added, removed = sorted({*opinion} - {*label}), sorted({*label} - {*opinion})
        changes = [f"it also has {' and '.join(map(repr, added))}"] if added else []
        changes += [f"not {' and '.join(map(repr, removed))}"] if removed else []
        return f"{predicted}: {', '.join(changes)} ({1 - self.own:.2f})"
