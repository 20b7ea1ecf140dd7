"""What MLflow's page of a retrain says: its name, its description, the columns that retrains are compared by, and pictures."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities import LoggedModelInput
from mlflow.exceptions import MlflowException

from flows.context import RunContext
from flows.publishing.model_card import render
from flows.registry.client import Version
from flows.retraining.seeds import SeedModels
from flows.tracking.run import dataset_input
from tasks.augment.learning_curve import LearningCurveResult
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import base_model
from tasks.evaluate.score import ScoreResult
from tasks.project import Project
from tasks.records import count_by_source
from tasks.report.model import RetrainReport
from tasks.verdict.evidence import verdict_metrics

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "mlflow" / "run_page.md.j2"


def first_name(project: Project, *, now: datetime) -> str:
    """The run's name until its rows are known."""
    return f"{now:%Y-%m-%d} {project.name} {len(project.labels)} labels"


def name(project: Project, *, began: datetime, rows: int, base: str) -> str:
    """`2026-11-21 bbc-news 5 labels, 1489 rows, all-MiniLM-L6-v2`: when, which data, which model."""
    return f"{began:%Y-%m-%d} {project.name} {len(project.labels)} labels, {rows} rows, {base}"


def rename_run(run: RunContext, rows: TrainingRows) -> int:
    """How many rows are trained on; the run is called by that and by its base model from here on."""
    base = base_model(
        run.project.train.model, config_dir=run.project.config_dir, cache=run.workspace.cache
    ).name
    started = run.tracking.client.get_run(run.tracking.run_id).info.start_time
    trained_on = len(rows.read())
    began = datetime.fromtimestamp(started / 1000, UTC)
    run.tracking.name(name(run.project, began=began, rows=trained_on, base=base))
    return trained_on


def challenger_scored(
    run: RunContext,
    version: Version,
    *,
    rows: TrainingRows,
    trained: SeedModels,
    challenger: ScoreResult,
    curve: LearningCurveResult | None,
) -> None:
    """The challenger's scores, with the model and the data that they are about, and the pictures: before anybody is asked."""
    trained_on, tracking = rename_run(run, rows), run.tracking
    test, dev = ("test", run.sealed.digest), ("dev", run.splits.digest)
    training = ("training", rows.digest, trained_on)
    sizes = [training, (*dev, run.splits.rows["dev"]), (*test, challenger.known.rows)]
    tracking.used(datasets=sizes, model_id=version.model_id)
    tracking.model_metrics(challenger.test_metrics(), model_id=version.model_id, dataset=test)
    tracking.model_metrics(
        {"dev.f1_macro": trained.dev_f1_macro}, model_id=version.model_id, dataset=dev
    )
    for stage in [challenger, trained.stage, *([curve] if curve else [])]:
        for picture in stage.artifacts():
            if picture.suffix == ".png":
                tracking.client.log_artifact(tracking.run_id, str(picture))


def champion_scored(run: RunContext, champion: Version, score: ScoreResult) -> None:
    """The champion's scores with its own model and the same test rows, on the run that scored it: the retrain's own run has the
    challenger's under the same names."""
    tracking = replace(run.tracking, run_id=run.tracking.stage_run_id(score))
    test = ("test", run.sealed.digest)
    try:
        if champion.model_id:
            tracking.model_metrics(score.test_metrics(), model_id=champion.model_id, dataset=test)
            data, model = (
                dataset_input(*test, score.known.rows),
                LoggedModelInput(champion.model_id),
            )
            tracking.client.log_inputs(tracking.run_id, datasets=[data], models=[model])
    except MlflowException as e:
        if (
            e.error_code != "RESOURCE_DOES_NOT_EXIST"
        ):  # somebody deleted the logged model: the registry's files stay
            raise


def is_judged(run: RunContext, report: RetrainReport) -> bool:
    """Whether the run has its verdict already, and this is only the champion met again: its page stays as it is."""
    itself = (
        report.champion is not None
        and report.champion.version == report.model.version
        and not report.promoted
    )
    return itself and "verdict" in run.tracking.client.get_run(run.tracking.run_id).data.tags


def write(run: RunContext, report: RetrainReport, *, rows: TrainingRows) -> None:
    """The verdict, the columns that runs are compared by, and the description."""
    by_source, data = count_by_source(rows.read()), report.data
    columns = {
        f"data.{source}.rows": float(by_source.get(source, 0))
        for source in ("synthetic", "harvested", "seed")
    }
    columns |= {f"data.{source}.rows": float(n) for source, n in by_source.items()}
    columns |= {"data.training.rows": float(sum(by_source.values()))}
    totals = {"requested": data.requested, "accepted": data.accepted, "rejected": data.rejected}
    columns |= {f"data.{name}.rows": float(part.total) for name, part in totals.items()}
    columns |= {f"tokens.{k}": float(v) for k, v in report.tokens}
    run.tracking.metrics(
        columns | verdict_metrics(report.judgement) | {"cost.usd": report.cost.usd}
    )
    run.tracking.client.log_dict(
        run.tracking.run_id, report.judgement.model_dump(mode="json"), "verdict.json"
    )
    run.tracking.tag(verdict=report.verdict, reasons="; ".join(report.reasons))
    names = {"seed": "real", "reviewed": "reviewed by a person"}
    context = dict(report) | {
        "rows": {names.get(source, source): n for source, n in by_source.items()},
        "generators": sorted(data.generators) or ["no LLM"],
    }
    run.tracking.describe(render(context, TEMPLATE))
