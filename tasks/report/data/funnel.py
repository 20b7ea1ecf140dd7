"""The funnel of rows: from those requested, through every check, to those that are trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.records import Record, Rejected, label_text
from tasks.report.data.page import check_title
from tasks.report.data.rows import CHECK_BY_REASON, RetrainRows, is_generated

PERSON = "person"  # rows that a person relabelled, or accepted in spite of a check


def funnel_steps(g: RetrainRows, labels: list[str]) -> list[dict[str, Any]]:
    """The steps in order, {step, kind, rows: {label: n}, total, lost}: rows left and lost by each.

    `asked` counts rows asked for, `replies` the answers, `texts` the rows in them (more than replies where one has several
    rows); each check follows in the order in which it ran; `accepted` is what was kept. From `texts` on, every step is the
    one before it less what it lost, in every label.
    """
    asked: Counter[str] = Counter()
    for r in g.rounds:
        asked.update(r.asked)
    came = [*g.written, *(r.record for r in g.unusable)]
    texts = Counter(label_text(r.label) for r in came)
    steps = [_step("asked", "row", asked, None), _step("replies", "reply", _requests(came), None)]
    left = Counter(texts)
    steps.append(_step("texts", "row", left, None))
    made = [r for r in g.rejected if is_generated(r.record)]
    for check, out in [*_by_check(g.unusable), *_in_order(_by_check(made), g.checks)]:
        left = Counter({label: left[label] - out[label] for label in {*left, *out}})
        steps.append(_step(check, "check", left, out))
    accepted = Counter(label_text(r.label) for r in g.accepted)
    if any(left[label] != accepted[label] for label in {*left, *accepted}):
        out = Counter({label: left[label] - accepted[label] for label in {*left, *accepted}})
        steps.append(_step(PERSON, "check", accepted, out))
    steps.append(_step("accepted", "row", accepted, None))
    names = _labels(labels, steps)
    return [
        step | {"rows": {label: step["rows"].get(label, 0) for label in names}} for step in steps
    ]


def _step(name: str, kind: str, rows: Counter[str], out: Counter[str] | None) -> dict[str, Any]:
    lost = None if out is None else sum(out.values())
    return {
        "step": name,
        "kind": kind,
        "rows": dict(rows),
        "total": sum(rows.values()),
        "lost": lost,
    }


def _labels(labels: list[str], steps: list[dict[str, Any]]) -> list[str]:
    """The project's labels in their order, then others that the rows have, where they have any."""
    others = {label for step in steps for label, n in step["rows"].items() if n} - set(labels)
    return [*labels, *sorted(others)]


def _requests(came: Iterable[Record]) -> Counter[str]:
    """Replies per label: rows of one reply have the same request."""
    seen = {
        (label_text(r.label), str(r.lineage.get("request", f"row {n}"))) for n, r in enumerate(came)
    }
    return Counter(label for label, _ in seen)


def _by_check(rejected: list[Rejected]) -> list[tuple[str, Counter[str]]]:
    """Each check with its rows per label, in the order in which the checks first rejected a row."""
    found: dict[str, Counter[str]] = {}
    for r in rejected:
        found.setdefault(r.check, Counter())[label_text(r.record.label)] += 1
    return list(found.items())


def _in_order(
    found: list[tuple[str, Counter[str]]], ran: list[str]
) -> list[tuple[str, Counter[str]]]:
    """The checks as they ran: what a person rejected, and the surplus, come after them."""

    def at(check: str) -> int:
        name = check if check in ran else CHECK_BY_REASON.get(check, check)
        return ran.index(name) if name in ran else len(ran)

    return sorted(found, key=lambda item: at(item[0]))


def draw_funnel(steps: list[dict[str, Any]], name: str, path: Path) -> None:
    """The steps of the funnel as a PNG of bars: what is left after each, and what it lost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.34 * len(steps) + 1.1), layout="constrained")
    axes = figure.subplots()
    colors = ["#d98f00" if s["lost"] else "#4c78a8" for s in steps]
    axes.barh(range(len(steps)), [s["total"] for s in steps], color=colors)
    for i, s in enumerate(steps):
        lost = f" (−{s['lost']:,})" if s["lost"] else ""
        axes.annotate(
            f"{s['total']:,}{lost}",
            (s["total"], i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(steps)), [check_title(s["step"]).replace("$", r"\$") for s in steps])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(1, *(s["total"] for s in steps)))
    axes.set_xlabel("rows left after each step")
    axes.set_title(name.replace("$", r"\$"), fontsize=10)
    axes.spines[["right", "top"]].set_visible(False)
    figure.savefig(path, dpi=110, format="png")


def rejected_by_check(g: RetrainRows, labels: list[str]) -> list[dict[str, Any]]:
    """Rejected rows as {check, rows: {label: n}, total}, most first; seed rows are included."""
    table = _by_check([*g.unusable, *g.rejected])
    names = [*labels, *sorted({label for _, out in table for label in out} - set(labels))]
    rows = [
        {"check": check, "rows": {label: out[label] for label in names}, "total": out.total()}
        for check, out in table
    ]
    return sorted(rows, key=lambda row: (-row["total"], row["check"]))


def rows_by_source(g: RetrainRows, labels: list[str]) -> dict[str, dict[str, int]]:
    """Rows trained on, {label: {source: n}}, each source in every label."""
    rows = Counter((label_text(r.label), str(r.source)) for r in g.trained_on)
    names = [*labels, *sorted({label for label, _ in rows} - set(labels))]
    sources = ("seed", "synthetic", "harvested", "reviewed")
    return {label: {source: rows[label, source] for source in sources} for label in names}
