"""A search for settings with Optuna: its storage, which trial comes next, and what a killed worker left.

Tree-structured Parzen estimator: Bergstra et al. 2011. A trial is pruned by the median rule (Golovin et al. 2017), read at
the same share of each trial's own schedule: a long one has hardly begun to anneal when a short one of as many epochs ends.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from tasks.atomic import digest_of
from tasks.errors import TransientError, UserError
from tasks.project import Project
from tasks.tune.trial import turn
from tasks.workspace import Workspace

HEARTBEAT, GRACE = (
    30,
    300,
)  # seconds; a trial without a heartbeat for as long as GRACE is taken to be dead
RETRIES = 3  # of a trial whose worker died
OWNER, OWN_SETTINGS = "worker", "own settings"
WHOLE = (
    10**6
)  # a trial's length in Optuna's steps, which are whole numbers; so fine that no two looks fall into one
SPARED, FEWEST = 0.1, 5  # no trial is pruned within this share of it, or by fewer others
RANGES = ("learning_rate", "weight_decay", "warmup", "label_smoothing")


def open_study(
    project: Project, question: dict[str, Any], *, workspace: Workspace, url: str | None
) -> Any:
    """The Optuna study of this question, found or made, in the database `url` or a SQLite file in the workspace.

    Raises TransientError where the database can't be reached, UserError where the URL is none.
    """
    optuna = _optuna()
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

    url = _driver(url or project.tune.storage or f"sqlite:///{_whole_file(workspace.studies)}")
    try:
        study = optuna.create_study(
            study_name=study_name(project, question),
            storage=_storage(url),
            direction="maximize",
            load_if_exists=True,
            pruner=MedianAtShare() if project.tune.prune else optuna.pruners.NopPruner(),
        )
    except (ArgumentError, NoSuchModuleError, ImportError) as e:
        raise UserError(f"tune.storage is no database URL that can be used: {_short(e)}") from None
    except OperationalError as e:
        raise TransientError(
            f"the database of tune.storage can't be reached: {_short(e)}"
        ) from None
    if not study.user_attrs:
        study.set_user_attr("question", question)
    return study


def study_name(project: Project, question: dict[str, Any]) -> str:
    """The project's name and the digest of what is searched: other rows or another space are another study."""
    return f"{project.name}-{digest_of(question)[:12]}"


def _optuna() -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _driver(url: str) -> str:
    """PostgreSQL through the driver that is installed here."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in {"postgresql", "postgres"} else url


def _storage(url: str) -> Any:
    optuna = _optuna()
    patient = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(
        url,
        engine_kwargs=patient,
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=_retry(),
    )


def _retry() -> Any:
    return _optuna().storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)


def _whole_file(path: Path) -> Path:
    """The SQLite file with its tables. Made beside and renamed: a kill within must not leave half of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with turn(path.with_suffix(".new.lock")):
            if not path.exists():
                for left in path.parent.glob(f".{path.name}.*.new*"):
                    left.unlink()
                beside = path.with_name(f".{path.name}.{os.getpid()}.new")
                _storage(f"sqlite:///{beside}").engine.dispose()
                beside.rename(path)
    return path


def fill_queue(study: Any, project: Project) -> bool:
    """Queue the project's own settings as the first trial; False where they lie outside the space."""
    own = {key: getattr(project.train, key) for key in project.tune.space.values()}
    for key, values in project.tune.space.values().items():
        inside = values[0] <= own[key] <= values[-1] if _is_range(key) else own[key] in values
        if not inside:
            return False
    study.enqueue_trial(own, user_attrs={OWN_SETTINGS: True}, skip_if_exists=True)
    return True


def _is_range(key: str) -> bool:
    return key in (*RANGES, "epochs")


def suggest(trial: Any, project: Project) -> dict[str, Any]:
    """The settings of `train` to try, floats to three digits."""
    for key, values in project.tune.space.values().items():
        if key == "epochs":
            trial.suggest_int(key, *values)
        elif key in RANGES:
            trial.suggest_float(key, *values, log=key == "learning_rate")
        else:
            trial.suggest_categorical(key, values)
    return settings_of(trial, project)


def settings_of(trial: Any, project: Project) -> dict[str, Any]:
    """What a trial trained with: its parameters in the order of the space, floats to three digits."""
    own = bool(trial.user_attrs.get(OWN_SETTINGS))
    found = {key: trial.params[key] for key in project.tune.space.values()}
    return {k: float(f"{v:.3g}") if k in RANGES and not own else v for k, v in found.items()}


def search(
    study: Any,
    project: Project,
    objective: Callable[[Any], float],
    *,
    in_time: Callable[[], bool],
    failed: Callable[[Any, BaseException], None],
) -> None:
    """Run trials until `tune.trials` are done, by all workers together, or `in_time()` is False.

    A failed trial is told to `failed` and does not end the search; three in a row do, with the UserError that names the
    last. A trial that Ctrl-C ended is queued again.
    """
    optuna, in_a_row = _optuna(), 0
    last: list[BaseException] = []
    mine: list[int] = []

    def guarded(trial: Any) -> float:
        mine.append(trial.number)
        trial.set_user_attr(OWNER, worker())
        try:
            return objective(trial)
        except Exception as e:
            if not isinstance(e, optuna.TrialPruned):
                last.append(e)
                failed(trial, e)
            raise

    while done(study) < project.tune.trials and in_time():
        study.sampler = _sampler(study, project)
        count = len(last)
        mine.clear()
        try:
            study.optimize(guarded, n_trials=1, catch=(Exception,))
        except KeyboardInterrupt:
            for number in mine:
                queue_again(study, study.trials[number])
            raise
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError) as e:
            if "Cannot tell" not in str(e) and not isinstance(
                e, optuna.exceptions.UpdateFinishedTrialError
            ):
                raise
            continue  # this worker was taken to be dead, and another one has the trial now
        in_a_row = in_a_row + 1 if len(last) > count else 0
        if in_a_row == 3:
            raise UserError(
                f"three trials in a row failed, the last with {type(last[-1]).__name__}: {_short(last[-1])}"
            )


def worth_it(trial: Any, f1: float, *, share: float) -> bool:
    """Tell Optuna what dev said after this share of the trial; False where going on is not worth it."""
    trial.report(f1, round(share * WHOLE))
    return not trial.should_prune()


class MedianAtShare:
    """A pruner: a trial ends where its best look so far is below the median of the best looks that the complete trials had
    had at that share of their own length. Those without a look by then don't count."""

    def prune(self, study: Any, trial: Any) -> bool:
        from optuna.trial import TrialState

        step = trial.last_step
        if step is None or step < SPARED * WHOLE:
            return False
        others = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        bests = [best for t in others if (best := _best_by(t, step)) is not None]
        own = _best_by(trial, step)
        return len(bests) >= FEWEST and own is not None and own < median(bests)


def _best_by(trial: Any, step: int) -> float | None:
    return max((v for at, v in trial.intermediate_values.items() if at <= step), default=None)


def done(study: Any) -> int:
    """Trials that are complete or pruned."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _sampler(study: Any, project: Project) -> Any:
    """TPE whose draws hang on the seed and the trials so far, so that a resumed search is not the first one over again;
    and on the process where several search at once."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    others = any(t.state == TrialState.RUNNING for t in trials)
    seed = int(digest_of([project.tune.seed, len(trials), worker() if others else ""])[:8], 16)
    startup = min(10, max(2, project.tune.trials // 3))
    return _optuna().samplers.TPESampler(
        seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True
    )


def worker() -> str:
    """This process: machine, process id and when it started, for a number is used again."""
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def _started(pid: int) -> str:
    """When the process started, in the kernel's clock ticks since the boot; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def queue_again(study: Any, trial: Any) -> None:
    """Queue a trial that did not come to its end, with the same settings; a few times at most."""
    if trial.params:
        _retry()(study, trial)


def adopt_dead(study: Any) -> list[int]:
    """Fail and queue again the running trials of this machine whose process is gone; their numbers.

    What other machines left is found by its missing heartbeat.
    """
    from optuna.trial import TrialState

    found = []
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        host, _, rest = str(trial.user_attrs.get(OWNER, "")).partition("/")
        pid, _, started = rest.partition("/")
        if host != socket.gethostname() or _started(int(pid)) == started:
            continue
        with suppress(
            ValueError, _optuna().exceptions.UpdateFinishedTrialError
        ):  # another worker was first
            study.tell(trial.number, state=TrialState.FAIL)
            queue_again(study, trial)
            found.append(trial.number)
    return found


def best(study: Any) -> Any | None:
    """The complete trial with the highest dev F1: the project's own settings, or else the earliest, where some tie."""
    from optuna.trial import TrialState

    trials = study.get_trials(states=(TrialState.COMPLETE,))
    return max(
        trials,
        key=lambda t: (t.value, bool(t.user_attrs.get(OWN_SETTINGS)), -t.number),
        default=None,
    )


def own_settings(study: Any) -> Any | None:
    """The complete trial of the project's own settings."""
    from optuna.trial import TrialState

    trials = study.get_trials(states=(TrialState.COMPLETE,))
    return next((t for t in trials if t.user_attrs.get(OWN_SETTINGS)), None)
