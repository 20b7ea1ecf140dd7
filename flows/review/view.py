"""The review page: the elements that the browser gets for a ReviewState.

Every value is the text of an element, never HTML, a style or a property.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nicegui import ui

from flows.review.state import PAST_TENSE, ReviewState, SimilarRows, excerpt, row_history_pairs
from tasks.records import Label, label_text
from tasks.review.queue import count_decided
from tasks.review.ranked_row import RankedRow

FOLDER = Path(__file__).parent
KEYS = {
    "a": "accept",
    "r": "reject",
    "1–9": "relabel",
    "l": "apply to similar rows",
    "u": "undo",
    "j k": "move",
}
HINTS = {"1–9", "j k"}  # several keys: a hint instead of a button


class View:
    """Draws a ReviewState, again after every key."""

    def __init__(self, state: ReviewState) -> None:
        self.state = state
        self.root: Any = None

    def build(self) -> None:
        """Add the page's script, style and elements to the current client."""
        ui.add_head_html(f"<script>{(FOLDER / 'page.js').read_text(encoding='utf-8')}</script>")
        ui.add_css((FOLDER / "page.css").read_text(encoding="utf-8"))
        self.root = ui.element("main").classes("desk")
        ui.on("pressed", lambda e: self._press(e.args))
        self._draw()

    def _press(self, message: Any) -> None:
        """Apply a key from the browser, whose message is untrusted."""
        if not isinstance(message, dict):
            return
        key, version = message.get("key"), message.get("version")
        if isinstance(key, str) and isinstance(version, int):
            self.state.press(key, version)
            self._draw()

    def _click(self, key: str) -> None:
        self.state.press(key, self.state.version)
        self._draw()

    def _draw(self) -> None:
        state = self.state
        self.root.props["data-version"] = state.version
        self.root.props["data-panel"] = "similar" if state.similar else None
        self.root.update()
        self.root.clear()
        with self.root:
            self._draw_header()
            with _element("body"):
                if state.row is None:
                    _text("There is no doubtful row to review.", "card")
                elif state.similar:
                    self._draw_panel(state.similar)
                else:
                    self._draw_row(state.row)
                if state.row is not None:
                    self._draw_side(state.row)
            if state.row is not None:
                self._draw_footer(state.row)

    def _draw_header(self) -> None:
        state, project = self.state, self.state.session.project
        reviewed, total = count_decided(state.queue, state.decided), len(state.queue)
        required = min(project.review.required_rows, total)
        with _element("top", "header"):
            _text(project.name, "name")
            with _element("track"):
                _element("fill").style(f"width: {100 * reviewed / max(total, 1):.1f}%")
            _text(f"{reviewed} of {total} reviewed", "soft progress")
            if required:
                _text(f"{required} required before training", "soft")
            if total:
                _text(f"row {state.index + 1}", "soft place")

    def _draw_row(self, row: RankedRow) -> None:
        with _element("card main", "section"):
            with _element("head"):
                _text(label_text(row.record.label), "chip label")
                _text("the probe predicts", "soft")
                agreement = "same" if row.opinion == row.record.label else "differs"
                opinion = f"{label_text(row.opinion)} {row.probability:.2f}"
                _text(opinion, f"chip opinion {agreement}")
                if decision := self.state.decided.get(row.id):
                    relabelled = decision.decision == "relabel"
                    label = f": {label_text(decision.label_after)}" if relabelled else ""
                    _text(PAST_TENSE[decision.decision] + label, "chip done")
            if self.state.draft is None:
                _text(row.why(), "why")
            else:
                label = label_text(self.state.draft)
                _text(f"It will be {label}: Enter confirms, Esc cancels.", "why plan")
            _text(row.record.text, "text")
            with _element("measures"):
                self._draw_measure("disagreement", row, f"{row.margin:+.3f} margin", rank="margin")
                self._draw_measure("loss", row, f"{row.loss:+.3f} nats")
                self._draw_measure("influence", row, f"{row.influence:+.3f} on the dev loss")

    def _draw_measure(self, name: str, row: RankedRow, value: str, *, rank: str = "") -> None:
        with _element("measure"):
            total = len(self.state.session.ranked)
            _text(f"{name}, rank {row.ranks[rank or name]:.0f} of {total}", "soft")
            _text(value, "", "b")

    def _draw_side(self, row: RankedRow) -> None:
        known = {r.id: r for r in self.state.session.ranked}
        with _element("side", "aside"):
            with _element("card neighbours", "section"):
                _text("Nearest training rows", "title")
                for row_id, similarity in row.near:
                    _draw_neighbour(known[row_id], f"similarity {similarity:.2f}", row)
            with _element("card history", "section"):
                _text("History", "title")
                for pair in row_history_pairs(row, self.state.session):
                    with _element("pair"):
                        for value in pair:
                            _text(value)

    def _draw_panel(self, panel: SimilarRows) -> None:
        first, n = panel.rows[0], len(panel.rows)
        with _element("card panel", "section"):
            _text(f"These {n} rows are similar" if n > 1 else "No pending row is similar", "name")
            if panel.choice:
                kind, label = panel.choice
                done = PAST_TENSE[kind] if label is None else f"relabelled as {label_text(label)}"
                subject = "All of them" if n > 1 else "It"
                _text(f"{subject} will be {done}: Enter confirms, Esc cancels.", "why plan")
            else:
                _text("Choose a decision: a, r or a number. Esc cancels.", "soft plan")
            similar = dict(first.like)
            for row in panel.rows:
                note = f"similarity {similar[row.id]:.2f}" if row.id in similar else "this row"
                _draw_neighbour(row, note, first)

    def _draw_footer(self, row: RankedRow) -> None:
        state, multi_label = self.state, self.state.session.project.multi_label
        chosen = state.chosen_label()
        current = row.record.label if not multi_label else None
        if multi_label and chosen is None:
            current = state.current_label(row)
        keys = (
            {"Enter": "apply", "Escape": "cancel"}
            if state.similar or state.draft is not None
            else {}
        )
        keys |= KEYS | ({"1–9": "label on or off"} if multi_label else {})
        with _element("foot", "footer"):
            with _element("keys labels"):
                for i, label in enumerate(state.labels, 1):
                    mark = _mark(chosen=_has(chosen, label), current=_has(current, label))
                    self._draw_button(str(i), label, mark, key_shown=i <= 9)
                if multi_label:
                    mark = _mark(chosen=chosen == (), current=current == ())
                    self._draw_button("0", "none of them", mark)
            with _element("keys"):
                for key, action in keys.items():
                    if key in HINTS:
                        with _element("hint", "span"):
                            _text(key, "", "kbd")
                            ui.label(action)
                    else:
                        self._draw_button(key, action)
                _text(state.message, "message")

    def _draw_button(
        self, key: str, action: str, mark: str = "", *, key_shown: bool = True
    ) -> None:
        with _element(mark, "button").on("click", lambda: self._click(key)):
            if key_shown:
                _text(key, "", "kbd")
            ui.label(action)


def _draw_neighbour(other: RankedRow, note: str, row: RankedRow) -> None:
    with _element("near"):
        with _element("head"):
            agreement = "same" if other.record.label == row.record.label else "differs"
            _text(label_text(other.record.label), f"chip {agreement}")
            _text(note, "soft")
        _text(excerpt(other.record), "quote")


def _element(classes: str, tag: str = "div") -> Any:
    return ui.element(tag).classes(classes)


def _text(value: object, classes: str = "", tag: str = "div") -> None:
    with _element(classes, tag):
        ui.label(str(value))


def _mark(*, chosen: bool, current: bool) -> str:
    """The class of a label's button."""
    if chosen:
        return "chosen"
    return "current" if current else ""


def _has(label: Label | None, name: str) -> bool:
    return name in label if isinstance(label, tuple) else name == label
