"""Open a retrain: its project, its lock, its MLflow run and its real text; close the run whatever happens."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from prefect.exceptions import Pause
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import deployment, flow_run

from flows import steps
from flows.context import Retrain
from flows.progress import say
from flows.publishing import experiment_page, run_page
from flows.registry import notifications
from flows.registry.client import Registry
from flows.retraining import challenger as generations
from flows.settings import Settings, quiet
from flows.tracking import stage_runs, store_errors
from flows.tracking.cleanup import tidy
from flows.tracking.run import Tracking, connect
from tasks import atomic
from tasks.atomic import digest_of
from tasks.dataset.split import Prepared
from tasks.errors import TransientError, UserError
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.setup.preflight import check_endpoint, check_references
from tasks.stage import Stage
from tasks.synthesise.by_model import with_answers
from tasks.synthesise.plan import unknown_drops


def run_name() -> str:
    """The flow run's name: project file and time."""
    return f"{Path(str(flow_run.parameters.get('config', ''))).stem} {datetime.now(UTC):%Y-%m-%d %H:%M}"


@contextlib.contextmanager
def opened(config: str, overrides: list[str] | None = None, *, fresh: bool = False) -> Iterator[Retrain]:
    """What every part of a retrain needs. One at a time a project; `fresh` begins a new challenger where the last was judged."""
    _say_mistakes_in_a_line()
    settings = Settings.from_environment()
    project = load_project(Path(config), overrides or [])
    check_references(project, Path(config))
    check_endpoint(project)
    lock = settings.home / "locks" / f"retrain-{project.name}.lock"
    with store_errors.told(settings), atomic.exclusive_lock(lock, f"a retrain of {project.name!r}"):
        generation, judged_before = generations.begin(
            settings.home, project.name, fresh=fresh, flow_run=str(flow_run.id or "")
        )
        registry = Registry(connect(settings), settings)
        for sentence in unknown_drops(project):
            say(f"  {sentence}")
        for sentence in [*registry.reconcile(project.name), *registry.odd(project.name)]:
            say(f"  {sentence}")
        for sentence in notifications.deliver(settings, registry):
            say(f"  {sentence}")
        log = _open_run(project, settings, config=config, generation=generation)
        left = tidy(log.client, experiment_id=log.experiment_id, home=settings.home, mine=log.run_id)
        if left["runs"] or left["models"]:
            say(f"  closed what a kill left in MLflow: {len(left['runs'])} runs, {len(left['models'])} models")
        try:
            with log.machine_watched():
                place = Path(config).absolute()
                answers, prepared = _prepare(project, place.parent, settings.home)
                r = Retrain(project, place, settings, generation, judged_before, registry, log, prepared, answers)
                if answers:
                    stage_runs.answered(log, r.timed(answers))
                yield r
        except Pause:  # a person is waited for: neither failed nor killed
            log.close("SCHEDULED")
            raise
        except BaseException as e:
            log.tag(failure=f"{type(e).__name__}: {e}")
            log.close("FAILED" if isinstance(e, Exception) else "KILLED")
            raise
        log.close("FINISHED")
        if r.judged:
            generations.judged(settings.home, project.name, generation)


def _prepare(project: Project, beside: Path, home: Path) -> tuple[Stage | None, Prepared]:
    """(the models' answers where the label is the model that wrote it, the splits of the project's real text)."""
    places = {"beside": beside, "home": home}
    answers: Stage | None = None
    if project.generate.mode == "by_model":
        answers = steps.ask_models(project, **places)
        project = with_answers(project, answers)
    prepared: Prepared = steps.prepare(project, **places)
    return answers, prepared


def _open_run(project: Project, settings: Settings, *, config: str, generation: int) -> Tracking:
    identity = digest_of({"project": project.digest, "generation": generation})[:32]
    log = Tracking.open(
        connect(settings),
        settings,
        experiment=project.name,
        retrain_id=identity,
        name=run_page.first_name(project, now=datetime.now(UTC)),
        params=project.parameters() | {"generation": str(generation), "config": config},
    )
    experiment_page.write(log.client, log.experiment_id, project)
    return log


def _say_mistakes_in_a_line() -> None:
    """Leave the traceback out of what Prefect logs of a mistake or a passing fault: the sentence is enough.

    The console does not show it at all where the command says it anyway; a retry that is to come is shown.
    """
    quiet()
    if not deployment.id:
        for handler in logging.getLogger().handlers:  # where Prefect's own configuration puts it
            if isinstance(handler, PrefectConsoleHandler):
                handler.addFilter(_not_said_by_the_command)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_shortened)


def _shortened(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (UserError, TransientError)):
        record.exc_info, record.exc_text = None, None
    return True


def _not_said_by_the_command(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    known = "UserError" in text or "TransientError" in text
    return not known or "will start" in text
