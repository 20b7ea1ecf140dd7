"""The report of a retrain: made at its end, kept in MLflow and in the workspace, and brought back by `reseed report`."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.context import RunContext
from flows.registry.client import Registry
from flows.settings import Settings
from flows.tracking.run import connect
from tasks import atomic
from tasks.augment.learning_curve import LearningCurveResult
from tasks.dataset.training_rows import TrainingRows
from tasks.errors import TransientError, UserError
from tasks.evaluate import plots
from tasks.evaluate.score import ScoreResult
from tasks.report.contents import gather_contents
from tasks.report.model import RetrainReport
from tasks.report.page import is_ours, render

PAGE, GAIN = "report.html", "gain.png"
LOOKED_AT = 50  # runs, the latest first, among which one has a report


def write(
    run: RunContext,
    report: RetrainReport,
    *,
    challenger: ScoreResult,
    training: TrainingRows,
    curve: LearningCurveResult | None,
) -> None:
    """Put the HTML page of `report` into the workspace, and with the picture of the gain into MLflow."""
    digests = {
        "training rows": training.digest,
        "test rows": run.sealed.digest,
        "splits": run.splits.digest,
        "bundle": report.model.bundle,
    }
    verdict = report.judgement
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / GAIN
        if verdict.gain is not None and verdict.lower is not None and verdict.upper is not None:
            title = f"{run.project.name}: against {verdict.opponent}"
            least = run.project.promote.min_gain
            plots.gain(
                verdict.gain, verdict.lower, verdict.upper, least=least, title=title, path=picture
            )
            run.tracking.client.log_artifact(run.tracking.run_id, str(picture))
        contents = gather_contents(
            report,
            project=run.project,
            challenger=challenger,
            training=training,
            curve=curve,
            gain=picture,
            digests={name: digest[:12] for name, digest in digests.items()},
            commit=_commit(),
        )
        page = render(contents)
    atomic.write_bytes(Path(report.report), page.encode())
    run.tracking.client.log_text(run.tracking.run_id, page, PAGE)


def fetch(settings: Settings, name: str) -> dict[str, Any]:
    """The report of the last retrain of `name`, brought from MLflow into the workspace: {model, report, mlflow_run_id}.

    Raises UserError for a name without a model, and where no retrain has left a report.
    """
    client = connect(settings)
    Registry(client, settings).require_name(name)
    run_id = _last(client, name)
    if run_id is None:
        raise UserError(
            f"no retrain of {name!r} has left a report: `reseed retrain CONFIG` makes one"
        )
    target = settings.workspace.report(name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            page = Path(client.download_artifacts(run_id, PAGE, folder)).read_bytes()
        except (MlflowException, OSError) as e:
            raise TransientError(
                f"the report of {name!r} can't be read from MLflow (run {run_id}): {e}"
            ) from None
    if not is_ours(page):  # a browser would run whatever somebody put there
        raise UserError(
            f"the report of {name!r} in MLflow (run {run_id}) is none that this version of Reseed writes: retrain, or look at it "
            f"in MLflow's UI"
        )
    atomic.write_bytes(target, page)
    return {"model": name, "report": str(target), "mlflow_run_id": run_id}


def _last(client: MlflowClient, name: str) -> str | None:
    """The run of the latest retrain that has a report."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        "tags.`reseed.kind` = 'retrain'",
        max_results=LOOKED_AT,
        order_by=["attributes.end_time DESC"],
    )
    for run in runs:
        if any(a.path == PAGE for a in client.list_artifacts(run.info.run_id)):
            return str(run.info.run_id)
    return None


def _commit() -> str | None:
    """The checkout's commit, marked where it has changes; None where the code is in no git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            root = Path(__file__).resolve().parent
            done = subprocess.run(
                ["git", *arguments],
                cwd=root,
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "--short=12", "HEAD")
    if not head or git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return f"{head} with changes" if git("status", "--porcelain", "--untracked-files=no") else head
