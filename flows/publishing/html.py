"""The report of a retrain: made at its end, kept in MLflow and in the workspace, and brought back by `reseed report`."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.context import Retrain
from flows.registry.client import Registry
from flows.settings import Settings
from flows.tracking.run import connect
from tasks import atomic
from tasks.errors import TransientError, UserError
from tasks.evaluate import plots
from tasks.report.contents import tell
from tasks.report.page import is_ours, render
from tasks.stage import Stage
from tasks.verdict.decide import Verdict

PAGE, GAIN = "report.html", "gain.png"
LOOKED_AT = 50  # runs, the latest first, among which one has a report


def write(
    r: Retrain, report: dict[str, Any], *, verdict: Verdict, challenger: Stage, training: Stage, curve: Stage | None
) -> None:
    """Put the page of `report` at its own `report` (a path in the workspace), and with the picture of the gain into MLflow."""
    digests = {
        "training rows": training.digest,
        "test rows": r.prepared.sealed.digest,
        "splits": r.prepared.splits.digest,
        "bundle": str(report["model"]["bundle"]),
    }
    with tempfile.TemporaryDirectory() as folder:
        gain = Path(folder) / GAIN
        if verdict.gain is not None and verdict.lower is not None and verdict.upper is not None:
            title = f"{r.project.name}: against {verdict.opponent}"
            least = r.project.promote.min_gain
            plots.gain(verdict.gain, verdict.lower, verdict.upper, least=least, title=title, path=gain)
            r.log.client.log_artifact(r.log.run_id, str(gain))
        page = render(
            tell(
                report,
                project=r.project,
                verdict=verdict.to_json(),
                challenger=challenger,
                training=training,
                curve=curve,
                gain=gain,
                digests={name: digest[:12] for name, digest in digests.items()},
                commit=_commit(),
            )
        )
    atomic.write_bytes(Path(report["report"]), page.encode())
    r.log.client.log_text(r.log.run_id, page, PAGE)


def place(settings: Settings, name: str) -> Path:
    """Where the last report of `name` is in this workspace."""
    return settings.home / "reports" / f"{name}.html"


def fetch(settings: Settings, name: str) -> dict[str, Any]:
    """The report of the last retrain of `name`, brought from MLflow into the workspace: {model, report, mlflow_run_id}.

    Raises UserError for a name without a model, and where no retrain has left a report.
    """
    client = connect(settings)
    Registry(client, settings).need_name(name)
    run_id = _last(client, name)
    if run_id is None:
        raise UserError(f"no retrain of {name!r} has left a report: `reseed retrain CONFIG` makes one")
    target = place(settings, name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            page = Path(client.download_artifacts(run_id, PAGE, folder)).read_bytes()
        except (MlflowException, OSError) as e:
            raise TransientError(f"the report of {name!r} can't be read from MLflow (run {run_id}): {e}") from None
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


def shown(path: str) -> str:
    """The path as a person types it: from here, where it lies below."""
    here, target = Path.cwd(), Path(path)
    return str(target.relative_to(here)) if target.is_relative_to(here) else path


def _commit() -> str | None:
    """The checkout's commit, marked where it has changes; None where the code is in no git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            root = Path(__file__).resolve().parent
            done = subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "--short=12", "HEAD")
    if not head or git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return f"{head} with changes" if git("status", "--porcelain", "--untracked-files=no") else head
