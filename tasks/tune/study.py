"""An Optuna study: what it is about, its storage, how it prunes, and its trials.

Trials are pruned by the median rule (Golovin et al. 2017) at equal shares of their own schedules: a
long trial has hardly begun to anneal when a short one of as many epochs ends.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna import Study, Trial
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from tasks.atomic import digest_of
from tasks.errors import TransientError, UserError, one_line
from tasks.project import Project
from tasks.tune.space import is_project_settings
from tasks.tune.trial import wait_for_lock
from tasks.workspace import Workspace

HEARTBEAT = 30  # seconds
GRACE_PERIOD = 300  # seconds without a heartbeat after which a trial counts as dead
LENGTH = 10**6  # of a trial in Optuna's steps, integers: so fine that no two evaluations share one
SPARED = 0.1  # share of a trial within which it is not pruned
MIN_OTHERS = 5  # trials to compare with

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
# queues a trial again whose worker died
retry_trial = RetryHeartbeatStaleTrialCallback(max_retry=3)


def open_study(
    project: Project, question: dict[str, Any], *, workspace: Workspace, url: str | None
) -> Study:
    """The study of this question, found or created.

    It is in the database `url`, that of `tune.storage`, or a SQLite file in the workspace. Raises
    TransientError where the database is unreachable, UserError where the URL is invalid.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = url or project.tune.storage or f"sqlite:///{_sqlite_file(workspace.studies)}"
    try:
        study = optuna.create_study(
            study_name=study_name(project, question),
            storage=_storage(_with_driver(url)),
            direction="maximize",
            load_if_exists=True,
            pruner=MedianAtShare() if project.tune.prune else NopPruner(),
        )
    except (ArgumentError, NoSuchModuleError, ImportError) as e:
        raise UserError(f"tune.storage is not a valid database URL: {one_line(e)}") from None
    except OperationalError as e:
        raise TransientError(
            f"the database of tune.storage cannot be reached: {one_line(e)}"
        ) from None
    if not study.user_attrs:
        study.set_user_attr("question", question)
    return study


def study_name(project: Project, question: dict[str, Any]) -> str:
    """The project's name and a digest of the question: other rows or another space, another study."""
    return f"{project.name}-{digest_of(question)[:12]}"


def _with_driver(url: str) -> str:
    """The URL of PostgreSQL with the driver that is installed here."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in {"postgresql", "postgres"} else url


def _storage(url: str) -> RDBStorage:
    return RDBStorage(
        url,
        engine_kwargs={"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {},
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE_PERIOD,
        heartbeat_stale_trial_callback=retry_trial,
    )


def _sqlite_file(path: Path) -> Path:
    """The SQLite file with all its tables: it is created under another name and then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return path
    with wait_for_lock(path.with_suffix(".new.lock")):
        if not path.exists():
            for leftover in path.parent.glob(f".{path.name}.*.new*"):
                leftover.unlink()
            temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
            _storage(f"sqlite:///{temporary}").engine.dispose()
            temporary.rename(path)
    return path


def count_done(study: Study) -> int:
    """The number of trials that are complete or pruned."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def best_trial(study: Study) -> FrozenTrial | None:
    """The complete trial with the highest dev F1; of equal ones the project's settings, or the earliest."""
    return max(
        study.get_trials(states=(TrialState.COMPLETE,)),
        key=lambda t: (t.value, is_project_settings(t), -t.number),
        default=None,
    )


def project_settings_trial(study: Study) -> FrozenTrial | None:
    """The complete trial of the project's own settings."""
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    return next(filter(is_project_settings, trials), None)


def report_score(trial: Trial, f1: float, *, share: float) -> bool:
    """Report the dev F1 after this share of the trial; False where the trial should be pruned."""
    trial.report(f1, round(share * LENGTH))
    return not trial.should_prune()


class MedianAtShare(BasePruner):
    """Prunes a trial whose best F1 so far is below the median of the others'.

    The others are the complete trials, each with its best F1 at that share of its own length.
    """

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """True where the trial should end."""
        step = trial.last_step
        if step is None or step < SPARED * LENGTH:
            return False
        others = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        bests = [best for t in others if (best := _best_until(t, step)) is not None]
        best = _best_until(trial, step)
        return len(bests) >= MIN_OTHERS and best is not None and best < median(bests)


def _best_until(trial: FrozenTrial, step: int) -> float | None:
    return max((v for at, v in trial.intermediate_values.items() if at <= step), default=None)
