"""The state of one reviewer's page: the row that is shown, the choices, and what each key does."""

from __future__ import annotations

from dataclasses import dataclass

from flows.review.session import ReviewSession
from tasks.decisions import read_decisions
from tasks.records import Label, Record, label_text
from tasks.review.ranked_row import RankedRow

NEXT, BACK = {"j", "ArrowDown", "ArrowRight"}, {"k", "ArrowUp", "ArrowLeft"}
PAST_TENSE = {"accept": "accepted", "relabel": "relabelled", "reject": "rejected"}
HIDDEN_LINEAGE = {"request", "seeds", "tokens", "reviewed"}  # of no use to a person
VALUE_LENGTH = 200  # characters of a value in the row's history

Choice = tuple[str, Label | None]  # the kind of decision, and the new label or set of a relabel


@dataclass
class SimilarRows:
    """The panel of the rows that are similar to one row, and the choice for all of them so far."""

    rows: list[RankedRow]
    choice: Choice | None = None


class ReviewState:
    """What one open page shows, without a browser.

    `version` rises with every change: a key that decides counts only on the version that the
    person saw. Where a text has several labels, a number adds a label to `draft` or removes it,
    and Enter decides.
    """

    def __init__(self, session: ReviewSession) -> None:
        self.session = session
        self.labels = session.project.label_names
        self._read()
        self.index = next((i for i, d in enumerate(self.queue) if d.id not in self.decided), 0)
        self.similar: SimilarRows | None = None
        self.draft: tuple[str, ...] | None = None
        self.message = ""
        self.version = 0

    def _read(self) -> None:
        self.queue, self.decided = self.session.queue(), self.session.decisions.current()

    @property
    def row(self) -> RankedRow | None:
        """The row that is shown; None where the queue is empty."""
        return self.queue[self.index] if self.queue else None

    def press(self, key: str, version: int) -> None:
        """Apply a key; an unknown one, or one for an older version of the page, does nothing."""
        moves = key in NEXT | BACK and self.similar is None
        if self.row is None or (version != self.version and not moves):
            return
        self.decided = self.session.decisions.current()
        self.message = ""
        choice = self._choice(key, self.row)
        if key == "u":
            self._undo()
        elif self.similar is not None:
            self._press_in_panel(self.similar, key, choice)
        elif choice and isinstance(choice[1], tuple):
            self.draft = choice[1]
        elif choice or (key == "Enter" and self.draft is not None):
            self._decide([self.row], choice or ("relabel", self.draft))
        elif moves:
            self.index = min(max(self.index + (1 if key in NEXT else -1), 0), len(self.queue) - 1)
            self.draft = None
        elif key == "Escape":
            self.draft = None
        elif key == "l":
            self._open_panel(self.row)
        self.version += 1

    def chosen_label(self) -> Label | None:
        """The label, or label set, that is chosen but not decided yet."""
        if self.similar is not None:
            return self.similar.choice[1] if self.similar.choice else None
        return self.draft

    def current_label(self, row: RankedRow) -> Label | None:
        """The row's label, or label set, after the decision about it, if there is one."""
        decision = self.decided.get(row.id)
        after = decision.label_after if decision else None
        return row.record.label if after is None else after

    def _choice(self, key: str, row: RankedRow) -> Choice | None:
        if key in ("a", "r"):
            return ("accept" if key == "a" else "reject", None)
        if not (key.isascii() and key.isdecimal() and int(key) <= len(self.labels)):
            return None
        if self.session.project.multi_label:
            return ("relabel", self._toggle_label(int(key), row))
        # a label beyond the ninth has a button, but no key
        return ("relabel", self.labels[int(key) - 1]) if int(key) else None

    def _toggle_label(self, number: int, row: RankedRow) -> tuple[str, ...]:
        """The chosen set with this label added or removed; 0 is the empty set."""
        if not number:
            return ()
        chosen = self.chosen_label()
        before = self.current_label(row) if chosen is None else chosen
        return tuple(sorted({*(before or ())} ^ {self.labels[number - 1]}))

    def _press_in_panel(self, panel: SimilarRows, key: str, choice: Choice | None) -> None:
        if choice:
            panel.choice = choice
        elif key == "Enter" and panel.choice:
            self.similar = None
            self._decide(panel.rows, panel.choice)
        elif key in ("Escape", "l"):
            self.similar = None

    def _open_panel(self, row: RankedRow) -> None:
        """Open the panel, even if no row is similar: the next key must not decide at once."""
        known = {d.id: d for d in self.session.ranked}
        rows = [row, *(known[i] for i, _ in row.like if i in known and i not in self.decided)]
        choice = None if self.draft is None else ("relabel", self.draft)
        self.similar, self.draft = SimilarRows(rows, choice), None

    def _decide(self, rows: list[RankedRow], choice: Choice) -> None:
        decisions = self.session.decisions.decide([d.record for d in rows], *choice)
        self.draft = None
        shown = self.row
        self._read()
        kinds = sorted({d.decision for d in decisions})
        label = f" as {label_text(choice[1])}" if "relabel" in kinds else ""
        done = ", ".join(PAST_TENSE[kind] for kind in kinds) + label
        self.message = f"{_count_rows(len(decisions))}: {done}  ·  u undoes it"
        index = next(i for i, d in enumerate(self.queue) if shown and d.id == shown.id)
        pending = [i for i, d in enumerate(self.queue) if d.id not in self.decided]
        self.index = next((i for i in pending if i > index), pending[0] if pending else index)

    def _undo(self) -> None:
        undone = self.session.decisions.undo()
        self.similar = self.draft = None
        self._read()
        first = undone[0].id if undone else None
        index = next((i for i, d in enumerate(self.queue) if d.id == first), self.index)
        self.index = min(index, max(0, len(self.queue) - 1))
        self.message = f"undone: {_count_rows(len(undone))}" if undone else "nothing to undo"


def _count_rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n} rows"


def row_history_pairs(row: RankedRow, session: ReviewSession) -> list[tuple[str, str]]:
    """The row's decisions, the last one first, and its origin, as (name, value)."""
    pairs: list[tuple[str, object]] = []
    decisions = read_decisions(session.decisions.path)
    undone = {d.undoes for d in decisions}
    for d in reversed(decisions):
        if d.id == row.id and d.decision != "undo":
            value = f"{PAST_TENSE[d.decision]} by {d.by}"
            if d.decision == "relabel":
                value += f", {label_text(d.label_before)} → {label_text(d.label_after)}"
            value += " (undone)" if d.key in undone else ""
            pairs.append((d.when[:16].replace("T", " "), value))
    if row.check:
        pairs.append((f"rejected ({row.check})", row.reason))
    lineage = {k: v for k, v in row.record.lineage.items() if v not in (None, "", [], {})}
    pairs += [("source", row.record.source), *lineage.items()]
    return [(name, _cut(str(v), VALUE_LENGTH)) for name, v in pairs if name not in HIDDEN_LINEAGE]


def excerpt(record: Record) -> str:
    """The first 150 characters of the text, on one line."""
    return _cut(" ".join(record.text.split()), 150)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
