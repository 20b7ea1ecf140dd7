"""People's decisions about rows, in an append-only file with one decision per line.

An undo is a line of its own that names the undone line, so no decision is lost.
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
LEAKS = frozenset({"leak", "short_leak"})  # checks that reject what repeats held-out text


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the file: who decided what about which row, and when.

    `key` identifies the line, `group` the lines that were written together, and `undoes` the line
    that an undo undoes. `text` is the SHA-256 of the text that was shown. Label sets are tuples,
    and lists in the file.
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
        """The line as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Decision:
        """The decision in a JSON object. Raises TypeError where it is none."""
        lists = {
            k: tuple(v) for k, v in row.items() if k.startswith("label_") and isinstance(v, list)
        }
        return cls(**row | lists)

    def to_reviewed(self, r: Record, *, multi_label: bool, check: str | None = None) -> Record:
        """The row with source `reviewed` and the person's label; a reviewed row is not changed.

        `check` is the check that had rejected it. Raises UserError for a decision for a label set
        where a text has one label.
        """
        if r.source == "reviewed":
            return r
        was = {"label": r.label, "source": r.source, "check": check}
        lineage = {**r.lineage, "reviewed": {"by": self.by, "when": self.when, "was": was}}
        return replace(
            r,
            label=self._converted_label(multi_label=multi_label),
            source="reviewed",
            lineage=lineage,
        )

    def to_rejected(self, r: Record, *, check: str | None = None) -> Rejected:
        """The row as rejected by the person. `check` is the check that had rejected it before."""
        before = f"; before that, rejected by the check {check}" if check else ""
        return Rejected(r, CHECK, f"rejected by {self.by} on {self.when[:10]}{before}")

    def _converted_label(self, *, multi_label: bool) -> Label | None:
        after = self.label_after
        if after is None:
            return None
        if not multi_label and isinstance(after, tuple) and len(after) != 1:
            raise UserError(
                f"{self.by} decided that row {self.id} is {label_text(after)!r}, but a text has "
                "one label in this project: set multi_label to true, or move the decisions file "
                "away"
            )
        return convert_answer(after, multi_label=multi_label)


def text_digest(text: str) -> str:
    """SHA-256 (hex) of the text as it is written."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Decisions:
    """A project's decisions file. Every call reads it again, so several processes may write it."""

    def __init__(self, path: Path, *, by: str, now: Callable[[], str] = _now) -> None:
        self.path, self._by, self._now = path, by, now

    def decide(self, rows: list[Record], choice: str, label: Label | None = None) -> list[Decision]:
        """The lines written for one choice about several rows; `label` is a relabel's new label."""
        return self.record([(r, choice, label) for r in rows])

    def record(self, choices: list[tuple[Record, str, Label | None]]) -> list[Decision]:
        """The lines written, as one group, for choices of (row, choice, a relabel's new label).

        A relabel with the row's own label is an accept. Raises UserError for an unknown choice.
        """
        group, when = secrets.token_hex(8), self._now()
        made = []
        for r, choice, label in choices:
            if choice not in CHOICES or (choice == "relabel") != (label is not None):
                raise UserError(
                    f"{choice!r} (label {label!r}) is no decision: accept, reject, or relabel with "
                    "a label"
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
        """Append lines; each is on the disk before the next is written."""
        for d in made:
            atomic.append_line(self.path, d.to_json())

    def undo(self) -> list[Decision]:
        """The decisions undone: this person's last group that is not undone yet, or none."""
        active = [d for d in _active_decisions(self.path) if d.by == self._by]
        if not active:
            return []
        last = [d for d in active if d.group == active[-1].group]
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
        """The current decision about each row, by its id."""
        return current_decisions(self.path)


def label_after(r: Record, choice: str, label: Label | None) -> Label | None:
    """The row's label or label set after the choice; None for a rejected row."""
    if choice == "reject":
        return None
    return r.label if label is None else label  # the empty tuple is a label set


def read_decisions(path: Path) -> list[Decision]:
    """Every line, undone ones and undos included. Raises UserError where a line is no decision."""
    decisions = []
    for row in atomic.read_lines(path):
        try:
            d = Decision.from_json(row)
        except (TypeError, AttributeError):
            raise UserError(
                f"{path} holds a line that is no decision ({str(row)[:60]}): restore the file from "
                "a backup"
            ) from None
        if d.decision not in (*CHOICES, "undo"):
            raise UserError(
                f"{path} holds the unknown decision {d.decision!r}: restore the file from a backup"
            )
        decisions.append(d)
    return decisions


def _active_decisions(path: Path) -> list[Decision]:
    """The decisions that are not undone, oldest first."""
    lines = read_decisions(path)
    undone = {d.undoes for d in lines if d.decision == "undo"}
    return [d for d in lines if d.decision != "undo" and d.key not in undone]


def current_decisions(path: Path) -> dict[str, Decision]:
    """The last decision about each row that is not undone, by the row's id."""
    return {d.id: d for d in _active_decisions(path)}


def apply_decisions(
    records: list[Record], rejected: list[Rejected], decisions: dict[str, Decision]
) -> tuple[list[Record], list[Rejected], list[Record]]:
    """(kept, rejected, reviewed): the rows without a decision, rejected ones, accepted ones.

    Every row is in one of the three. An accepted or relabelled row has source `reviewed` and the
    person's label, even if a check had rejected it. A row that a person rejects is rejected as
    `reviewed_out`. A leak stays rejected, whatever was decided. Of several rows with the same text
    one is decided, and the others are its exact duplicates. Raises what `to_reviewed` raises.
    """
    leaked = {r.record.id for r in rejected if r.check in LEAKS}
    kept: list[Record] = []
    out: list[Rejected] = []
    reviewed: dict[str, Record] = {}
    decided: set[str] = set()

    def apply(r: Record, d: Decision, check: str | None) -> None:
        decided.add(r.id)
        if d.decision == "reject":
            out.append(d.to_rejected(r, check=check))
        else:
            reviewed[r.id] = d.to_reviewed(r, multi_label=isinstance(r.label, tuple), check=check)

    for r in records:
        d = decisions.get(r.id)
        if d is None or r.id in leaked:
            kept.append(r)
        elif r.id in decided:
            reason = f"the same text as row {r.id}, which {d.by} reviewed"
            out.append(Rejected(r, "exact_duplicate", reason, 1.0, r.id))
        else:
            apply(r, d, None)
    for row in rejected:
        r, d = row.record, decisions.get(row.record.id)
        if d is None or r.id in leaked or r.id in decided:
            out.append(row)
        else:
            apply(r, d, row.check)
    return kept, out, list(reviewed.values())
