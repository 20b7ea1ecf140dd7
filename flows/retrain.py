"""The flow `retrain`: from label names to a promoted, answering model.

reseed retrain configs/bbc-news.yaml        or, as a deployment,        prefect deployment run retrain/bbc-news
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.context import RunContext
from flows.publishing import data_report as data_page
from flows.publishing import html, model_card, prompts, run_page, terminal, traces
from flows.publishing.report import assemble
from flows.retraining.decision import Candidate, judge_and_promote
from flows.retraining.generation_loop import GeneratedRows, fill_quota
from flows.retraining.label_first import list_texts_to_label
from flows.retraining.mixtures import (
    Trained,
    measure_learning_curve,
    measure_lift,
    train_best_mixture,
)
from flows.retraining.scoring import measure, score, score_baselines
from flows.retraining.seeds import score_seeds
from flows.retraining.session import flow_run_name, open_session
from flows.review.session import wait_for_review
from tasks.model.inference.choose import export_bundle
from tasks.report.data.stage import data_report
from tasks.report.model import RetrainReport
from tasks.workspace import RetrainData


@flow(name="retrain", flow_run_name=flow_run_name, timeout_seconds=7 * 24 * 3600)
def retrain(config: str, overrides: list[str] | None = None, fresh: bool = False) -> dict[str, Any]:
    """The report of a retrain of the project file `config`, as JSON. `fresh` makes a new challenger."""
    with open_session(config, overrides, fresh=fresh) as session:
        report = _retrain(session.run)
        session.finish()
    create_markdown_artifact(
        terminal.markdown(report),
        key=f"{report.project.replace('.', '-').replace('_', '-')}-retrain",
        description="retrain",
    )
    return report.model_dump(mode="json", by_alias=True)


def _retrain(run: RunContext) -> RetrainReport:
    prompt = prompts.record(run)
    generated = fill_quota(run)
    data = note_data(run, generated, None)
    if wait_for_review(run, data):
        generated = fill_quota(run)  # with what the person decided
        note_data(run, generated, None)
    traces.record(run, generated)
    run_page.rename_run(run, generated.curated)

    trained = train_best_mixture(run, generated.curated)
    note_data(run, generated, trained)
    _report_data(run, generated, trained)
    exported = run.stage(export_bundle, name="export", headline=True)(
        run.project, trained=trained.seeds.bundle, splits=run.splits, workspace=run.workspace
    )
    run.tracking.tag(backend=exported.inference.backend)
    challenger = score(run, exported.ref, "challenger")
    measured = measure(run, exported.ref, "challenger", headline=True)
    baselines = score_baselines(run, generated.curated)
    lift = measure_lift(run, trained.base, baselines["descriptions"])
    curve = measure_learning_curve(run, trained.base.rows)

    version = run.store(run.registry.register, name="register")(
        run.project.name,
        exported.bundle_directory,
        digest=exported.bundle,
        run_id=run.tracking.stage_run_id(trained.seeds.stage),
        labels=run.project.label_names,
        description=model_card.sentence(run.project, challenger, trained.base.rows),
    )
    run_page.challenger_scored(
        run,
        version,
        rows=trained.base.rows,
        trained=trained.seeds,
        challenger=challenger,
        curve=curve,
    )
    candidate = Candidate(version, challenger, measured, baselines, score_seeds(run, trained.seeds))
    outcome = judge_and_promote(run, candidate)
    to_label = None
    if outcome.verdict.decision == "inconclusive":
        champion = run.registry.last_champion(run.project.name)
        to_label = list_texts_to_label(run, exported.ref, champion)
    report = assemble(
        run,
        generated=generated,
        trained=trained,
        exported=exported,
        version=version,
        score=challenger,
        measured=measured,
        baselines=baselines,
        lift=lift,
        outcome=outcome,
        label_first=to_label,
    )
    if not run_page.is_judged(run, report):
        html.write(run, report, challenger=challenger, training=trained.base.rows, curve=curve)
        run_page.write(run, report, rows=trained.base.rows)
        model_card.write(
            run, version, report, rows=trained.base.rows, challenger=challenger, prompt=prompt
        )
    return report


def note_data(run: RunContext, generated: GeneratedRows, trained: Trained | None) -> RetrainData:
    """Record where `reseed review` and `reseed curate` find the rows of the last retrain."""
    added = trained.base.self_trained if trained else None
    data = RetrainData(
        config=run.config,
        splits=run.splits.directory,
        curated=generated.curated.directory,
        rounds=tuple(r.directory for r in generated.results),
        self_trained=added.directory if added else None,
    )
    run.workspace.note_last_retrain(run.project.name, data)
    return data


def _report_data(run: RunContext, generated: GeneratedRows, trained: Trained) -> None:
    """The page about the rows, in MLflow."""
    result = run.stage(data_report, headline=True)(
        run.project,
        rounds=generated.results,
        curated=generated.curated,
        self_trained=trained.base.self_trained,
        splits=run.splits,
        workspace=run.workspace,
    )
    data_page.log(run.tracking, result)
