"""What a person decided about rows: an append-only file, one decision a line, on the disk before the next one is made.

An undo is a line too: it names the line that it undoes, so nothing that was decided is ever lost.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from tasks import atomic
from tasks.errors import UserError
from tasks.labels import convert_answer
from tasks.records import Label, Record, Rejected, label_text

Choice = Literal["accept", "relabel", "reject"]
CHOICES: tuple[str, ...] = get_args(Choice)
CHECK = "reviewed_out"
LEAKS = frozenset({"leak", "short_leak"})  # checks that set aside what repeats held-out text


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the file: who decided what about which row, when. `key` names the line; `group` the lines made at once.

    `text` is the SHA-256 of the text that was shown, `undoes` the key of the line that an undo takes back. Of label sets,
    `label_before` and `label_after` are tuples, in the file lists; an empty one is a decision as well.
    """

    key: str
    group: str
    when: str
    by: str
    id: str
    text: str
    decision: str
    label_before: Label | None
    label_after: Label | None
    undoes: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Decision:
        """Raises TypeError for what is no decision."""
        lists = {
            k: tuple(v) for k, v in row.items() if k.startswith("label_") and isinstance(v, list)
        }
        return cls(**row | lists)

    def to_reviewed(self, r: Record, *, multi_label: bool, check: str | None = None) -> Record:
        """The row as a `reviewed` one with the person's label, which `check` may have set aside; one that is so already, as it is.

        A decision outlives a change of `multi_label`. Raises UserError for one for a set of labels where a text has one.
        """
        if r.source == "reviewed":
            return r
        was = {"label": r.label, "source": r.source, "check": check}
        lineage = {**r.lineage, "reviewed": {"by": self.by, "when": self.when, "was": was}}
        return replace(r, label=self._fitting(multi_label), source="reviewed", lineage=lineage)

    def to_rejected(self, r: Record, *, check: str | None = None) -> Rejected:
        """The row as the person rejected it; `check` may have set it aside before."""
        before = f"; set aside before as {check}" if check else ""
        return Rejected(r, CHECK, f"rejected by {self.by} on {self.when[:10]}{before}")

    def _fitting(self, multi_label: bool) -> Label | None:
        after = self.label_after
        if after is None:
            return None
        if not multi_label and isinstance(after, tuple) and len(after) != 1:
            raise UserError(
                f"{self.by} decided that row {self.id} is {label_text(after)!r}, but a text has one label in this project: set "
                f"multi_label to true, or move the file of decisions away"
            )
        return convert_answer(after, multi_label=multi_label)


def text_digest(text: str) -> str:
    """SHA-256 (hex) of the text as it stands."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Decisions:
    """The decisions file of a project. Each call reads it anew, so several pages and imports may write to one file."""

    def __init__(self, path: Path, *, by: str, now: Callable[[], str] = _now) -> None:
        self.path, self._by, self._now = path, by, now

    def decide(self, rows: list[Record], choice: str, label: Label | None = None) -> list[Decision]:
        """The lines written for one choice about each of the rows; `label` is the new label or label set of a relabel."""
        return self.record([(r, choice, label) for r in rows])

    def record(self, choices: list[tuple[Record, str, Label | None]]) -> list[Decision]:
        """The lines written, all of one group: (row, choice, new label of a relabel) each.

        Choosing the label that a row has is accepting it. Raises UserError for a choice that is none.
        """
        group, when = secrets.token_hex(8), self._now()
        made = []
        for r, choice, label in choices:
            if choice not in CHOICES or (choice == "relabel") != (label is not None):
                raise UserError(
                    f"{choice!r} (label {label!r}) is no decision: accept, reject, or relabel with a label"
                )
            label = tuple(sorted(set(label))) if isinstance(label, tuple) else label
            kind = "accept" if label == r.label and label is not None else choice
            key, after = secrets.token_hex(8), label_after(r, choice, label)
            made.append(
                Decision(
                    key, group, when, self._by, r.id, text_digest(r.text), kind, r.label, after
                )
            )
        self.write(made)
        return made

    def write(self, made: list[Decision]) -> None:
        """Append the lines; each is on the disk before the next is written."""
        for d in made:
            atomic.append_line(self.path, d.to_json())

    def undo(self) -> list[Decision]:
        """The decisions taken back: this person's last group that still stands; none when there is nothing to undo."""
        standing = [d for d in standing_lines(self.path) if d.by == self._by]
        if not standing:
            return []
        last = [d for d in standing if d.group == standing[-1].group]
        group, when = secrets.token_hex(8), self._now()
        self.write(
            [
                Decision(
                    secrets.token_hex(8),
                    group,
                    when,
                    self._by,
                    d.id,
                    d.text,
                    "undo",
                    d.label_after,
                    d.label_before,
                    d.key,
                )
                for d in last
            ]
        )
        return last

    def current(self) -> dict[str, Decision]:
        """The decision that stands for each row."""
        return current_decisions(self.path)


def label_after(r: Record, choice: str, label: Label | None) -> Label | None:
    """The label, or label set, that the row has after the choice; None of a rejected row."""
    if choice == "reject":
        return None
    return r.label if label is None else label  # not `label or`: the empty set is a label set too


def read_decisions(path: Path) -> list[Decision]:
    """Every line, undone ones and undos included; a line that a kill tore is left out. Raises UserError for another file."""
    found = []
    for row in atomic.read_lines(path):
        try:
            d = Decision.from_json(row)
        except (TypeError, AttributeError):
            raise UserError(
                f"{path} holds a line that is no decision ({str(row)[:60]}): restore it from a backup"
            ) from None
        if d.decision not in (*CHOICES, "undo"):
            raise UserError(
                f"{path} holds the decision {d.decision!r}, which is none: restore it from a backup"
            )
        found.append(d)
    return found


def standing_lines(path: Path) -> list[Decision]:
    """The lines that are not undone, oldest first."""
    found = read_decisions(path)
    undone = {d.undoes for d in found if d.decision == "undo"}
    return [d for d in found if d.decision != "undo" and d.key not in undone]


def current_decisions(path: Path) -> dict[str, Decision]:
    """The decision that stands for each row's id: the last that is not undone."""
    return {d.id: d for d in standing_lines(path)}


def apply_decisions(
    records: list[Record], rejected: list[Rejected], decisions: dict[str, Decision]
) -> tuple[list[Record], list[Rejected], list[Record]]:
    """(kept, rejected, reviewed): the rows without a decision, those set aside, and those that a person vouched for.

    Together they are every row that came in. An accepted or relabelled row becomes one of source `reviewed` with the
    person's label, whatever label it has meanwhile, also when a check had set it aside; a rejected row is set aside as
    `reviewed_out`. A row set aside as a leak stays there: it repeats held-out text, which no decision changes. Where one
    text stands in several rows, one is decided and the others are its exact duplicates. Raises UserError for a decision for a
    set of labels where a text has one.
    """
    leaked = {r.record.id for r in rejected if r.check in LEAKS}
    kept: list[Record] = []
    out: list[Rejected] = []
    reviewed: dict[str, Record] = {}
    gone: set[str] = set()

    def settle(r: Record, d: Decision, check: str | None) -> None:
        if d.decision == "reject":
            gone.add(r.id)
            out.append(d.to_rejected(r, check=check))
        else:
            reviewed[r.id] = d.to_reviewed(r, multi_label=isinstance(r.label, tuple), check=check)

    for r in records:
        d = decisions.get(r.id)
        if d is None or r.id in leaked:
            kept.append(r)
        elif r.id in reviewed or r.id in gone:
            out.append(
                Rejected(
                    r,
                    "exact_duplicate",
                    f"the same text as row {r.id}, which {d.by} decided",
                    1.0,
                    r.id,
                )
            )
        else:
            settle(r, d, None)
    for row in rejected:
        r, d = row.record, decisions.get(row.record.id)
        if d is None or r.id in leaked or r.id in reviewed or r.id in gone:
            out.append(row)
        else:
            settle(r, d, row.check)
    return kept, out, list(reviewed.values())
