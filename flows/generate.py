"""Generate and curate rows without training a model, or estimate what that would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.publishing.prompts import register_prompt
from flows.publishing.report import summarise_generators
from flows.retraining.generation_loop import fill_quota
from flows.retraining.session import flow_run_name, open_session
from flows.settings import Settings
from tasks.curate.stage import RowCounts
from tasks.dataset.split import split_dataset
from tasks.figures import Figures, format_counts
from tasks.llm.budget import Estimate, estimate_usage
from tasks.llm.request import Request
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import read_records
from tasks.report.cost import Cost, GeneratorRows
from tasks.setup.preflight import check_references
from tasks.synthesise import model_answers
from tasks.synthesise.plan import (
    RoundRequest,
    active_generators,
    plan_requests,
    unknown_generator_notices,
)
from tasks.synthesise.propose import proposal_requests, proposing_generator
from tasks.synthesise.quota import ASSUMED_ACCEPTANCE
from tasks.workspace import Workspace


class Plan(Figures):
    """An estimate of what a project's rows cost, by generator and in total; nothing was sent.

    `quota` is the rows wanted by label, `over_budget` the limits that the estimate exceeds, `example` the
    text of one request.
    """

    project: str
    quota: dict[str, int]
    generators: dict[str, Estimate]
    total: Estimate
    usd_per_accepted_row: float | None
    budget: dict[str, float | None]
    over_budget: list[str]
    notices: list[str]
    example: str | None


class GeneratedReport(Figures):
    """The result of `reseed generate`: rows requested, accepted and rejected, and their cost."""

    project: str
    requested: dict[str, int]
    accepted: dict[str, int]
    rejected: dict[str, int]
    sizes: RowCounts
    generators: dict[str, GeneratorRows]
    given_up: dict[str, str]
    ended: str | None
    rows: str
    cost: Cost
    seconds: dict[str, float]
    mlflow_run_id: str


def estimate_cost(config: Path, overrides: tuple[str, ...]) -> Plan:
    """The requests, tokens and dollars that the whole quota is likely to take. Nothing is sent.

    For a detector of which model wrote a text, the answers of the models are estimated instead: they are
    its real text. Raises UserError where the project file is wrong.
    """
    project = load_project(config, overrides)
    check_references(project, config)
    workspace = Settings.from_environment().workspace
    example: Request | None
    if project.generate.mode == "by_model":
        asked = model_answers.plan_questions(project, workspace=workspace)
        generators = {
            name: estimate_usage(own, project.generate.endpoints()[name][1])
            for name, own in asked.items()
        }
        quota = dict.fromkeys(project.label_names, 0)
        example = next(q for own in asked.values() for q in own)
    else:
        quota, generators, example = _planned_rows(project, workspace)
    total = Estimate(requests=0, prompt_tokens=0, completion_tokens=0, usd=0.0)
    for own in generators.values():
        total += own
    rows = sum(quota.values())
    return Plan(
        project=project.name,
        quota=quota,
        generators=generators,
        total=total,
        usd_per_accepted_row=round(total.usd / rows, 8) if rows else None,
        budget=project.generate.budget.model_dump(),
        over_budget=_over(project, total),
        notices=unknown_generator_notices(project),
        example=example.messages[-1][1] if example else None,
    )


def _planned_rows(
    project: Project, workspace: Workspace
) -> tuple[dict[str, int], dict[str, Estimate], Request | None]:
    """(rows wanted by label, the estimate of each generator, one request)."""
    splits = split_dataset(project, workspace=workspace)
    quota = project.generate.quota(project.label_names, splits.seed)
    seeds = read_records(splits.directory / "seed.jsonl")
    asked = RoundRequest(
        count={label: n for label, n in quota.items() if n},
        round_number=0,
        generation=0,
        more_topics={},
    )
    requests = plan_requests(project, asked, seeds=seeds)
    generators = {
        name: estimate_usage(
            [q for q in requests if q.tag["generator"] == name], endpoint, ASSUMED_ACCEPTANCE
        )
        for name, (_, endpoint) in (active_generators(project) if requests else {}).items()
    }
    if project.generate.propose_topics and requests:
        name = proposing_generator(project)
        generators[name] += estimate_usage(
            proposal_requests(project), active_generators(project)[name][1]
        )
    return quota, generators, requests[0] if requests else None


def _over(project: Project, total: Estimate) -> list[str]:
    """The names of the limits that the estimate exceeds."""
    limits = project.generate.budget
    tokens = total.prompt_tokens + total.completion_tokens
    needed = {"requests": total.requests, "tokens": tokens, "usd": total.usd}
    return [
        name
        for name, n in needed.items()
        if (limit := getattr(limits, name)) is not None and n > limit
    ]


@flow(name="generate", flow_run_name=flow_run_name, timeout_seconds=7 * 24 * 3600)
def generate(config: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """A GeneratedReport as JSON: every label's quota is filled, and the next retrain uses the rows."""
    with open_session(config, overrides) as session:
        run = session.run
        run.tracking.set_tags(prompt=register_prompt(run.tracking.client, run.project))
        generated = fill_quota(run)
        c = generated.curated
        report = GeneratedReport(
            project=run.project.name,
            requested=dict(generated.requested),
            accepted=c.accepted,
            rejected=c.rejected,
            sizes=c.rows,
            generators=summarise_generators(generated),
            given_up=generated.given_up,
            ended=generated.ended,
            rows=str(c.rows_file),
            cost=generated.cost,
            seconds={name: round(s, 1) for name, s in run.runner.seconds.items()},
            mlflow_run_id=run.tracking.run_id,
        )
        return report.model_dump(mode="json")


def show_plan(report: Plan, console: Console) -> None:
    """Print the plan."""
    table = Table(
        title=escape(f"{report.project}: an estimate, nothing was sent"), title_justify="left"
    )
    for name in ("generator", "requests", "prompt tokens", "written tokens", "dollars"):
        table.add_column(name, justify="left" if name == "generator" else "right")
    for name, e in [*report.generators.items(), ("total", report.total)]:
        cells = (e.requests, e.prompt_tokens, e.completion_tokens, e.usd)
        table.add_row(escape(name), *(f"{n:,}" for n in cells))
    console.print(table)
    if any(report.quota.values()):
        console.print(escape(f"accepted rows wanted: {format_counts(report.quota)}"))
    for notice in report.notices:
        console.print(escape(notice))
    for name in report.over_budget:
        limit = report.budget[name]
        console.print(
            escape(f"generate.budget.{name} is {limit}: a run would stop before the quota is full")
        )
    if report.example:
        console.print(escape(f"one request: {report.example}"))


def show_rows(report: GeneratedReport, console: Console) -> None:
    """Print the result."""
    table = Table(
        title=escape(f"{report.project}: generated rows"), show_header=False, title_justify="left"
    )
    lines = {
        "rows requested": str(sum(report.requested.values())),
        "accepted": f"{report.sizes.accepted}  ({format_counts(report.accepted)})",
        "rejected": f"{report.sizes.rejected}  ({format_counts(report.rejected)})",
        "rows": report.rows,
    }
    if report.cost.tokens:
        lines["cost"] = report.cost.line()
    if report.ended:
        lines["ended"] = report.ended
    for name, value in lines.items():
        table.add_row(name, escape(value))
    console.print(table)
