"""The funnel of rows: from those requested, through every check, to those that are trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tasks.records import Record, Rejected, label_text
from tasks.report.data.figures import CheckRejections, FunnelStep, SourceCounts, StepKind
from tasks.report.data.page import check_title
from tasks.report.data.rows import CHECK_BY_REASON, RetrainRows, is_generated

PERSON = "person"  # rows that a person relabelled, or accepted against a check


def funnel_steps(g: RetrainRows, labels: list[str]) -> list[FunnelStep]:
    """The steps in order, with the rows left after each and lost by it.

    `asked` counts rows asked for, `replies` the answers, `texts` the rows in them (more than
    replies where one has several rows); each check follows in the order in which it ran; `accepted`
    is what was kept. From `texts` on, every step is the one before it less what it lost, in every
    label.
    """
    asked: Counter[str] = Counter()
    for r in g.rounds:
        asked.update(r.asked)
    came = [*g.written, *(r.record for r in g.unusable)]
    left = Counter(label_text(r.label) for r in came)
    steps = [
        _Step("asked", "row", asked),
        _Step("replies", "reply", _requests(came)),
        _Step("texts", "row", left),
    ]
    made = [r for r in g.rejected if is_generated(r.record)]
    for check, out in [*_by_check(g.unusable), *_in_order(_by_check(made), g.checks)]:
        left = _less(left, out)
        steps.append(_Step(check, "check", left, out.total()))
    accepted = Counter(label_text(r.label) for r in g.accepted)
    out = _less(left, accepted)
    if any(out.values()):
        steps.append(_Step(PERSON, "check", accepted, out.total()))
    steps.append(_Step("accepted", "row", accepted))
    names = _with_others(labels, [s.rows for s in steps])
    return [s.figures(names) for s in steps]


class _Step(NamedTuple):
    name: str
    kind: StepKind
    rows: Counter[str]
    lost: int | None = None

    def figures(self, labels: list[str]) -> FunnelStep:
        rows = {label: self.rows[label] for label in labels}
        total = self.rows.total()
        return FunnelStep(step=self.name, kind=self.kind, rows=rows, total=total, lost=self.lost)


def _less(rows: Counter[str], out: Counter[str]) -> Counter[str]:
    """The rows without `out`, by label; a count may be negative."""
    return Counter({label: rows[label] - out[label] for label in {*rows, *out}})


def _with_others(labels: list[str], counts: Iterable[Counter[str]]) -> list[str]:
    """The project's labels in their order, then others that the rows have, where they have any."""
    others = {label for rows in counts for label, n in rows.items() if n} - set(labels)
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


def draw_funnel(steps: list[FunnelStep], name: str, path: Path) -> None:
    """The steps of the funnel as a PNG of bars: what is left after each, and what it lost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.34 * len(steps) + 1.1), layout="constrained")
    axes = figure.subplots()
    colors = ["#d98f00" if s.lost else "#4c78a8" for s in steps]
    axes.barh(range(len(steps)), [s.total for s in steps], color=colors)
    for i, s in enumerate(steps):
        lost = f" (−{s.lost:,})" if s.lost else ""
        axes.annotate(
            f"{s.total:,}{lost}",
            (s.total, i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(steps)), [check_title(s.step).replace("$", r"\$") for s in steps])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(1, *(s.total for s in steps)))
    axes.set_xlabel("rows left after each step")
    axes.set_title(name.replace("$", r"\$"), fontsize=10)
    axes.spines[["right", "top"]].set_visible(False)
    figure.savefig(path, dpi=110, format="png")


def rejected_by_check(g: RetrainRows, labels: list[str]) -> list[CheckRejections]:
    """Rejected rows by check, most first; seed rows are included."""
    table = _by_check([*g.unusable, *g.rejected])
    names = _with_others(labels, [out for _, out in table])
    rows = [
        CheckRejections(check=check, rows={label: out[label] for label in names}, total=out.total())
        for check, out in table
    ]
    return sorted(rows, key=lambda row: (-row.total, row.check))


def rows_by_source(g: RetrainRows, labels: list[str]) -> dict[str, SourceCounts]:
    """Rows trained on, by label and source."""
    rows = Counter((label_text(r.label), r.source) for r in g.trained_on)
    return {
        label: SourceCounts(
            seed=rows[label, "seed"],
            synthetic=rows[label, "synthetic"],
            harvested=rows[label, "harvested"],
            reviewed=rows[label, "reviewed"],
        )
        for label in _with_others(labels, [Counter(label for label, _ in rows)])
    }
