"""The review page: the elements that the browser gets for a ReviewState.

Every value is the text of an element, never HTML, a style or a property.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nicegui import ui

from flows.review.state import PAST, ReviewState, SimilarRows, excerpt, row_history_pairs
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

    def _draw_row(self, d: RankedRow) -> None:
        with _element("card main", "section"):
            with _element("head"):
                _text(label_text(d.record.label), "chip label")
                _text("the probe says", "soft")
                agrees = "same" if d.opinion == d.record.label else "says"
                opinion = f"{label_text(d.opinion)} {d.probability:.2f}"
                _text(opinion, f"chip opinion {agrees}")
                if decision := self.state.decided.get(d.id):
                    relabelled = decision.decision == "relabel"
                    label = f": {label_text(decision.label_after)}" if relabelled else ""
                    _text(PAST[decision.decision] + label, "chip done")
            if self.state.draft is None:
                _text(d.why(), "why")
            else:
                label = label_text(self.state.draft)
                _text(f"It will be {label}: Enter confirms, Esc cancels.", "why plan")
            _text(d.record.text, "text")
            with _element("measures"):
                self._draw_measure("disagreement", d, f"{d.margin:+.3f} margin", rank="margin")
                self._draw_measure("loss", d, f"{d.loss:+.3f} nats")
                self._draw_measure("influence", d, f"{d.influence:+.3f} on the dev loss")

    def _draw_measure(self, name: str, d: RankedRow, value: str, *, rank: str = "") -> None:
        with _element("measure"):
            total = len(self.state.session.ranked)
            _text(f"{name}, rank {d.ranks[rank or name]:.0f} of {total}", "soft")
            _text(value, "", "b")

    def _draw_side(self, d: RankedRow) -> None:
        known = {r.id: r for r in self.state.session.ranked}
        with _element("side", "aside"):
            with _element("card neighbours", "section"):
                _text("Nearest training rows", "title")
                for row_id, similarity in d.near:
                    _draw_neighbour(known[row_id], f"similarity {similarity:.2f}", d)
            with _element("card history", "section"):
                _text("History", "title")
                for pair in row_history_pairs(d, self.state.session):
                    with _element("pair"):
                        for value in pair:
                            _text(value)

    def _draw_panel(self, panel: SimilarRows) -> None:
        first, n = panel.rows[0], len(panel.rows)
        with _element("card panel", "section"):
            _text(f"These {n} rows are similar" if n > 1 else "No pending row is similar", "name")
            if panel.choice:
                kind, label = panel.choice
                done = PAST[kind] if label is None else f"relabelled as {label_text(label)}"
                rows = "All of them" if n > 1 else "It"
                _text(f"{rows} will be {done}: Enter confirms, Esc cancels.", "why plan")
            else:
                _text("Choose a decision: a, r or a number. Esc cancels.", "soft plan")
            similar = dict(first.like)
            for d in panel.rows:
                same = f"similarity {similar[d.id]:.2f}" if d.id in similar else "this row"
                _draw_neighbour(d, same, first)

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
                    mark = (
                        "chosen" if _has(chosen, label) else "own" if _has(current, label) else ""
                    )
                    self._draw_button(str(i), label, mark, key_shown=i <= 9)
                if multi_label:
                    mark = "chosen" if chosen == () else "own" if current == () else ""
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


def _draw_neighbour(other: RankedRow, note: str, d: RankedRow) -> None:
    with _element("near"):
        with _element("head"):
            agrees = "same" if other.record.label == d.record.label else "says"
            _text(label_text(other.record.label), f"chip {agrees}")
            _text(note, "soft")
        _text(excerpt(other.record), "quote")


def _element(classes: str, tag: str = "div") -> Any:
    return ui.element(tag).classes(classes)


def _text(value: object, classes: str = "", tag: str = "div") -> None:
    with _element(classes, tag):
        ui.label(str(value))


def _has(label: Label | None, name: str) -> bool:
    return name in label if isinstance(label, tuple) else name == label
