"""Open and close a retrain: its lock, its MLflow run, its splits, and the recovery from killed runs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect.exceptions import Pause
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import deployment, flow_run

from flows.context import RunContext
from flows.progress import say
from flows.publishing.experiment_page import publish_experiment_page
from flows.publishing.run_page import first_run_name
from flows.registry import notifications, promotion
from flows.registry.client import Registry
from flows.retraining.challenger import Challenger
from flows.settings import Settings, quiet_libraries
from flows.steps import StageRunner
from flows.tracking import store
from flows.tracking.cleanup import close_orphans
from flows.tracking.run import Tracking
from flows.tracking.store import connect
from tasks.atomic import digest_of, exclusive_lock
from tasks.dataset.split import sealed_test_set, split_dataset
from tasks.errors import TransientError, UserError
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.setup.preflight import check_endpoint, check_references
from tasks.synthesise.model_answers import ask_models, with_answers_as_pool
from tasks.synthesise.plan import unknown_generator_notices


def flow_run_name() -> str:
    """The name of the flow run: `bbc-news 2026-11-29 20:15`."""
    return f"{Path(str(flow_run.parameters.get('config', ''))).stem} {datetime.now(UTC):%Y-%m-%d %H:%M}"


@dataclass(frozen=True, slots=True)
class Session:
    """An open retrain and the challenger it is about."""

    run: RunContext
    challenger: Challenger

    def mark_judged(self) -> None:
        """Record that the challenger has a verdict, so that `--fresh` starts the next one."""
        self.challenger.mark_judged(self.run.workspace, self.run.project.name)


@contextlib.contextmanager
def open_session(
    config: str, overrides: list[str] | None = None, *, fresh: bool = False
) -> Iterator[Session]:
    """An open session; a project has one at a time, and its MLflow run is closed however the session ends.

    With `fresh`, a new challenger is started if the last one has a verdict. Raises UserError where the
    project file is wrong or another retrain of the project is running.
    """
    _log_known_errors_in_one_line()
    settings = Settings.from_environment()
    project = load_project(Path(config), overrides or [])
    check_references(project, Path(config))
    check_endpoint(project)
    workspace, name = settings.workspace, project.name
    lock = exclusive_lock(workspace.lock(f"retrain-{name}"), f"a retrain of {name!r}")
    with store.explain_faults(settings), lock:
        challenger = Challenger.begin(workspace, name, fresh=fresh, flow_run=str(flow_run.id or ""))
        registry = Registry(connect(settings), settings)
        _report_state(project, registry, settings)
        tracking = _open_run(project, settings, config=config, generation=challenger.generation)
        _close_orphans(tracking, settings)
        try:
            with tracking.log_system_metrics():
                yield _session(
                    project, Path(config).absolute(), settings, registry, tracking, challenger
                )
        except Pause:  # waiting for a person: neither failed nor killed
            tracking.close("SCHEDULED")
            raise
        except BaseException as e:
            tracking.set_tags(failure=f"{type(e).__name__}: {e}")
            tracking.close("FAILED" if isinstance(e, Exception) else "KILLED")
            raise
        tracking.close("FINISHED")


def _session(
    project: Project,
    config: Path,
    settings: Settings,
    registry: Registry,
    tracking: Tracking,
    challenger: Challenger,
) -> Session:
    runner, workspace = StageRunner(tracking), settings.workspace
    answers, source = None, project
    if project.generate.mode == "by_model":
        answers = runner.stage(ask_models)(project, workspace=workspace)
        source = with_answers_as_pool(project, answers)
    run = RunContext(
        project=project,
        config=config,
        settings=settings,
        generation=challenger.generation,
        judged_before=challenger.judged_before,
        registry=registry,
        runner=runner,
        splits=runner.stage(split_dataset, name="split")(source, workspace=workspace),
        sealed=runner.stage(sealed_test_set, name="seal the test set")(source, workspace=workspace),
        answers=answers,
    )
    return Session(run, challenger)


def _report_state(project: Project, registry: Registry, settings: Settings) -> None:
    """Print warnings about the project and its registered model, and complete what a killed process left open."""
    sentences = unknown_generator_notices(project)
    sentences += [
        *promotion.reconcile(registry, project.name),
        *registry.inconsistencies(project.name),
    ]
    sentences += notifications.deliver(settings, registry)
    for sentence in sentences:
        say(f"  {sentence}")


def _close_orphans(tracking: Tracking, settings: Settings) -> None:
    left = close_orphans(
        tracking.client,
        experiment_id=tracking.experiment_id,
        workspace=settings.workspace,
        current=tracking.run_id,
    )
    if left.runs or left.models:
        say(
            f"  a killed process had left {len(left.runs)} runs and {len(left.models)} models open in "
            f"MLflow; they are closed now"
        )


def _open_run(project: Project, settings: Settings, *, config: str, generation: int) -> Tracking:
    identity = digest_of({"project": project.digest, "generation": generation})[:32]
    tracking = Tracking.open(
        connect(settings),
        settings,
        experiment=project.name,
        retrain_id=identity,
        name=first_run_name(project, started=datetime.now(UTC)),
        params=project.parameters() | {"generation": str(generation), "config": config},
    )
    publish_experiment_page(tracking.client, tracking.experiment_id, project)
    return tracking


def _log_known_errors_in_one_line() -> None:
    """Keep tracebacks of UserError and TransientError out of Prefect's logs: their sentence is enough.

    Outside a deployment the console skips these lines, because the command prints the sentence itself;
    the announcement of a retry is kept.
    """
    quiet_libraries()
    if not deployment.id:
        for (
            handler
        ) in logging.getLogger().handlers:  # where Prefect's logging configuration puts it
            if isinstance(handler, PrefectConsoleHandler):
                handler.addFilter(_not_printed_by_the_command)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (UserError, TransientError)):
        record.exc_info, record.exc_text = None, None
    return True


def _not_printed_by_the_command(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    known = "UserError" in text or "TransientError" in text
    return not known or "will start" in text
