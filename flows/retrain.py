"""The flow `retrain`: from label names to a promoted, answering model.

reseed retrain configs/bbc-news.yaml        or, as a deployment,        prefect deployment run retrain/bbc-news
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.context import RunContext
from flows.publishing.data_report import publish_data_report
from flows.publishing.model_card import version_description
from flows.publishing.prompts import register_prompt
from flows.publishing.report import Retrained, assemble_report
from flows.publishing.run_page import log_challenger, rename_run
from flows.publishing.terminal import report_as_markdown
from flows.publishing.traces import log_traces
from flows.publishing.views import publish_report
from flows.retraining.decision import Candidate, judge_and_promote
from flows.retraining.generation_loop import GeneratedRows, fill_quota
from flows.retraining.label_first import list_texts_to_label
from flows.retraining.mixtures import (
    Trained,
    measure_learning_curve,
    measure_lift,
    train_best_mixture,
)
from flows.retraining.scoring import measure_bundle, score, score_baselines
from flows.retraining.seeds import score_seeds
from flows.retraining.session import flow_run_name, open_session
from flows.review.session import wait_for_review
from tasks.model.inference.choose import export_bundle
from tasks.report.model import RetrainReport
from tasks.workspace import RetrainData


@flow(name="retrain", flow_run_name=flow_run_name, timeout_seconds=7 * 24 * 3600)
def retrain(config: str, overrides: list[str] | None = None, fresh: bool = False) -> dict[str, Any]:
    """A RetrainReport as JSON, for the project file `config`. `fresh` starts a new challenger."""
    with open_session(config, overrides, fresh=fresh) as session:
        report = _retrain(session.run)
        session.mark_judged()
    create_markdown_artifact(
        report_as_markdown(report),
        key=f"{report.project.replace('.', '-').replace('_', '-')}-retrain",
        description="retrain",
    )
    return report.model_dump(mode="json", by_alias=True)


def _retrain(run: RunContext) -> RetrainReport:
    prompt = register_prompt(run.tracking.client, run.project)
    run.tracking.set_tags(prompt=prompt)
    generated = _generate(run)
    trained = train_best_mixture(run, generated.curated)
    _note_data(run, generated, trained)
    publish_data_report(run, generated, trained)

    exported = run.stage(export_bundle, name="export", headline=True)(
        run.project, trained=trained.bundle, splits=run.splits, workspace=run.workspace
    )
    run.tracking.set_tags(backend=exported.inference.backend)
    challenger = score(run, exported.ref, "challenger")
    measured = measure_bundle(run, exported.ref, "challenger", headline=True)
    baselines = score_baselines(run, generated.curated)
    lift = measure_lift(run, trained, baselines["descriptions"])
    curve = measure_learning_curve(run, trained.rows)

    version = run.store(run.registry.register, name="register")(
        run.project.name,
        exported.bundle_directory,
        digest=exported.bundle,
        run_id=run.tracking.stage_run_id(trained.stage),
        labels=run.project.label_names,
        description=version_description(run.project, challenger, trained.rows),
    )
    seeds = score_seeds(run, trained.seed_models)
    candidate = Candidate(version, challenger, measured, baselines, seeds)
    log_challenger(run, candidate, trained, curve)
    outcome = judge_and_promote(run, candidate)
    to_label = None
    if outcome.verdict.decision == "inconclusive":
        champion = run.registry.last_champion(run.project.name)
        to_label = list_texts_to_label(run, exported.ref, champion)
    retrained = Retrained(
        prompt, generated, trained, exported, candidate, lift, curve, outcome, to_label
    )
    report = assemble_report(run, retrained)
    publish_report(run, report, retrained)
    return report


def _generate(run: RunContext) -> GeneratedRows:
    """The curated rows, after a person's review if the project asks for one."""
    generated = fill_quota(run)
    data = _note_data(run, generated)
    if wait_for_review(run, data):
        generated = fill_quota(run)
        _note_data(run, generated)
    log_traces(run, generated)
    rename_run(run, rows=len(generated.curated.read()))
    return generated


def _note_data(
    run: RunContext, generated: GeneratedRows, trained: Trained | None = None
) -> RetrainData:
    """Record where the rows of this retrain are, for `reseed review` and `reseed curate`."""
    added = trained.self_trained if trained else None
    data = RetrainData(
        config=run.config,
        splits=run.splits.directory,
        curated=generated.curated.directory,
        rounds=tuple(r.directory for r in generated.results),
        self_trained=added.directory if added else None,
    )
    run.workspace.note_last_retrain(run.project.name, data)
    return data
