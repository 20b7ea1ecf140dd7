"""The flow `tune`: search for better settings of the fine-tuning, judged on dev alone; every trial is a run in MLflow.

reseed tune configs/bbc-news.yaml        the same command goes on after a kill, and beside other workers
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
from optuna import TrialPruned
from optuna.trial import TrialState
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
from tasks.dataset.training_rows import TrainingRows
from tasks.project.reader import load_project
from tasks.references import digest_of_path
from tasks.train.adaptation.adapt import AdaptResult
from tasks.tune import search
from tasks.tune.trial import (
    Pruned,
    TrialResult,
    as_override,
    encoder_of,
    fragment,
    question,
    run_trial,
    turn,
)

P = ParamSpec("P")

STORAGE = "RESEED_TUNE_STORAGE"  # a database URL, which may hold a password


@flow(name="tune", flow_run_name=flow_run_name, timeout_seconds=7 * 24 * 3600)
def tune(config: str, overrides: list[str] | None = None, out: str | None = None) -> dict[str, Any]:
    """The best settings found on dev, and the file with them as a piece of a project file."""
    prepared = _prepare(config, overrides)
    run, project = prepared.run, prepared.run.project
    encoder = digest_of_path(encoder_of(project, prepared.adapted, workspace=run.workspace))
    asked = question(project, rows=prepared.rows, splits=run.splits, encoder=encoder)
    study = search.open_study(project, asked, workspace=run.workspace, url=os.environ.get(STORAGE))
    say(f"study {study.study_name}: {search.done(study)} of {project.tune.trials} trials are done")
    runs = _Runs.open(run, study)
    for number in search.adopt_dead(study):
        runs.end(number, "KILLED")
        say(f"  trial {number} was killed: it is tried again")
    if not search.fill_queue(study, project):
        say("  the project's own settings lie outside tune.space: they are not among the trials")
    try:
        _search(prepared, study, runs)
    except BaseException as e:
        runs.log.close("FAILED" if isinstance(e, Exception) else "KILLED")
        raise
    result = _result(run, study, runs, Path(out) if out else run.workspace.tuned(study.study_name))
    runs.log.close("FINISHED")
    return result


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The rows that a retrain would train on before self-training, and the adapted encoder."""

    run: RunContext
    rows: TrainingRows
    adapted: AdaptResult | None


def _prepare(config: str, overrides: list[str] | None) -> _Prepared:
    """What every trial is trained on. Workers of one workspace prepare it in turn."""
    workspace = Settings.from_environment().workspace
    name = load_project(Path(config), overrides or []).name
    with turn(workspace.lock(f"tune-{name}")), open_session(config, overrides) as session:
        run = session.run
        curated = fill_quota(run).curated
        adapted = adapt_encoder(run, curated)
        mixtures = mixtures_of(run, curated)
        return _Prepared(run, mixtures[choose(run, mixtures, adapted)], adapted)


def _search(prepared: _Prepared, study: Any, runs: _Runs) -> None:
    run, project = prepared.run, prepared.run.project
    began, limit = time.monotonic(), project.tune.timeout_seconds

    def objective(attempt: Any) -> float:
        settings = search.suggest(attempt, project)
        run_id = runs.begin(attempt.number, settings)
        say(f"trial {attempt.number}: {_line(settings)}")

        def keep_going(epoch: int, f1: float, share: float) -> bool:
            runs.log.client.log_metric(run_id, "dev.f1_macro", f1, step=epoch)
            return search.worth_it(attempt, f1, share=share)

        step = as_task(
            _none_if_pruned(run_trial), POLICIES[run_trial], name=f"trial {attempt.number}"
        )
        result = step(
            project,
            settings,
            rows=prepared.rows,
            splits=run.splits,
            adapted=prepared.adapted,
            keep_going=keep_going,
            workspace=run.workspace,
        )
        if result is None:
            runs.end(attempt.number, "KILLED", state="pruned")
            say("  pruned")
            raise TrialPruned
        runs.log.log_metrics(result.metrics(), run_id)
        runs.end(attempt.number, "FINISHED", state="complete")
        say(f"  dev F1 {result.dev_f1_macro:.4f}")
        return result.dev_f1_macro

    def failed(attempt: Any, error: BaseException) -> None:
        say(f"  trial {attempt.number} failed: {error}")
        runs.end(
            attempt.number, "FAILED", state="failed", failure=f"{type(error).__name__}: {error}"
        )

    def in_time() -> bool:
        return limit is None or time.monotonic() - began < limit

    search.search(study, project, objective, in_time=in_time, failed=failed)


def _none_if_pruned(function: Callable[P, TrialResult]) -> Callable[P, TrialResult | None]:
    """`function`, which returns None for a pruned trial: an exception would be a failed task in Prefect."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> TrialResult | None:
        try:
            return function(*args, **kwargs)
        except Pruned:
            return None

    return run


@dataclass
class _Runs:
    """The search's run in MLflow, and one nested in it for each trial."""

    log: Tracking
    study: str

    @classmethod
    def open(cls, run: RunContext, study: Any) -> _Runs:
        params = {
            k: v
            for k, v in run.project.parameters().items()
            if k.startswith(("tune.", "adapt.", "train."))
        }
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
        """The id of the trial's run."""
        tags = {"mlflow.parentRunId": self.log.run_id, "reseed.trial": f"{self.study}/{number}"}
        run = self.log.client.create_run(
            self.log.experiment_id, run_name=f"trial {number}", tags=tags
        )
        params = [Param(f"train.{k}", str(v)) for k, v in settings.items()]
        self.log.client.log_batch(run.info.run_id, params=params)
        return str(run.info.run_id)

    def end(self, number: int, status: str, **tags: str) -> None:
        """Close the trial's run, where there is one."""
        mine = f"tags.`reseed.trial` = '{self.study}/{number}'"
        for run in self.log.client.search_runs([self.log.experiment_id], mine):
            for key, value in tags.items():
                self.log.client.set_tag(run.info.run_id, key, value[:5000])
            self.log.client.set_terminated(run.info.run_id, status)


def _result(run: RunContext, study: Any, runs: _Runs, out: Path) -> dict[str, Any]:
    states = [t.state for t in study.get_trials(deepcopy=False)]
    named = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    own, best = search.own_settings(study), search.best(study)
    result: dict[str, Any] = {
        "project": run.project.name,
        "study": study.study_name,
        "trials": {name: states.count(state) for name, state in named.items()},
        "own": {"dev_f1_macro": own.value} if own else None,
        "best": None,
        "mlflow_run_id": runs.log.run_id,
    }
    if best is None:
        return result
    settings = search.settings_of(best, run.project)
    rows = run.splits.rows["dev"]
    said = [
        f"{study.study_name}, trial {best.number} of {len(states)}: dev F1 {best.value:.4f}"
        + (f"; the project's own settings {own.value:.4f}" if own else ""),
        f"the best of many on {rows} dev rows flatters itself: `reseed retrain` says what it is worth on the test set",
    ]
    text = fragment(settings, said)
    atomic.write_bytes(out, text.encode())
    runs.log.client.log_artifact(runs.log.run_id, str(out))
    runs.log.log_metrics(
        {"dev.f1_macro.best": best.value} | ({"dev.f1_macro.own": own.value} if own else {})
    )
    result["best"] = {"trial": best.number, "dev_f1_macro": best.value, "train": settings}
    return result | {"file": str(out), "yaml": text, "set": as_override(settings)}


def _line(settings: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in settings.items())


def show(result: dict[str, Any], console: Console) -> None:
    """The outcome on a terminal: a piece of YAML to paste into the project file."""
    counted = ", ".join(f"{n} {state}" for state, n in result["trials"].items())
    console.print(escape(f"study {result['study']}: {counted}"))
    if result["best"] is None:
        console.print("no trial came to its end: give tune.timeout_seconds more time")
        return
    console.print(escape(result["yaml"]), end="", soft_wrap=True)
    console.print(
        escape(f"written to {result['file']}; or: --set {' --set '.join(result['set'])}"),
        soft_wrap=True,
    )
