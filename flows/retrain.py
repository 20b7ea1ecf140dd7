"""The flow `retrain`: from label names to a promoted, answering model.

reseed retrain configs/bbc-news.yaml        or, as a deployment,        prefect deployment run retrain/bbc-news
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows import steps
from flows.context import Retrain
from flows.progress import say
from flows.publishing import data_report, html, model_card, run_page, traces
from flows.publishing import report as reports
from flows.publishing.prompts import record as record_prompt
from flows.retraining import measurements
from flows.retraining.decision import description, judge_and_promote
from flows.retraining.generation_loop import Filled, cost, fill_quota
from flows.retraining.label_first import label_first
from flows.retraining.mixtures import learned, lift, seeds_scored, train_best_mix
from flows.retraining.scoring import every_baseline, scored
from flows.retraining.session import opened, run_name
from flows.review.session import wait_for_review
from flows.tracking import stage_runs
from tasks import atomic
from tasks.dataset.sealed import count_openings
from tasks.stage import Stage


@flow(name="retrain", flow_run_name=run_name, timeout_seconds=7 * 24 * 3600)
def retrain(config: str, overrides: list[str] | None = None, fresh: bool = False) -> dict[str, Any]:
    """The report (flows/publishing/report.py) of a retrain of the project file `config`. `fresh` makes a new challenger."""
    with opened(config, overrides, fresh=fresh) as r:
        report = _story(r)
        r.judged = True
    create_markdown_artifact(
        reports.markdown(report),
        key=f"{r.project.name.replace('.', '-').replace('_', '-')}-retrain",
        description="retrain",
    )
    return report


def _story(r: Retrain) -> dict[str, Any]:
    r.timed(r.prepared.splits, "prepare")
    for notice in r.prepared.splits.counts["notices"]:
        say(f"  {notice}")
    stage_runs.splits(r.log, r.prepared)
    prompt = record_prompt(r)

    filled = fill_quota(r)
    _note_places(r, filled, None)
    if wait_for_review(
        r.project, curated=filled.rows.directory, splits=r.prepared.splits.directory, config=r.config, home=r.home
    ):
        filled = fill_quota(r)  # with what the person decided
    stage_runs.curated(r.log, filled.rows)
    traces.record(r, filled)
    run_page.named(r, filled.rows)
    _note_places(r, filled, None)

    trained = train_best_mix(r, filled.rows)
    _note_places(r, filled, trained.harvested)
    _report_of_data(r, filled, trained.harvested)
    exported = r.timed(steps.export(r.project, trained=trained.model, splits=r.prepared.splits, home=r.home))
    stage_runs.exported(r.log, exported)
    challenger = scored(r, exported.directory / "bundle", exported.counts["bundle"], "challenger")
    r.measured = measurements.measured(r, exported.directory / "bundle", exported.counts["bundle"], "challenger")
    baselines = every_baseline(r, filled.rows)
    gains = lift(r, trained, baselines["descriptions"])
    curve = learned(r, trained)

    version = steps.store_step(r.registry.register, name="register")(
        r.project.name,
        exported.directory / "bundle",
        digest=exported.counts["bundle"],
        run_id=trained.run_id,
        labels=r.project.label_names,
        description=description(r, challenger, trained.rows),
    )
    run_page.scored(r, version, rows=trained.rows, trained=trained.model, challenger=challenger, curve=curve)
    verdict, champion, promoted = judge_and_promote(r, version, challenger, baselines, seeds_scored(r, trained))
    bundle = exported.directory / "bundle"
    to_label = label_first(r, version, bundle) if verdict.decision == "inconclusive" else None
    report = {
        "project": r.project.name,
        "verdict": verdict.decision,
        "reasons": list(verdict.reasons),
        "promoted": promoted,
        "gain": {"value": verdict.gain, "lower": verdict.lower, "upper": verdict.upper, "opponent": verdict.opponent},
        "model": {"name": version.name, "version": version.version, "bundle": version.digest},
        "test": reports.figures(challenger) | {"openings": count_openings(r.prepared.sealed, home=r.home)},
        "champion": champion,
        "baselines": reports.baselines(r.project, baselines, challenger),
        "lift": gains,
        "label_first": to_label,
        **measurements.told(r.measured),
        "inference": exported.counts["inference"],
        "seeds": trained.seeds,
        "adapted": r.adapted.counts if r.adapted else None,
        "data": reports.data_counts(r.prepared, filled, trained),
        "seconds": {name: round(s, 1) for name, s in r.seconds.items()},
        "tokens": reports.tokens(filled.bought),
        "cost": cost(r, filled),
        "generation": r.generation,
        "mlflow_run_id": r.log.run_id,
        "mlflow_tracking_uri": r.settings.store,
        "flow_run_id": flow_run.id,
        "report": str(html.place(r.settings, r.project.name)),
    }
    if not run_page.stands(r, version, champion, promoted=promoted):
        stage_runs.judged(r.log, verdict)
        html.write(r, report, verdict=verdict, challenger=challenger, training=trained.rows, curve=curve)
        run_page.write(r, report, rows=trained.rows)
        model_card.write(r, version, report, rows=trained.rows, challenger=challenger, prompt=prompt)
    return report


def _note_places(r: Retrain, filled: Filled, harvested: Stage | None) -> None:
    """Where `reseed review` and `reseed curate` find the rows of the last retrain."""
    places = {
        "curated": filled.rows.path,
        "splits": r.prepared.splits.path,
        "rounds": [s.path for s in filled.rounds],
        "harvested": harvested.path if harvested else None,
        "config": str(r.config),
    }
    atomic.write_json(r.home / "projects" / f"{r.project.name}.review.json", places)


def _report_of_data(r: Retrain, filled: Filled, harvested: Stage | None) -> None:
    """The page about the rows, in MLflow."""
    stage = steps.data_report(
        r.project,
        rounds=filled.rounds,
        curated=filled.rows,
        harvested=harvested,
        splits=r.prepared.splits,
        **r.places,
    )
    data_report.log(r.log, r.timed(stage, title="data report"))
