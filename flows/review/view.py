"""How the review page looks: what the browser gets for the state of a Desk (flows/review/state.py).

Every value is the text of an element, never HTML, a style or a property.
"""

from __future__ import annotations

from typing import Any

from nicegui import ui

from flows.review.state import PAST, ReviewState, SimilarRows, excerpt, row_history_pairs
from tasks.records import Label, label_text
from tasks.review.queue import count_decided
from tasks.review.ranked_row import RankedRow

KEYS = [
    ("a", "accept"),
    ("r", "reject"),
    ("1–9", "relabel"),
    ("l", "apply to the like"),
    ("u", "undo"),
    ("j k", "move"),
]

ON_OFF = ("1–9", "label on or off")  # in place of `relabel`, where a text has several labels
HINTS = {"1–9", "j k"}  # several keys: a hint, and no button

# a key goes out with the version of the page on which it was pressed
SCRIPT = """<script>
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.altKey || e.metaKey || e.repeat && !/^(j|k|Arrow)/.test(e.key)) return;
  if (e.target.tagName === "BUTTON" && (e.key === "Enter" || e.key === " ")) return;
  const desk = document.querySelector("[data-version]");
  if (!desk || !/^([a-z0-9]|Arrow\\w+|Enter|Escape)$/.test(e.key)) return;
  if (e.key.startsWith("Arrow") && !desk.dataset.panel) e.preventDefault();
  emitEvent("pressed", {key: e.key, version: Number(desk.dataset.version)});
});
</script>"""

STYLE = """
:root { --ink: #1f2933; --soft: #64707d; --line: #e3e7eb; --paper: #fff; --ground: #f5f6f8; --accent: #2f6f6a;
  --warn: #a3541a; --warn-soft: #fbf1e6; --accent-soft: #e6f1f0; }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
.nicegui-content { padding: 0; gap: 0; }
.desk { display: grid; grid-template-rows: auto 1fr auto; height: 100vh; width: 100%; }
.top { display: flex; align-items: center; gap: 20px; padding: 14px 28px; background: var(--paper);
  border-bottom: 1px solid var(--line); }
.name { font-weight: 650; font-size: 17px; }
.soft { color: var(--soft); font-size: 13px; }
.track { flex: 1; height: 6px; border-radius: 3px; background: var(--line); overflow: hidden; }
.fill { height: 100%; background: var(--accent); transition: width .15s; }
.body { display: grid; grid-template-columns: minmax(0, 1fr) 400px; gap: 20px; padding: 20px 28px; min-height: 0; }
.side .card { padding: 13px 20px; }
.side { display: flex; flex-direction: column; gap: 14px; min-height: 0; overflow: auto; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 18px 22px; }
.main { display: flex; flex-direction: column; min-height: 0; gap: 14px; }
.head { display: flex; align-items: center; gap: 10px; flex-wrap: wrap; }
.chip { border-radius: 999px; padding: 2px 12px; font-weight: 600; background: var(--ground); border: 1px solid var(--line); }
.chip.says { background: var(--warn-soft); border-color: #ecd3b8; color: var(--warn); }
.chip.same { background: var(--accent-soft); border-color: #bfdcd9; color: var(--accent); }
.chip.done { background: var(--accent); border-color: var(--accent); color: #fff; margin-left: auto; }
.why { color: var(--warn); font-size: 13px; }
.text { white-space: pre-wrap; overflow: auto; flex: 1; font-size: 17px; line-height: 1.6; overflow-wrap: anywhere;
  unicode-bidi: plaintext; border-top: 1px solid var(--line); padding-top: 14px; }
.measures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px; }
.measure { background: var(--ground); border-radius: 8px; padding: 6px 12px; }
.measure b { font-variant-numeric: tabular-nums; }
.title { font-size: 12px; letter-spacing: .06em; text-transform: uppercase; color: var(--soft); margin-bottom: 4px; }
.near { padding: 5px 0; border-top: 1px solid var(--line); }
.near:first-of-type { border-top: 0; }
.near .head { gap: 8px; font-size: 12px; line-height: 1.4; }
.near .head .chip { padding: 0 9px; }
.near .quote { font-size: 12.5px; line-height: 1.4; margin-top: 2px; color: var(--soft); display: -webkit-box;
  -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden; overflow-wrap: anywhere;
  unicode-bidi: plaintext; }
.pair { display: grid; grid-template-columns: 120px minmax(0, 1fr); gap: 10px; font-size: 12.5px; line-height: 1.4;
  padding: 1px 0; }
.pair > :first-child { color: var(--soft); overflow: hidden; text-overflow: ellipsis; }
.pair > :last-child { overflow-wrap: anywhere; }
.foot { background: var(--paper); border-top: 1px solid var(--line); padding: 10px 28px; display: flex; flex-direction: column;
  gap: 8px; }
.keys { display: flex; gap: 8px; flex-wrap: wrap; align-items: center; }
.keys button { font: inherit; font-size: 13px; border: 1px solid var(--line); background: var(--paper); border-radius: 7px;
  padding: 4px 11px; cursor: pointer; color: var(--ink); display: flex; gap: 7px; align-items: center; }
.keys button:hover, .keys button:focus-visible { border-color: var(--accent); outline: none; }
.keys button.own { background: var(--ground); font-weight: 600; }
.keys button.chosen { background: var(--accent); border-color: var(--accent); color: #fff; }
.hint { display: flex; gap: 7px; align-items: center; font-size: 13px; color: var(--soft); padding: 0 6px; }
kbd { font: 600 12px ui-monospace, Menlo, Consolas, monospace; background: var(--ground); border: 1px solid var(--line);
  border-bottom-width: 2px; border-radius: 4px; padding: 0 5px; color: var(--ink); }
.message { margin-left: auto; font-size: 13px; color: var(--accent); min-height: 20px; }
.panel { border-color: var(--accent); flex: 1; min-height: 0; overflow: auto; }
"""


def text(value: Any, classes: str = "", tag: str = "div") -> Any:
    """An element that holds the value as text."""
    element = ui.element(tag).classes(classes)
    with element:
        ui.label(str(value))
    return element


def _has(label: Label | None, name: str) -> bool:
    """Whether the label is this one, or the label set holds it."""
    return name in label if isinstance(label, tuple) else name == label


class View:
    """Draws a Desk, again after every key."""

    def __init__(self, desk: ReviewState) -> None:
        self.desk = desk
        self.root: Any = None

    def build(self) -> None:
        ui.add_head_html(SCRIPT)
        ui.add_css(STYLE)
        self.root = ui.element("main").classes("desk")
        ui.on("pressed", lambda e: self._press(e.args))
        self._draw()

    def _press(self, args: Any) -> None:
        """A key from the browser, which may send anything."""
        if (
            isinstance(args, dict)
            and isinstance(args.get("key"), str)
            and isinstance(args.get("version"), int)
        ):
            self.desk.press(args["key"], args["version"])
            self._draw()

    def _click(self, key: str) -> None:
        self.desk.press(key, self.desk.version)
        self._draw()

    def _draw(self) -> None:
        desk = self.desk
        self.root.props["data-version"] = desk.version
        self.root.props["data-panel"] = "like" if desk.like else None
        self.root.update()
        self.root.clear()
        with self.root:
            self._top()
            with ui.element("div").classes("body"):
                if desk.row is None:
                    text("Nothing is doubtful: there is no row to look at.", "card")
                elif desk.like:
                    self._like(desk.like)
                else:
                    self._row(desk.row)
                if desk.row is not None:
                    self._side(desk.row)
            self._foot()

    def _top(self) -> None:
        desk = self.desk
        done, total = count_decided(desk.queue, desk.current), len(desk.queue)
        required = min(desk.session.project.review.required_rows, total)
        with ui.element("header").classes("top"):
            text(desk.session.project.name, "name")
            with ui.element("div").classes("track"):
                ui.element("div").classes("fill").style(f"width: {100 * done / max(total, 1):.1f}%")
            text(f"{done} of {total} looked at", "soft progress")
            if required:
                text(f"{required} asked for before training", "soft")
            if total:
                text(f"row {desk.at + 1}", "soft place")

    def _row(self, d: RankedRow) -> None:
        with ui.element("section").classes("card main"):
            with ui.element("div").classes("head"):
                text(label_text(d.record.label), "chip label")
                text("the probe says", "soft")
                text(
                    f"{label_text(d.opinion)} {d.probability:.2f}",
                    "chip opinion " + ("same" if d.opinion == d.record.label else "says"),
                )
                decision = self.desk.current.get(d.id)
                if decision:
                    new = (
                        f": {label_text(decision.label_after)}"
                        if decision.decision == "relabel"
                        else ""
                    )
                    text(PAST[decision.decision] + new, "chip done")
            if self.desk.draft is None:
                text(d.why(), "why")
            else:
                said = f"It will be {label_text(self.desk.draft)}: Enter does it, Esc leaves it as it is."
                text(said, "why plan")
            text(d.record.text, "text")
            with ui.element("div").classes("measures"):
                for name, value, unit in (
                    ("disagreement", d.margin, "margin"),
                    ("loss", d.loss, "nats"),
                    ("influence", d.influence, "on the dev loss"),
                ):
                    key = "margin" if name == "disagreement" else name
                    with ui.element("div").classes("measure"):
                        text(
                            f"{name}, rank {d.ranks[key]:.0f} of {len(self.desk.session.ranked)}",
                            "soft",
                        )
                        text(f"{value:+.3f} {unit}", "", "b")

    def _side(self, d: RankedRow) -> None:
        known = {r.id: r for r in self.desk.session.ranked}
        with ui.element("aside").classes("side"):
            with ui.element("section").classes("card neighbours"):
                text("Nearest training rows", "title")
                for key, similarity in d.near:
                    self._near(known[key], f"{similarity:.2f} alike", d)
            with ui.element("section").classes("card history"):
                text("History", "title")
                for what, value in row_history_pairs(d, self.desk.session):
                    with ui.element("div").classes("pair"):
                        text(what)
                        text(value)

    def _near(self, other: RankedRow, note: str, d: RankedRow) -> None:
        with ui.element("div").classes("near"):
            with ui.element("div").classes("head"):
                text(
                    label_text(other.record.label),
                    "chip " + ("same" if other.record.label == d.record.label else "says"),
                )
                text(note, "soft")
            text(excerpt(other.record), "quote")

    def _like(self, like: SimilarRows) -> None:
        with ui.element("section").classes("card panel"):
            alone = len(like.rows) == 1
            text(
                "No row that waits is like this one"
                if alone
                else f"These {len(like.rows)} rows are alike",
                "name",
            )
            if like.choice:
                kind, label = like.choice
                verb = PAST[kind] if label is None else f"relabelled as {label_text(label)}"
                text(
                    f"{'It' if alone else 'All of them'} will be {verb}: Enter does it, Esc leaves everything as it is.",
                    "why plan",
                )
            else:
                text(
                    "Choose what to do: a, r or a number. Esc leaves everything as it is.",
                    "soft plan",
                )
            similar = dict(like.rows[0].like)
            for d in like.rows:
                note = f"{similar[d.id]:.2f} alike" if d.id in similar else "this row"
                self._near(d, note, like.rows[0])

    def _foot(self) -> None:
        desk = self.desk
        if desk.row is None:
            return
        several, chosen = desk.session.project.multi_label, desk.marked()
        own = (
            desk.row.record.label
            if not several
            else desk.stands(desk.row)
            if chosen is None
            else None
        )
        keys = [("Enter", "apply"), ("Escape", "close")] if desk.like else []
        if desk.draft is not None:
            keys = [("Enter", "decide so"), ("Escape", "leave it")]
        keys += [ON_OFF if several and way[0] == ON_OFF[0] else way for way in KEYS]
        with ui.element("footer").classes("foot"):
            with ui.element("div").classes("keys labels"):
                for i, label in enumerate(desk.labels):
                    mark = "chosen" if _has(chosen, label) else "own" if _has(own, label) else ""
                    self._button(str(i + 1), label, mark, shown=str(i + 1) if i < 9 else "")
                if several:
                    self._button(
                        "0",
                        "none of them",
                        "chosen" if chosen == () else "own" if own == () else "",
                    )
            with ui.element("div").classes("keys"):
                for key, what in keys:
                    if key in HINTS:
                        with ui.element("span").classes("hint"):
                            text(key, "", "kbd")
                            ui.label(what)
                    else:
                        self._button(key, what, "")
                text(desk.message, "message")

    def _button(self, key: str, what: str, mark: str, shown: str | None = None) -> None:
        shown = key if shown is None else shown
        with ui.element("button").classes(mark).on("click", lambda: self._click(key)):
            if shown:
                text(shown, "", "kbd")
            ui.label(what)
