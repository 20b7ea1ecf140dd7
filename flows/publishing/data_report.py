"""The page about the rows, in MLflow."""

from __future__ import annotations

from flows.context import RunContext
from flows.retraining.generation_loop import GeneratedRows
from flows.retraining.mixtures import Trained
from tasks.report.data.rows import RetrainStages
from tasks.report.data.stage import data_report

PAGE = "data_report.html"


def publish_data_report(run: RunContext, generated: GeneratedRows, trained: Trained) -> None:
    """Log the page and the picture of the funnel on the retrain's run."""
    stages = RetrainStages(
        rounds=generated.results,
        curated=generated.curated,
        self_trained=trained.self_trained,
        splits=run.splits,
    )
    report = run.stage(data_report, headline=True)(run.project, stages, workspace=run.workspace)
    client, run_id = run.tracking.client, run.tracking.run_id
    client.log_artifact(run_id, str(report.directory / "funnel.png"))
    client.log_text(run_id, report.page.read_text(encoding="utf-8"), PAGE)
