"""The state of one reviewer's page: the row that is shown, the choices, and what a key press does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flows.review.session import ReviewSession
from tasks.decisions import read_decisions
from tasks.records import Label, Record, label_text
from tasks.review.ranked_row import RankedRow

NEXT, BACK = {"j", "ArrowDown", "ArrowRight"}, {"k", "ArrowUp", "ArrowLeft"}

Choice = tuple[str, Label | None]  # what is decided, and the new label or label set of a relabel


@dataclass
class SimilarRows:
    """The panel for the rows like one row: the choice made so far, and the rows that it would decide."""

    rows: list[RankedRow]
    choice: Choice | None = None


class ReviewState:
    """What one open page shows, and what each key does to it. Knows no browser.

    `version` rises with every change: a key that decides counts only if the person saw the version of this moment.
    Where a text has several labels, a number puts one on or takes it off: `draft` is the set that has come of it, and
    decides nothing before Enter.
    """

    def __init__(self, session: ReviewSession) -> None:
        self.session = session
        self.labels = session.project.label_names
        self.queue = session.queue()
        self.current = session.decided.current()
        self.at = next((i for i, d in enumerate(self.queue) if d.id not in self.current), 0)
        self.like: SimilarRows | None = None
        self.draft: tuple[str, ...] | None = None
        self.message = ""
        self.version = 0

    @property
    def row(self) -> RankedRow | None:
        return self.queue[self.at] if self.queue else None

    def press(self, key: str, version: int) -> None:
        """Do what the key stands for; another key, or one pressed at a page that has changed since, does nothing."""
        is_move = key in NEXT | BACK and self.like is None
        if self.row is None or (version != self.version and not is_move):
            return
        self.current = self.session.decided.current()
        self.message = ""
        choice = self._choice(key, self.row)
        if key == "u":
            self._undo()
        elif self.like is not None:
            self._press_like(self.like, key, choice)
        elif choice and isinstance(choice[1], tuple):
            self.draft = choice[1]
        elif choice or (key == "Enter" and self.draft is not None):
            self._decide([self.row], choice or ("relabel", self.draft))
        elif is_move:
            self.at = min(max(self.at + (1 if key in NEXT else -1), 0), len(self.queue) - 1)
            self.draft = None
        elif key == "Escape":
            self.draft = None
        elif key == "l":
            self._open_like(self.row)
        self.version += 1

    def marked(self) -> Label | None:
        """The label, or label set, that is chosen and not decided yet."""
        if self.like is not None:
            return self.like.choice[1] if self.like.choice else None
        return self.draft

    def stands(self, row: RankedRow) -> Label | None:
        """The row's label, or label set, as a decision has it; without one, or when it is rejected, its own."""
        decided = self.current.get(row.id)
        return (
            row.record.label
            if decided is None or decided.label_after is None
            else decided.label_after
        )

    def _choice(self, key: str, row: RankedRow) -> Choice | None:
        if key in ("a", "r"):
            return ("accept" if key == "a" else "reject", None)
        if not (key.isascii() and key.isdecimal() and int(key) <= len(self.labels)):
            return None
        if (
            not self.session.project.multi_label
        ):  # a label beyond the ninth is chosen by its button alone
            return ("relabel", self.labels[int(key) - 1]) if int(key) else None
        return ("relabel", self._toggled(int(key), row))

    def _toggled(self, number: int, row: RankedRow) -> tuple[str, ...]:
        """The set so far with the label of that number put on or taken off; 0 is the empty set."""
        if not number:
            return ()
        before = self.marked()
        start = self.stands(row) if before is None else before
        return tuple(sorted({*(start or ())} ^ {self.labels[number - 1]}))

    def _press_like(self, like: SimilarRows, key: str, choice: Choice | None) -> None:
        if choice:
            like.choice = choice
        elif key == "Enter" and like.choice:
            self.like = None
            self._decide(like.rows, like.choice)
        elif key in ("Escape", "l"):
            self.like = None

    def _open_like(self, row: RankedRow) -> None:
        known = {d.id: d for d in self.session.ranked}
        # alone it is listed too: the next key is meant to be asked about, not to decide
        rows = [row, *(known[i] for i, _ in row.like if i in known and i not in self.current)]
        self.like, self.draft = (
            SimilarRows(rows, ("relabel", self.draft) if self.draft is not None else None),
            None,
        )

    def _decide(self, rows: list[RankedRow], choice: Choice) -> None:
        made = self.session.decided.decide([d.record for d in rows], *choice)
        self.draft = None
        seen = self.row
        self._read()
        kinds = sorted({d.decision for d in made})
        new = f" as {label_text(choice[1])}" if "relabel" in kinds else ""
        count = f"{len(made)} rows" if len(made) > 1 else "1 row"
        self.message = f"{count}: {', '.join(PAST[k] for k in kinds)}{new}  ·  u takes it back"
        at = next(i for i, d in enumerate(self.queue) if seen and d.id == seen.id)
        after = [i for i, d in enumerate(self.queue) if d.id not in self.current]
        self.at = next((i for i in after if i > at), after[0] if after else at)

    def _undo(self) -> None:
        taken = self.session.decided.undo()
        self.like = self.draft = None
        self._read()
        self.at = next(
            (i for i, d in enumerate(self.queue) if taken and d.id == taken[0].id), self.at
        )
        self.at = min(self.at, max(0, len(self.queue) - 1))
        self.message = (
            f"taken back: {len(taken)} row{'s' * (len(taken) != 1)}"
            if taken
            else "there is nothing of yours to undo"
        )

    def _read(self) -> None:
        self.queue, self.current = self.session.queue(), self.session.decided.current()


PAST = {"accept": "accepted", "relabel": "relabelled", "reject": "rejected"}


HIDDEN = {
    "request",
    "seeds",
    "tokens",
    "reviewed",
}  # of use to programs; what was reviewed stands in the decisions


def row_history_pairs(row: RankedRow, session: ReviewSession) -> list[tuple[str, str]]:
    """Where the row comes from and what happened to it, as (what, value): the latest decision first, values cut to 200 characters."""
    found: list[tuple[str, Any]] = []
    past = read_decisions(session.decided.path)
    undone = {d.undoes for d in past}
    for d in reversed(past):
        if d.id == row.id and d.decision != "undo":
            new = (
                f", {label_text(d.label_before)} → {label_text(d.label_after)}"
                if d.decision == "relabel"
                else ""
            )
            back = " (taken back)" if d.key in undone else ""
            found.append(
                (d.when[:16].replace("T", " "), f"{PAST[d.decision]} by {d.by}{new}{back}")
            )
    if row.check:
        found.append((f"set aside ({row.check})", row.reason))
    found.append(("source", row.record.source))
    found += [
        (k, v)
        for k, v in row.record.lineage.items()
        if k not in HIDDEN and v not in (None, "", [], {})
    ]
    return [(k, text if len(text := str(v)) <= 200 else text[:199] + "…") for k, v in found]


def excerpt(record: Record, n: int = 150) -> str:
    """The beginning of the text on one line."""
    text = " ".join(record.text.split())
    return text if len(text) <= n else text[: n - 1] + "…"
