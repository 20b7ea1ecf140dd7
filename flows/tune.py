"""The flow `tune`: search for better settings of the fine-tuning, scored on dev alone.

reseed tune configs/bbc-news.yaml

The same command continues a search after a kill, also while other workers search. Every trial is a
run in MLflow.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

from mlflow.entities import Param
from optuna import Study, Trial, TrialPruned
from optuna.trial import FrozenTrial, TrialState
from prefect import flow
from rich.console import Console
from rich.markup import escape

from flows.context import RunContext
from flows.progress import say
from flows.retraining.generation_loop import fill_quota
from flows.retraining.mixtures import adapt_encoder, choose, mixtures_of
from flows.retraining.session import flow_run_name, open_session
from flows.settings import Settings
from flows.steps import POLICIES, as_task
from flows.tracking.run import Tracking
from tasks import atomic
from tasks.atomic import digest_of
from tasks.figures import Figures
from tasks.project.reader import load_project
from tasks.tune.search import requeue_dead_trials, run_search
from tasks.tune.space import (
    as_overrides,
    as_yaml,
    queue_project_settings,
    settings_of,
    suggest_settings,
)
from tasks.tune.study import (
    best_trial,
    count_done,
    open_study,
    project_settings_trial,
    report_score,
)
from tasks.tune.trial import (
    Pruned,
    TrialData,
    TrialResult,
    run_trial,
    study_question,
    wait_for_lock,
)

P = ParamSpec("P")

STORAGE = "RESEED_TUNE_STORAGE"  # a database URL, which may hold a password
STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class OwnScore(Figures):
    """The dev F1 of the project's own settings."""

    dev_f1_macro: float


class BestTrial(OwnScore):
    """The best trial's number, its dev F1, and its settings of `train`."""

    trial: int
    train: dict[str, Any]


class TuneReport(Figures):
    """The result of `reseed tune`; without a best trial it has no `file`, `yaml` and `set`.

    `trials` are counts by state, `set` the best settings as options of `--set`.
    """

    project: str
    study: str
    trials: dict[str, int]
    own: OwnScore | None
    best: BestTrial | None
    mlflow_run_id: str
    file: str = ""
    yaml: str = ""
    set: list[str] | None = None


@flow(name="tune", flow_run_name=flow_run_name, timeout_seconds=7 * 24 * 3600)
def tune(config: str, overrides: list[str] | None = None, out: str | None = None) -> dict[str, Any]:
    """Search, and write the best settings as a part of a project file. Returns a TuneReport as JSON."""
    run, data = _prepare(config, overrides)
    project, workspace = run.project, run.workspace
    question = study_question(project, data, workspace=workspace)
    study = open_study(project, question, workspace=workspace, url=os.environ.get(STORAGE))
    say(f"study {study.study_name}: {count_done(study)} of {project.tune.trials} trials are done")
    runs = _TrialRuns.open(run, study)
    for number in requeue_dead_trials(study):
        runs.end(number, "KILLED")
        say(f"  trial {number} was killed: it is run again")
    if not queue_project_settings(study, project):
        say("  the project's own settings are outside tune.space: they are not among the trials")
    try:
        _search(run, data, study, runs)
    except BaseException as e:
        runs.log.close("FAILED" if isinstance(e, Exception) else "KILLED")
        raise
    report = _report(run, study, runs, Path(out) if out else workspace.tuned(study.study_name))
    runs.log.close("FINISHED")
    return report.model_dump(mode="json", exclude_unset=True)


def _prepare(config: str, overrides: list[str] | None) -> tuple[RunContext, TrialData]:
    """The run, and what a retrain would train on before self-training.

    The workers of a workspace prepare it one after the other.
    """
    workspace = Settings.from_environment().workspace
    name = load_project(Path(config), overrides or []).name
    lock = workspace.lock(f"tune-{name}")
    with wait_for_lock(lock), open_session(config, overrides) as session:
        run = session.run
        curated = fill_quota(run).curated
        adapted = adapt_encoder(run, curated)
        mixtures = mixtures_of(run, curated)
        return run, TrialData(mixtures[choose(run, mixtures, adapted)], run.splits, adapted)


def _search(run: RunContext, data: TrialData, study: Study, runs: _TrialRuns) -> None:
    project, limit = run.project, run.project.tune.timeout_seconds
    began = time.monotonic()

    def score(trial: Trial) -> float:
        settings = suggest_settings(trial, project)
        say(f"trial {trial.number}: {', '.join(f'{k} {v}' for k, v in settings.items())}")
        return _score(run, data, trial, settings, runs)

    def on_failure(trial: Trial, error: Exception) -> None:
        say(f"  trial {trial.number} failed: {error}")
        failure = f"{type(error).__name__}: {error}"
        runs.end(trial.number, "FAILED", state="failed", failure=failure)

    def in_time() -> bool:
        return limit is None or time.monotonic() - began < limit

    run_search(study, project, score, in_time=in_time, on_failure=on_failure)


def _score(
    run: RunContext, data: TrialData, trial: Trial, settings: dict[str, Any], runs: _TrialRuns
) -> float:
    """Dev F1 of a training with these settings. Raises TrialPruned."""
    run_id = runs.begin(trial.number, settings)

    def keep_going(epoch: int, f1: float, share: float) -> bool:
        runs.log.client.log_metric(run_id, "dev.f1_macro", f1, step=epoch)
        return report_score(trial, f1, share=share)

    step = as_task(none_if_pruned(run_trial), POLICIES[run_trial], name=f"trial {trial.number}")
    result = step(run.project, settings, data, keep_going=keep_going, workspace=run.workspace)
    if result is None:
        runs.end(trial.number, "KILLED", state="pruned")
        say("  pruned")
        raise TrialPruned
    runs.log.log_metrics(result.metrics(), run_id)
    runs.end(trial.number, "FINISHED", state="complete")
    say(f"  dev F1 {result.dev_f1_macro:.4f}")
    return result.dev_f1_macro


def none_if_pruned(function: Callable[P, TrialResult]) -> Callable[P, TrialResult | None]:
    """`function`, returning None for a pruned trial: Prefect would show an exception as a failed task."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> TrialResult | None:
        try:
            return function(*args, **kwargs)
        except Pruned:
            return None

    return run


@dataclass(frozen=True, slots=True)
class _TrialRuns:
    """The search's run in MLflow, and one nested in it for each trial."""

    log: Tracking
    study: str

    @classmethod
    def open(cls, run: RunContext, study: Study) -> _TrialRuns:
        sections = ("tune.", "adapt.", "train.")
        params = {k: v for k, v in run.project.parameters().items() if k.startswith(sections)}
        log = Tracking.open(
            run.tracking.client,
            run.settings,
            experiment=run.project.name,
            retrain_id=digest_of(["tune", study.study_name])[:32],
            name=f"tune {study.study_name}",
            params=params,
            kind="tune",
        )
        return cls(log, study.study_name)

    def begin(self, number: int, settings: dict[str, Any]) -> str:
        """Create the trial's run; returns its id."""
        tags = {"mlflow.parentRunId": self.log.run_id, "reseed.trial": f"{self.study}/{number}"}
        run = self.log.client.create_run(
            self.log.experiment_id, run_name=f"trial {number}", tags=tags
        )
        params = [Param(f"train.{k}", str(v)) for k, v in settings.items()]
        self.log.client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def end(self, number: int, status: str, **tags: str) -> None:
        """Close the trial's run, where there is one."""
        condition = f"tags.`reseed.trial` = '{self.study}/{number}'"
        for run in self.log.client.search_runs([self.log.experiment_id], condition):
            for key, value in tags.items():
                self.log.client.set_tag(run.info.run_id, key, value[:5000])
            self.log.client.set_terminated(run.info.run_id, status)


def _report(run: RunContext, study: Study, runs: _TrialRuns, out: Path) -> TuneReport:
    """The report; the best settings are written to `out` and logged to MLflow."""
    states = [t.state for t in study.get_trials(deepcopy=False)]
    own, best = project_settings_trial(study), best_trial(study)
    report = TuneReport(
        project=run.project.name,
        study=study.study_name,
        trials={name: states.count(state) for name, state in STATES.items()},
        own=OwnScore(dev_f1_macro=_f1(own)) if own else None,
        best=None,
        mlflow_run_id=runs.log.run_id,
    )
    if best is None:
        return report
    settings, scores = settings_of(best, run.project), {"dev.f1_macro.best": _f1(best)}
    title = f"{study.study_name}, trial {best.number} of {len(states)}: dev F1 {_f1(best):.4f}"
    if own:
        title += f"; the project's own settings {_f1(own):.4f}"
        scores["dev.f1_macro.own"] = _f1(own)
    caution = (
        f"the best of many trials on {run.splits.rows['dev']} dev rows is optimistic: `reseed retrain` "
        f"measures it on the test set"
    )
    text = as_yaml(settings, [title, caution])
    atomic.write_bytes(out, text.encode())
    runs.log.client.log_artifact(runs.log.run_id, str(out))
    runs.log.log_metrics(scores)
    return report.model_copy(
        update={
            "best": BestTrial(trial=best.number, dev_f1_macro=_f1(best), train=settings),
            "file": str(out),
            "yaml": text,
            "set": as_overrides(settings),
        }
    )


def _f1(trial: FrozenTrial) -> float:
    assert trial.value is not None, trial.number
    return trial.value


def show_settings(report: TuneReport, console: Console) -> None:
    """Print the best settings as YAML for the project file."""
    counts = ", ".join(f"{n} {state}" for state, n in report.trials.items())
    console.print(escape(f"study {report.study}: {counts}"))
    if report.best is None:
        console.print("no trial was completed: give tune.timeout_seconds more time")
        return
    console.print(escape(report.yaml), end="", soft_wrap=True)
    options = " --set ".join(report.set or [])
    console.print(escape(f"written to {report.file}; or: --set {options}"), soft_wrap=True)
