"""The HTML report of a retrain: written at its end, kept in MLflow, and fetched again by `reseed report`."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.context import RunContext
from flows.publishing.report import Retrained
from flows.registry.client import Registry
from flows.settings import Settings
from flows.tracking.store import connect
from tasks import atomic
from tasks.errors import TransientError, UserError
from tasks.evaluate import plots
from tasks.figures import Figures
from tasks.report.contents import gather_contents
from tasks.report.model import RetrainReport
from tasks.report.page import is_ours, render

PAGE, GAIN_PICTURE = "report.html", "gain.png"
MOST_RUNS = 50  # that are searched for a report, the latest first


class FetchedReport(Figures):
    """The path of a report that was fetched, and the MLflow run that it is from."""

    model: str
    report: str
    mlflow_run_id: str


def publish_html(run: RunContext, report: RetrainReport, retrained: Retrained) -> None:
    """Write the HTML page into the workspace and, with the picture of the gain, into MLflow."""
    digests = {
        "training rows": retrained.trained.rows.digest,
        "test rows": run.sealed.digest,
        "splits": run.splits.digest,
        "bundle": report.model.bundle,
    }
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / GAIN_PICTURE
        if _draw_gain(run, report, picture):
            run.tracking.client.log_artifact(run.tracking.run_id, str(picture))
        contents = gather_contents(
            report,
            project=run.project,
            challenger=retrained.candidate.score,
            training=retrained.trained.rows,
            curve=retrained.curve,
            gain=picture,
            digests={name: digest[:12] for name, digest in digests.items()},
            commit=_commit(),
        )
        page = render(contents)
    atomic.write_bytes(Path(report.report), page.encode())
    run.tracking.client.log_text(run.tracking.run_id, page, PAGE)


def _draw_gain(run: RunContext, report: RetrainReport, path: Path) -> bool:
    """Draw the gain with its bounds, where they are known."""
    verdict = report.judgement
    if verdict.gain is None or verdict.lower is None or verdict.upper is None:
        return False
    title = f"{run.project.name}: against {verdict.opponent}"
    least = run.project.promote.min_gain
    plots.plot_gain(verdict.gain, verdict.lower, verdict.upper, least=least, title=title, path=path)
    return True


def fetch_report(settings: Settings, name: str) -> FetchedReport:
    """The report of the last retrain of `name`, brought from MLflow into the workspace.

    Raises UserError for a name without a model, and where no retrain has left a report.
    """
    client = connect(settings)
    Registry(client, settings).require_model(name)
    run_id = _last_run_with_report(client, name)
    if run_id is None:
        raise UserError(f"no retrain of {name!r} left a report: run `reseed retrain CONFIG`")
    target = settings.workspace.report(name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            page = Path(client.download_artifacts(run_id, PAGE, folder)).read_bytes()
        except (MlflowException, OSError) as e:
            raise TransientError(
                f"the report of {name!r} cannot be read from MLflow (run {run_id}): {e}"
            ) from None
    if not is_ours(page):  # a browser would run whatever somebody put there
        raise UserError(
            f"the report of {name!r} in MLflow (run {run_id}) was not written by this version of "
            f"Reseed: retrain, or open it in MLflow's UI"
        )
    atomic.write_bytes(target, page)
    return FetchedReport(model=name, report=str(target), mlflow_run_id=run_id)


def _last_run_with_report(client: MlflowClient, name: str) -> str | None:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        "tags.`reseed.kind` = 'retrain'",
        max_results=MOST_RUNS,
        order_by=["attributes.end_time DESC"],
    )
    for run in runs:
        if any(a.path == PAGE for a in client.list_artifacts(run.info.run_id)):
            return str(run.info.run_id)
    return None


def _commit() -> str | None:
    """The checkout's commit, marked where it has changes; None where the code is in no git checkout."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head or _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{head} with changes" if changed else head


def _git(*arguments: str) -> str | None:
    command, here = ["git", *arguments], Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            command, cwd=here, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
