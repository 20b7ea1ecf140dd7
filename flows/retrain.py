"""The flow `retrain`: from label names to a promoted, answering model.

reseed retrain configs/bbc-news.yaml        or, as a deployment,        prefect deployment run retrain/bbc-news
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import deployment, flow_run

from flows import generation as generations
from flows import report as reports
from flows import stage_runs, steps
from flows.context import Retrain
from flows.filling import cost, fill_quota
from flows.judging import baseline, description, judge_and_promote, scored
from flows.mixing import lift, train_best_mix
from flows.progress import say
from flows.prompts import record as record_prompt
from flows.registry import Registry
from flows.settings import Settings, quiet
from flows.tracking import Tracking, connect
from tasks import files
from tasks.errors import TransientError, UserError
from tasks.evaluate.score import BASELINES
from tasks.prepare import Prepared, count_openings
from tasks.project import Project
from tasks.project_file import check_references, load_project
from tasks.records import digest_of
from tasks.synthesise.stage import check_endpoint


def _run_name() -> str:
    return f"{Path(str(flow_run.parameters.get('config', ''))).stem} {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(name="retrain", flow_run_name=_run_name, timeout_seconds=48 * 3600)
def retrain(config: str, overrides: list[str] | None = None, fresh: bool = False) -> dict[str, Any]:
    """The report (flows/report.py) of a retrain of the project file `config`. `fresh` makes a new challenger."""
    _say_mistakes_in_a_line()
    settings = Settings.from_environment()
    project = load_project(Path(config), overrides or [])
    check_references(project, Path(config))
    check_endpoint(project)
    with files.only_one(settings.home / "locks" / f"retrain-{project.name}.lock", f"a retrain of {project.name!r}"):
        generation, judged_before = generations.begin(settings.home, project.name, fresh=fresh)
        client = connect(settings)
        registry = Registry(client, settings)
        registry.reconcile(project.name)
        log = _open_run(project, settings, config=config, generation=generation)
        try:
            prepared: Prepared = steps.prepare(project, beside=Path(config).absolute().parent, home=settings.home)
            report = _story(
                Retrain(project, Path(config).absolute(), settings, generation, judged_before, registry, log, prepared)
            )
        except BaseException as e:
            log.tag(failure=f"{type(e).__name__}: {e}")
            log.close("FAILED" if isinstance(e, Exception) else "KILLED")
            raise
        log.close("FINISHED")
        generations.judged(settings.home, project.name, generation)
    create_markdown_artifact(
        reports.markdown(report),
        key=f"{project.name.replace('.', '-').replace('_', '-')}-retrain",
        description="retrain",
    )
    return report


def _story(r: Retrain) -> dict[str, Any]:
    r.timed(r.prepared.splits, "prepare")
    for notice in r.prepared.splits.counts["notices"]:
        say(f"  {notice}")
    stage_runs.splits(r.log, r.prepared)
    record_prompt(r)

    filled = fill_quota(r)
    stage_runs.curated(r.log, filled.rows)

    trained = train_best_mix(r, filled.rows)
    challenger = scored(r, trained.model.directory / "bundle", trained.model.counts["bundle"], "challenger")
    baselines = {name: baseline(r, filled.rows, name) for name in BASELINES}
    gains = lift(r, trained, baselines["descriptions"])

    version = steps.store_step(r.registry.register, name="register")(
        r.project.name,
        trained.model.directory / "bundle",
        digest=trained.model.counts["bundle"],
        run_id=trained.run_id,
        labels=r.project.label_names,
        description=description(r, challenger, trained.rows),
    )
    verdict, champion, promoted = judge_and_promote(r, version, challenger, baselines)
    stage_runs.judged(r.log, verdict, challenger)
    data = reports.data_counts(r.prepared, filled, trained)
    spent = reports.tokens(filled.rounds)
    r.log.metrics(
        {f"data.{k}.rows": float(data[k]["total"]) for k in ("requested", "accepted", "rejected", "harvested")}
    )
    r.log.metrics({f"tokens.{k}": float(v) for k, v in spent.items()})
    costs = cost(r, filled)
    r.log.metrics({"cost.usd": costs["usd"]})
    return {
        "project": r.project.name,
        "verdict": verdict.decision,
        "reasons": list(verdict.reasons),
        "promoted": promoted,
        "gain": {"value": verdict.gain, "lower": verdict.lower, "upper": verdict.upper, "opponent": verdict.opponent},
        "model": {"name": version.name, "version": version.version, "bundle": version.digest},
        "test": reports.figures(challenger) | {"openings": count_openings(r.prepared.sealed, home=r.home)},
        "champion": champion,
        "baselines": {name: reports.figures(b) for name, b in baselines.items()},
        "lift": gains,
        "data": data,
        "seconds": {name: round(s, 1) for name, s in r.seconds.items()},
        "tokens": spent,
        "cost": costs,
        "generation": r.generation,
        "mlflow_run_id": r.log.run_id,
        "mlflow_tracking_uri": r.settings.tracking_uri,
        "flow_run_id": flow_run.id,
    }


def _open_run(project: Project, settings: Settings, *, config: str, generation: int) -> Tracking:
    identity = digest_of({"project": project.digest, "generation": generation})[:32]
    return Tracking.open(
        connect(settings),
        settings,
        experiment=project.name,
        retrain_id=identity,
        name=f"{datetime.now(UTC):%Y-%m-%d} {Path(project.train.model).parts[0].split(':')[-1]} #{generation}",
        params=project.parameters() | {"generation": str(generation), "config": config},
    )


def _say_mistakes_in_a_line() -> None:
    """Leave the traceback out of what Prefect logs of a mistake or a passing fault: the sentence is enough.

    The console does not show it at all where the command says it anyway; a retry that is to come is shown.
    """
    quiet()
    if not deployment.id:
        for handler in logging.getLogger("prefect").handlers:
            handler.addFilter(_not_said_by_the_command)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_shortened)


def _shortened(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (UserError, TransientError)):
        record.exc_info, record.exc_text = None, None
    return True


def _not_said_by_the_command(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    known = "UserError" in text or "TransientError" in text
    return not known or "will start" in text
