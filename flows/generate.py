"""Rows alone: what they would cost, or their generation and curation without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.publishing import report as reports
from flows.publishing.prompts import record as record_prompt
from flows.retraining.generation_loop import cost, cost_line, fill_quota
from flows.retraining.session import opened, run_name
from flows.settings import Settings
from flows.tracking import stage_runs
from tasks.dataset.split import prepare
from tasks.llm.budget import estimate
from tasks.llm.request import Request
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import read_records
from tasks.setup.preflight import check_references
from tasks.synthesise import by_model
from tasks.synthesise.plan import plan, unknown_drops, wanted
from tasks.synthesise.propose import proposals, proposer
from tasks.synthesise.quota import FIRST_GUESS


def planned(config: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Requests, tokens and dollars that the whole quota is likely to take, by generator. Nothing is sent.

    Where models are told apart, they are those of the answers, which are the real text: it is not there yet.
    """
    project = load_project(config, overrides)
    check_references(project, config)
    places = {"beside": config.absolute().parent, "home": Settings.from_environment().home}
    example: Request | None
    if project.generate.mode == "by_model":
        asked = by_model.planned(project, **places)
        generators = {name: estimate(own, project.generate.sources()[name][1]) for name, own in asked.items()}
        quota = dict.fromkeys(project.label_names, 0)
        example = next(q for own in asked.values() for q in own)
    else:
        quota, generators, example = _planned_rows(project, **places)
    total = {
        key: sum(g[key] for g in generators.values()) for key in ("requests", "prompt_tokens", "completion_tokens")
    }
    usd = round(sum(g["usd"] for g in generators.values()), 6)
    rows = sum(quota.values())
    return {
        "project": project.name,
        "quota": quota,
        "generators": generators,
        "total": {**total, "usd": usd, "usd_per_accepted_row": round(usd / rows, 8) if rows else None},
        "budget": project.generate.budget.model_dump(),
        "over_budget": _over(project, total, usd),
        "estimated": True,
        "notices": unknown_drops(project),
        "example": example.messages[-1][1] if example else None,
    }


def _planned_rows(
    project: Project, *, beside: Path, home: Path
) -> tuple[dict[str, int], dict[str, dict[str, Any]], Request | None]:
    """(rows wanted by label, what each generator is likely to take, a request)."""
    splits = prepare(project, beside=beside, home=home).splits
    quota = project.generate.quota(project.label_names, splits.counts["seed"])
    seeds = read_records(splits.directory / "seed.jsonl")
    count = {label: n for label, n in quota.items() if n}
    requests = plan(project, count=count, seeds=seeds, round_number=0, generation=0)
    generators = {
        name: estimate([q for q in requests if q.tag["generator"] == name], endpoint, FIRST_GUESS)
        for name, (_, endpoint) in (wanted(project) if requests else {}).items()
    }
    if project.generate.propose and requests:
        name = proposer(project)
        more = estimate(proposals(project), wanted(project)[name][1])
        generators[name] = {k: round(v + more[k], 6) for k, v in generators[name].items()} | {"estimated": True}
    return quota, generators, requests[0] if requests else None


def _over(project: Project, total: dict[str, int], usd: float) -> list[str]:
    """The limits that the estimate passes."""
    limits = project.generate.budget
    wanted = {
        "requests": total["requests"],
        "tokens": total["prompt_tokens"] + total["completion_tokens"],
        "usd": usd,
    }
    return [name for name, n in wanted.items() if (limit := getattr(limits, name)) is not None and n > limit]


@flow(name="generate", flow_run_name=run_name, timeout_seconds=7 * 24 * 3600)
def generate(config: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """Fill every label's quota of accepted rows and stop there; the next retrain finds them."""
    with opened(config, overrides) as r:
        r.timed(r.prepared.splits, "prepare")
        record_prompt(r)
        filled = fill_quota(r)
        stage_runs.curated(r.log, filled.rows)
        c = filled.rows.counts
        return {
            "project": r.project.name,
            "requested": dict(filled.asked),
            "accepted": filled.accepted,
            "rejected": c["rejected"],
            "sizes": filled.sizes,
            "generators": reports.by_generator(filled),
            "given_up": filled.given_up,
            "ended": filled.ended,
            "rows": str(filled.rows.directory / "kept.jsonl"),
            "cost": cost(r, filled),
            "seconds": {name: round(s, 1) for name, s in r.seconds.items()},
            "mlflow_run_id": r.log.run_id,
        }


def show_plan(found: dict[str, Any], console: Console) -> None:
    """The plan on a terminal; everything in it is an estimate."""
    table = Table(title=escape(f"{found['project']}: estimated, nothing was sent"), title_justify="left")
    for name in ("generator", "requests", "prompt tokens", "written tokens", "dollars"):
        table.add_column(name, justify="left" if name == "generator" else "right")
    keys = ("requests", "prompt_tokens", "completion_tokens", "usd")
    for name, own in [*found["generators"].items(), ("in all", found["total"])]:
        table.add_row(escape(name), *(f"{own[key]:,}" for key in keys))
    console.print(table)
    if any(found["quota"].values()):
        quota = ", ".join(f"{n} {label}" for label, n in found["quota"].items())
        console.print(escape(f"accepted rows wanted: {quota}"))
    for notice in found["notices"]:
        console.print(escape(notice))
    for name in found["over_budget"]:
        console.print(
            escape(f"generate.budget.{name} is {found['budget'][name]}: the run would stop before its quota is full")
        )
    if found["example"]:
        console.print(escape(f"a request: {found['example']}"))


def show_rows(found: dict[str, Any], console: Console) -> None:
    """What was generated, on a terminal."""
    table = Table(title=escape(f"{found['project']}: generated rows"), show_header=False, title_justify="left")
    accepted = ", ".join(f"{n} {label}" for label, n in found["accepted"].items())
    rejected = ", ".join(f"{n} {check}" for check, n in found["rejected"].items())
    lines = {
        "rows asked for": str(sum(found["requested"].values())),
        "accepted": f"{found['sizes']['accepted']}  ({accepted})",
        "rejected": f"{found['sizes']['rejected']}  ({rejected or 'none'})",
        "rows": found["rows"],
    }
    if found["cost"]["tokens"]:
        lines["cost"] = cost_line(found["cost"])
    if found["ended"]:
        lines["ended"] = found["ended"]
    for name, value in lines.items():
        table.add_row(name, escape(value))
    console.print(table)
