"""`reseed curate`: the funnel of a project's last retrain, and the story of one row."""

from __future__ import annotations

import re
from pathlib import Path

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
from tasks.review.story import RowDecision, Story
from tasks.workspace import RetrainData

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


Facts = list[tuple[str, str]]  # a name and a sentence


class CurationSummary(Figures):
    """Where the rows of a retrain went; `curated` is the directory of the kept ones."""

    project: str
    curated: str
    funnel: list[FunnelStep]
    rejected: list[CheckRejections]


def retrain_data(
    settings: Settings, project: Project, config: Path, curated: Path | None
) -> RetrainData:
    """The data of the project's last retrain, or that behind `curated`.

    Raises UserError where there is none.
    """
    if curated is not None:
        return locate_retrain(settings.workspace, curated, config=config)
    return require_last_retrain(settings.workspace, project)


def row_story(settings: Settings, config: Path, row: str, curated: Path | None) -> Story:
    """The story of ROW."""
    project = load_project(config)
    data = retrain_data(settings, project, config, curated)
    return explain_row(
        row, data=data, workspace=settings.workspace, name=project.name, settings=project.curate
    )


def curation_summary(settings: Settings, config: Path, curated: Path | None) -> CurationSummary:
    """Where the rows of the last retrain, or of `curated`, went."""
    project = load_project(config)
    data = retrain_data(settings, project, config, curated)
    rows, labels = load_rows(data), project.label_names
    return CurationSummary(
        project=project.name,
        curated=str(data.curated),
        funnel=funnel_steps(rows, labels),
        rejected=rejected_by_check(rows, labels),
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
        counts = [str(n) for n in (*s.rows.values(), s.total)]
        table.add_row(escape(check_title(s.step)), *counts, str(s.lost or ""))
    to.print(table)
    to.print(
        "reseed curate CONFIG --explain ROW shows the story of one row; "
        "ROW is an id or a piece of the text"
    )


def print_story(story: Story, to: Console) -> None:
    """The story from the request to the model, one line per fact."""
    table = Table(
        title=f"row {story.id}: {story.fate}",
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


def story_lines(story: Story) -> Facts:
    """The story as pairs of a name and a sentence."""
    text = story.text
    if text is None:
        text = "not shown: it repeats held-out text or holds personal data"
    facts = [("text", text), ("label", str(story.label)), ("source", story.source)]
    facts += _request_lines(story) + _reply_lines(story)
    for step in story.steps:
        outcome = "passed" if step.passed else f"rejected: {step.reason}"
        facts.append((check_title(step.check), outcome))
    if o := story.other:
        about = f"{o.id} ({o.where}{', ' + o.label if o.label else ''})"
        facts.append(("compared with", f"{about}: {o.text or 'its text is not shown'}"))
    facts += [("the same text", f"also rejected: {t.reason}") for t in story.same_text]
    if p := story.opinion:
        rank = f"; doubt rank {p.rank:g}" if p.rank is not None else ""
        opinion = f"{p.label} ({p.probability:.2f}); its own label {p.own:.2f}{rank}"
        facts.append(("the probe predicts", opinion))
    facts += [("a person", _decision(d)) for d in story.decisions]
    return facts + _training_lines(story)


def _request_lines(story: Story) -> Facts:
    """The request and its cost, where an LLM wrote the row."""
    r = story.asked
    if r is None:
        return []
    where = "no round" if r.round is None else f"round {r.round + 1}"
    endpoint = r.endpoint or "an unknown endpoint"
    facts = [("requested from", f"{r.generator} at {endpoint}, in {where}")]
    if r.prompt:
        facts.append(("prompt", r.prompt))
    facts += r.drawn.items()
    for seed in r.seeds:
        facts.append(("seed row in the prompt", f"{seed.id}: {seed.text or 'not in these splits'}"))
    if r.tokens:
        prompt, completion = r.tokens
        dollars = f", ${r.usd:.6f}" if r.usd is not None else ""
        estimated = ", estimated" if r.measured is False else ""
        tokens = f"{prompt:g} prompt and {completion:g} completion tokens"
        facts.append(("cost", f"{tokens}{dollars}{estimated}"))
    return facts


def _reply_lines(story: Story) -> Facts:
    r = story.reply
    if r is None:
        return []
    return [
        ("reply", "not shown" if r.text is None else r.text),
        ("cached in", r.path if r.kept else f"{r.path} is gone"),
    ]


def _training_lines(story: Story) -> Facts:
    """Self-training's score, and what was trained on the row."""
    facts = []
    if h := story.harvested:
        facts.append(("self-trained", f"with a score of {h.score}, in round {h.round}"))
    if t := story.trained_on:
        models = ", ".join(t.models) or "no model yet"
        facts.append(("trained on", f"as {t.label}, in {t.directory}; by {models}"))
    else:
        facts.append(("trained on", "no"))
    return facts


def _decision(d: RowDecision) -> str:
    to = f" to {d.label_after}" if d.decision == "relabel" else ""
    return f"{d.decision}{to}, by {d.by} on {d.when[:16].replace('T', ' ')}"
