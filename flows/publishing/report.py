"""Assemble the report of a retrain from what its parts returned."""

from __future__ import annotations

from dataclasses import dataclass

from prefect.runtime import flow_run

from flows.context import RunContext
from flows.retraining.decision import Candidate, Outcome
from flows.retraining.generation_loop import GeneratedRows
from flows.retraining.mixtures import Trained
from tasks.augment.learning_curve import LearningCurveResult
from tasks.dataset.sealed import count_test_set_uses
from tasks.model.inference.choose import ExportResult
from tasks.report.cost import GeneratorRows, Tokens, rows_by_generator
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
)


@dataclass(frozen=True, slots=True)
class Retrained:
    """What the parts of a retrain returned. `prompt` is the registered version of the prompt."""

    prompt: str
    generated: GeneratedRows
    trained: Trained
    exported: ExportResult
    candidate: Candidate
    lift: LiftSummary | None
    curve: LearningCurveResult | None
    outcome: Outcome
    label_first: LabelFirst | None


def assemble_report(run: RunContext, retrained: Retrained) -> RetrainReport:
    """The report of this retrain."""
    candidate, verdict = retrained.candidate, retrained.outcome.verdict
    version, score, measured = candidate.version, candidate.score, candidate.measured
    uses = count_test_set_uses(run.sealed, workspace=run.workspace)
    return RetrainReport(
        project=run.project.name,
        verdict=verdict.decision,
        reasons=list(verdict.reasons),
        promoted=retrained.outcome.promoted,
        gain=GainSummary(
            value=verdict.gain,
            lower=verdict.lower,
            upper=verdict.upper,
            opponent=verdict.opponent,
        ),
        judgement=verdict,
        model=ModelVersion(name=version.name, version=version.version, bundle=version.digest),
        test=ChallengerScore.of(score, test_set_uses=uses),
        champion=retrained.outcome.champion,
        baselines={
            name: BaselineScore.of(run.project, baseline, score)
            for name, baseline in candidate.baselines.items()
        },
        lift=retrained.lift,
        label_first=retrained.label_first,
        robustness=measured.robustness,
        serving=measured.serving,
        inference=retrained.exported.inference,
        seeds=retrained.trained.seeds_summary,
        adapted=retrained.trained.adapted,
        data=_summarise_data(run, retrained.generated, retrained.trained),
        seconds={stage: round(s, 1) for stage, s in run.runner.seconds.items()},
        tokens=Tokens.of(retrained.generated.usage),
        cost=retrained.generated.cost,
        generation=run.generation,
        mlflow_run_id=run.tracking.run_id,
        mlflow_tracking_uri=run.settings.store,
        flow_run_id=flow_run.id,
        report=str(run.workspace.report(run.project.name)),
    )


def _summarise_data(run: RunContext, generated: GeneratedRows, trained: Trained) -> DataSummary:
    """Rows requested, accepted and rejected, in total, by label and by reason."""
    curated, requested, added = generated.curated, generated.requested, trained.self_trained
    counts = curated.rows
    return DataSummary(
        requested=RequestedRows(
            total=requested.total(),
            by_label=dict(requested),
            lost=sum(r.lost for r in generated.results),
        ),
        accepted=RowsByLabel(total=counts.accepted, by_label=curated.accepted),
        rejected=RejectedRows(
            total=counts.rejected,
            by_label=curated.rejected_by_label,
            by_reason=curated.rejected,
        ),
        self_trained=RowsByLabel(
            total=added.added if added else 0, by_label=added.harvested if added else {}
        ),
        real=RowsByLabel(total=counts.seed, by_label=curated.seed),
        real_rejected=RealRejected(by_reason=run.splits.rejected, notices=list(run.splits.notices)),
        generators=summarise_generators(generated),
        answers=AnswersSummary.of(generated.answers) if generated.answers else None,
        given_up=generated.given_up,
        ended=generated.ended,
        topics_proposed=generated.topics,
    )


def summarise_generators(generated: GeneratedRows) -> dict[str, GeneratorRows]:
    """Requests, accepted rows and cost of each generator.

    In a project that tells models apart, the accepted rows are the answers that are rows.
    """
    answers = generated.answers.rows if generated.answers else {}
    accepted = [name for name, n in answers.items() for _ in range(n)]
    accepted += [str(r.lineage.get("generator")) for r in generated.curated.read()]
    return rows_by_generator(accepted, generated.usage_by_generator)
