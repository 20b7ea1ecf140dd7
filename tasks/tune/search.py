"""A search for settings: trials one after another, by several processes, until enough are done.

Tree-structured Parzen estimator: Bergstra et al. 2011.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from optuna import Study, Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from tasks.atomic import digest_of
from tasks.errors import UserError, one_line
from tasks.project import Project
from tasks.tune.study import count_done, retry_trial

MAX_FAILURES = 3  # in a row
WORKER = "worker"  # the attribute of a trial that names its process


@dataclass
class _Objective:
    """The objective, noting the trial in progress, the failures in a row, and the last error."""

    score: Callable[[Trial], float]
    on_failure: Callable[[Trial, Exception], None]
    number: int | None = None
    failures: int = 0
    error: Exception | None = None

    def __call__(self, trial: Trial) -> float:
        self.number = trial.number
        trial.set_user_attr(WORKER, worker_id())
        try:
            score = self.score(trial)
        except TrialPruned:
            self.failures = 0
            raise
        except Exception as e:
            self.failures, self.error = self.failures + 1, e
            self.on_failure(trial, e)
            raise
        self.failures = 0
        return score


def run_search(
    study: Study,
    project: Project,
    score: Callable[[Trial], float],
    *,
    in_time: Callable[[], bool],
    on_failure: Callable[[Trial, Exception], None],
) -> None:
    """Run trials until all workers together have done `tune.trials`, or `in_time()` is False.

    A failed trial is passed to `on_failure` and does not end the search; three in a row do, with a
    UserError. A trial that Ctrl-C ended is queued again.
    """
    objective = _Objective(score, on_failure)
    while count_done(study) < project.tune.trials and in_time():
        study.sampler = _sampler(study, project)
        objective.number = None
        try:
            study.optimize(objective, n_trials=1, catch=(Exception,))
        except KeyboardInterrupt:
            if objective.number is not None:
                queue_again(study, study.trials[objective.number])
            raise
        except UpdateFinishedTrialError:
            continue  # this worker counted as dead, and another one has the trial now
        except ValueError as e:
            if "Cannot tell" not in str(e):  # likewise
                raise
            continue
        if objective.error is not None and objective.failures == MAX_FAILURES:
            raise UserError(
                f"three trials in a row failed, the last with {type(objective.error).__name__}: "
                f"{one_line(objective.error)}"
            )


def _sampler(study: Study, project: Project) -> TPESampler:
    """The sampler of the next trial.

    Its seed depends on the trials so far, so that a resumed search does not repeat itself, and on the
    process where several search at once.
    """
    trials = study.get_trials(deepcopy=False)
    shared = any(t.state == TrialState.RUNNING for t in trials)
    parts = [project.tune.seed, len(trials), worker_id() if shared else ""]
    return TPESampler(
        seed=int(digest_of(parts)[:8], 16),
        n_startup_trials=min(10, max(2, project.tune.trials // 3)),
        multivariate=True,
        constant_liar=True,
    )


def worker_id() -> str:
    """This process: machine, process id, and start time, because process ids are reused."""
    return f"{socket.gethostname()}/{os.getpid()}/{_start_time(os.getpid())}"


def _start_time(pid: int) -> str:
    """The start of a process in the kernel's clock ticks since boot; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def queue_again(study: Study, trial: FrozenTrial) -> None:
    """Queue an unfinished trial again with the same settings, three times at most."""
    if trial.params:
        retry_trial(study, trial)


def requeue_dead_trials(study: Study) -> list[int]:
    """Fail and queue again the running trials of this machine whose process is gone; their numbers.

    Trials of other machines are recognised by their missing heartbeat.
    """
    numbers = []
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        host, _, process = str(trial.user_attrs.get(WORKER, "")).partition("/")
        pid, _, start_time = process.partition("/")
        if host != socket.gethostname() or _start_time(int(pid)) == start_time:
            continue
        with suppress(ValueError, UpdateFinishedTrialError):  # another worker was first
            study.tell(trial.number, state=TrialState.FAIL)
            queue_again(study, trial)
            numbers.append(trial.number)
    return numbers
