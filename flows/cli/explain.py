"""`reseed curate`: the funnel of a project's last retrain, and the story of one row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.review.session import require_last_retrain
from flows.settings import Settings
from tasks.figures import Figures
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.report.data.figures import CheckRejections, FunnelStep
from tasks.report.data.funnel import funnel_steps, rejected_by_check
from tasks.report.data.page import check_title
from tasks.report.data.rows import load_rows
from tasks.review.row_history import explain_row
from tasks.review.row_lookup import locate_retrain
from tasks.workspace import RetrainData

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def retrain_data(
    settings: Settings, project: Project, config: Path, curated: Path | None
) -> RetrainData:
    """The data of the project's last retrain, or that behind `curated`.

    Raises UserError where there is none.
    """
    if curated is not None:
        return locate_retrain(settings.workspace, curated, config=config)
    return require_last_retrain(settings.workspace, project)


def row_story(settings: Settings, config: Path, row: str, curated: Path | None) -> dict[str, Any]:
    """The story of ROW as JSON (tasks/review/row_history.py)."""
    project = load_project(config)
    data = retrain_data(settings, project, config, curated)
    return explain_row(
        row, data=data, workspace=settings.workspace, name=project.name, settings=project.curate
    ).to_json()


class CurationSummary(Figures):
    """Where the rows of a retrain went; `curated` is the directory of the kept ones."""

    project: str
    curated: str
    funnel: list[FunnelStep]
    rejected: list[CheckRejections]


def curation_summary(settings: Settings, config: Path, curated: Path | None) -> CurationSummary:
    """Where the rows of the last retrain, or of `curated`, went."""
    project = load_project(config)
    data = retrain_data(settings, project, config, curated)
    g, labels = load_rows(data), project.label_names
    return CurationSummary(
        project=project.name,
        curated=str(data.curated),
        funnel=funnel_steps(g, labels),
        rejected=rejected_by_check(g, labels),
    )


def print_summary(summary: CurationSummary, to: Console) -> None:
    """The funnel as a table: rows left after each step, by label."""
    table = Table(
        title=f"{escape(summary.project)}: rows left after each step",
        title_justify="left",
        pad_edge=False,
    )
    table.add_column("step")
    for label in summary.funnel[0].rows:
        table.add_column(escape(label), justify="right", overflow="fold")
    table.add_column("all", justify="right")
    table.add_column("rejected", justify="right")
    for s in summary.funnel:
        counts = [str(n) for n in s.rows.values()]
        table.add_row(escape(check_title(s.step)), *counts, str(s.total), str(s.lost or ""))
    to.print(table)
    to.print(
        "reseed curate CONFIG --explain ROW shows the story of one row; ROW is an id or a piece of the text"
    )


def print_story(story: dict[str, Any], to: Console) -> None:
    """The story from the request to the model, one line per fact."""
    table = Table(
        title=f"row {story['id']}: {story['fate']}",
        title_justify="left",
        show_header=False,
        pad_edge=False,
    )
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in story_lines(story):
        table.add_row(escape(_plain(name)), escape(_plain(value)))
    to.print(table)


def _plain(text: str) -> str:
    """The text without control characters, so that a reply cannot move the cursor."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def story_lines(story: dict[str, Any]) -> list[tuple[str, str]]:
    """The story as pairs of a name and a sentence."""
    text = (
        "not shown: it repeats held-out text or holds personal data"
        if story["text"] is None
        else story["text"]
    )
    facts = [("text", text), ("label", str(story["label"])), ("source", story["source"])]
    facts += _origin(story)
    for step in story["steps"]:
        facts.append(
            (
                check_title(step["check"]),
                "passed" if step["passed"] else f"rejected: {step['reason']}",
            )
        )
    if other := story["other"]:
        about = f"{other['id']} ({other['where']}{', ' + other['label'] if other['label'] else ''})"
        facts.append(("compared with", f"{about}: {other['text'] or 'its text is not shown'}"))
    facts += [("the same text", f"also rejected: {t['reason']}") for t in story["same_text"]]
    if o := story["opinion"]:
        opinion = f"{o['label']} ({o['probability']:.2f}); its own label {o['own']:.2f}"
        opinion += f"; doubt rank {o['rank']:g}" if o["rank"] is not None else ""
        facts.append(("the probe predicts", opinion))
    facts += [("a person", _decision(d)) for d in story["decisions"]]
    if h := story["harvested"]:
        facts.append(("harvested", f"with a score of {h['score']}, in harvest {h['harvest']}"))
    if t := story["trained_on"]:
        models = ", ".join(t["models"]) or "no model yet"
        facts.append(("trained on", f"as {t['label']}, in {t['directory']}; by {models}"))
    else:
        facts.append(("trained on", "no"))
    return facts


def _origin(story: dict[str, Any]) -> list[tuple[str, str]]:
    """The request and its reply, where an LLM wrote the row."""
    facts = []
    if a := story["asked"]:
        where = f"round {a['round'] + 1}" if isinstance(a["round"], int) else "no round"
        facts.append(
            (
                "requested from",
                f"{a['generator']} at {a['endpoint'] or 'an unknown endpoint'}, in {where}",
            )
        )
        if a["prompt"]:
            facts.append(("prompt", a["prompt"]))
        facts += [(name, value) for name, value in a["drawn"].items()]
        for s in a["seeds"]:
            facts.append(
                ("seed row in the prompt", f"{s['id']}: {s['text'] or 'not in these splits'}")
            )
        if a["tokens"]:
            estimated = ", estimated" if a["measured"] is False else ""
            dollars = f", ${a['usd']:.6f}" if a["usd"] is not None else ""
            facts.append(
                (
                    "cost",
                    f"{a['tokens'][0]:g} prompt and {a['tokens'][1]:g} completion tokens{dollars}{estimated}",
                )
            )
    if r := story["reply"]:
        facts.append(("reply", r["text"] if r["text"] is not None else "not shown"))
        facts.append(("cached in", r["path"] if r["kept"] else f"{r['path']} is gone"))
    return facts


def _decision(d: dict[str, Any]) -> str:
    to = f" to {d['label_after']}" if d["decision"] == "relabel" else ""
    return f"{d['decision']}{to}, by {d['by']} on {d['when'][:16].replace('T', ' ')}"
