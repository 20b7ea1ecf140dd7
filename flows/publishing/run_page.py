"""MLflow's page of a retrain: its name, its description, and the columns that retrains are compared by."""

from __future__ import annotations

from datetime import UTC, datetime

from flows.context import RunContext
from flows.publishing.markdown import render_markdown
from flows.retraining.decision import Candidate
from flows.retraining.mixtures import Trained
from tasks.augment.learning_curve import LearningCurveResult
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import describe_encoder
from tasks.project import Project
from tasks.records import count_by_source
from tasks.report.model import RetrainReport
from tasks.verdict.evidence import verdict_metrics

ALWAYS_SHOWN = (
    "synthetic",
    "harvested",
    "seed",
)  # sources with a column, also where there is no row
SOURCE_NAMES = {"seed": "real", "reviewed": "reviewed by a person"}


def first_run_name(project: Project, *, started: datetime) -> str:
    """The run's name until its rows are known."""
    return f"{started:%Y-%m-%d} {project.name} {len(project.labels)} labels"


def run_name(project: Project, *, started: datetime, rows: int, base: str) -> str:
    """`2026-11-21 bbc-news 5 labels, 1489 rows, all-MiniLM-L6-v2`: date, data and model."""
    return f"{first_run_name(project, started=started)}, {rows} rows, {base}"


def rename_run(run: RunContext, *, rows: int) -> None:
    """Name the run after its number of training rows and its base model."""
    project, tracking = run.project, run.tracking
    base = describe_encoder(
        project.train.model, config_dir=project.config_dir, cache=run.workspace.cache
    ).name
    milliseconds = tracking.client.get_run(tracking.run_id).info.start_time
    started = datetime.fromtimestamp(milliseconds / 1000, UTC)
    tracking.rename(run_name(project, started=started, rows=rows, base=base))


def log_challenger(
    run: RunContext, candidate: Candidate, trained: Trained, curve: LearningCurveResult | None
) -> None:
    """Log the challenger's scores with the model and the data that they are about, and the pictures."""
    tracking, model_id, scored = run.tracking, candidate.version.model_id, candidate.score
    test, dev = ("test", run.sealed.digest), ("dev", run.splits.digest)
    rows = len(trained.rows.read())
    rename_run(run, rows=rows)
    training = ("training", trained.rows.digest, rows)
    datasets = [training, (*dev, run.splits.rows["dev"]), (*test, scored.known.rows)]
    tracking.log_lineage(datasets=datasets, model_id=model_id)
    tracking.log_model_metrics(scored.test_metrics(), model_id=model_id, dataset=test)
    dev_f1 = {"dev.f1_macro": trained.dev_f1_macro}
    tracking.log_model_metrics(dev_f1, model_id=model_id, dataset=dev)
    for stage in [scored, trained.stage, *([curve] if curve else [])]:
        for artifact in stage.artifacts():
            if artifact.suffix == ".png":
                tracking.client.log_artifact(tracking.run_id, str(artifact))


def has_verdict(run: RunContext, report: RetrainReport) -> bool:
    """Whether this is only the champion met again, and the run's page already has its verdict."""
    champion = report.champion
    is_itself = champion is not None and champion.version == report.model.version
    if not is_itself or report.promoted:
        return False
    return "verdict" in run.tracking.client.get_run(run.tracking.run_id).data.tags


def describe_run(run: RunContext, report: RetrainReport, rows: TrainingRows) -> None:
    """Log the verdict and the columns that runs are compared by, and set the description."""
    tracking, data, by_source = run.tracking, report.data, count_by_source(rows.read())
    columns = {
        f"data.{source}.rows": float(n)
        for source, n in (dict.fromkeys(ALWAYS_SHOWN, 0) | by_source).items()
    }
    columns["data.training.rows"] = float(sum(by_source.values()))
    totals = {"requested": data.requested, "accepted": data.accepted, "rejected": data.rejected}
    columns |= {f"data.{name}.rows": float(part.total) for name, part in totals.items()}
    columns |= {f"tokens.{kind}": float(n) for kind, n in report.tokens}
    columns["cost.usd"] = report.cost.usd
    tracking.log_metrics(columns | verdict_metrics(report.judgement))
    verdict = report.judgement.model_dump(mode="json")
    tracking.client.log_dict(tracking.run_id, verdict, "verdict.json")
    tracking.set_tags(verdict=report.verdict, reasons="; ".join(report.reasons))
    context = dict(report) | {
        "rows": {SOURCE_NAMES.get(source, source): n for source, n in by_source.items()},
        "generators": sorted(data.generators) or ["no LLM"],
    }
    tracking.set_description(render_markdown("run_page.md.j2", context))
