"""Assemble the report of a retrain from what its parts returned."""

from __future__ import annotations

from collections.abc import Mapping

from prefect.runtime import flow_run

from flows.context import RunContext
from flows.registry.client import Version
from flows.retraining.decision import Outcome
from flows.retraining.generation_loop import GeneratedRows
from flows.retraining.mixtures import Trained
from tasks.dataset.sealed import count_test_set_uses
from tasks.evaluate.score import ScoreResult
from tasks.evaluate.serving import Measured
from tasks.model.inference.choose import ExportResult
from tasks.report.model import (
    AnswersSummary,
    BaselineScore,
    ChallengerScore,
    DataSummary,
    GainSummary,
    LabelFirst,
    LiftSummary,
    ModelVersion,
    RealRejected,
    RejectedRows,
    RequestedRows,
    RetrainReport,
    RowsByLabel,
    Tokens,
    rows_by_generator,
)


def assemble(
    run: RunContext,
    *,
    generated: GeneratedRows,
    trained: Trained,
    exported: ExportResult,
    version: Version,
    score: ScoreResult,
    measured: Measured,
    baselines: Mapping[str, ScoreResult],
    lift: LiftSummary | None,
    outcome: Outcome,
    label_first: LabelFirst | None,
) -> RetrainReport:
    """The report of this retrain."""
    verdict = outcome.verdict
    return RetrainReport(
        project=run.project.name,
        verdict=verdict.decision,
        reasons=list(verdict.reasons),
        promoted=outcome.promoted,
        gain=GainSummary(
            value=verdict.gain, lower=verdict.lower, upper=verdict.upper, opponent=verdict.opponent
        ),
        judgement=verdict,
        model=ModelVersion(name=version.name, version=version.version, bundle=version.digest),
        test=ChallengerScore.of(
            score, test_set_uses=count_test_set_uses(run.sealed, workspace=run.workspace)
        ),
        champion=outcome.champion,
        baselines={name: BaselineScore.of(run.project, b, score) for name, b in baselines.items()},
        lift=lift,
        label_first=label_first,
        robustness=measured.robustness,
        serving=measured.serving,
        inference=exported.inference,
        seeds=trained.seeds.summary,
        adapted=trained.base.adapted,
        data=summarise_data(run, generated, trained),
        seconds={name: round(s, 1) for name, s in run.runner.seconds.items()},
        tokens=Tokens.of(generated.usage),
        cost=generated.cost,
        generation=run.generation,
        mlflow_run_id=run.tracking.run_id,
        mlflow_tracking_uri=run.settings.store,
        flow_run_id=flow_run.id,
        report=str(run.workspace.report(run.project.name)),
    )


def summarise_data(run: RunContext, generated: GeneratedRows, trained: Trained) -> DataSummary:
    """Rows requested, accepted and rejected, in total, by label and by reason."""
    c, requested, added = generated.curated, generated.requested, trained.base.self_trained
    return DataSummary(
        requested=RequestedRows(
            total=requested.total(),
            by_label=dict(requested),
            lost=sum(r.lost for r in generated.results),
        ),
        accepted=RowsByLabel(total=c.rows.accepted, by_label=c.accepted),
        rejected=RejectedRows(
            total=c.rows.rejected, by_label=c.rejected_by_label, by_reason=c.rejected
        ),
        self_trained=RowsByLabel(
            total=added.added if added else 0, by_label=added.harvested if added else {}
        ),
        real=RowsByLabel(total=c.rows.seed, by_label=c.seed),
        real_rejected=RealRejected(by_reason=run.splits.rejected, notices=list(run.splits.notices)),
        generators=rows_by_generator(accepted_generators(generated), generated.usage_by_generator),
        answers=AnswersSummary.of(generated.answers) if generated.answers else None,
        given_up=generated.given_up,
        ended=generated.ended,
        topics_proposed=generated.topics,
    )


def accepted_generators(generated: GeneratedRows) -> list[str]:
    """The generator of each accepted row; where models are told apart, of each answer that is a row."""
    answers = generated.answers.rows if generated.answers else {}
    of_answers = [name for name, n in answers.items() for _ in range(n)]
    return of_answers + [str(r.lineage.get("generator")) for r in generated.curated.read()]
