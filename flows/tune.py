"""The flow `tune`: search for better settings of the fine-tuning, judged on dev alone; every trial is a run in MLflow.

reseed tune configs/bbc-news.yaml        the same command goes on after a kill, and beside other workers
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Param
from optuna import TrialPruned
from optuna.trial import TrialState
from prefect import flow
from rich.console import Console
from rich.markup import escape

from flows import steps
from flows.context import Retrain
from flows.progress import say
from flows.retraining.generation_loop import fill_quota
from flows.retraining.mixtures import adapt, choose, mixes_of
from flows.retraining.session import opened, run_name
from flows.settings import Settings
from flows.tracking import stage_runs
from flows.tracking.run import Tracking
from tasks import atomic
from tasks.atomic import digest_of
from tasks.project.reader import load_project
from tasks.references import digest_of_path
from tasks.stage import Stage
from tasks.tune import search
from tasks.tune.trial import as_override, encoder_of, fragment, question, turn

STORAGE = "RESEED_TUNE_STORAGE"  # a database URL, which may hold a password


@flow(name="tune", flow_run_name=run_name, timeout_seconds=7 * 24 * 3600)
def tune(config: str, overrides: list[str] | None = None, out: str | None = None) -> dict[str, Any]:
    """The best settings found on dev, and the file with them as a piece of a project file."""
    r, rows = _rows(config, overrides)
    encoder = digest_of_path(encoder_of(r.project, r.adapted, **r.places))
    asked = question(r.project, rows=rows, splits=r.prepared.splits, encoder=encoder)
    study = search.open_study(r.project, asked, home=r.home, url=os.environ.get(STORAGE))
    say(f"study {study.study_name}: {search.done(study)} of {r.project.tune.trials} trials are done")
    runs = _Runs.open(r, study)
    for number in search.adopt_dead(study):
        runs.end(number, "KILLED")
        say(f"  trial {number} was killed: it is tried again")
    if not search.fill_queue(study, r.project):
        say("  the project's own settings lie outside tune.space: they are not among the trials")
    try:
        _search(r, rows, study, runs)
    except BaseException as e:
        runs.log.close("FAILED" if isinstance(e, Exception) else "KILLED")
        raise
    result = _result(r, study, runs, Path(out) if out else r.home / "tune" / f"{study.study_name}.yaml")
    runs.log.close("FINISHED")
    return result


def _rows(config: str, overrides: list[str] | None) -> tuple[Retrain, Stage]:
    """The rows that a retrain would train on before it harvests. Workers of one workspace make them in turn."""
    home = Settings.from_environment().home
    with (
        turn(home / "locks" / f"tune-{load_project(Path(config), overrides or []).name}.lock"),
        opened(config, overrides) as r,
    ):
        r.timed(r.prepared.splits, "prepare")
        filled = fill_quota(r)
        stage_runs.curated(r.log, filled.rows)
        r.adapted = adapt(r, filled.rows)
        mixes = mixes_of(r, filled.rows)
        return r, mixes[choose(r, mixes)]


def _search(r: Retrain, rows: Stage, study: Any, runs: _Runs) -> None:
    began, limit = time.monotonic(), r.project.tune.timeout_seconds

    def objective(trial: Any) -> float:
        settings = search.suggest(trial, r.project)
        run_id = runs.begin(trial.number, settings)
        say(f"trial {trial.number}: {_line(settings)}")

        def keep_going(epoch: int, f1: float, share: float) -> bool:
            runs.log.client.log_metric(run_id, "dev.f1_macro", f1, step=epoch)
            return search.worth_it(trial, f1, share=share)

        stage: Stage | None = steps.trial(
            r.project,
            settings,
            rows=rows,
            splits=r.prepared.splits,
            adapted=r.adapted,
            keep_going=keep_going,
            **r.places,
        )
        if stage is None:
            runs.end(trial.number, "KILLED", state="pruned")
            say("  pruned")
            raise TrialPruned
        f1 = float(stage.counts["dev_f1_macro"])
        runs.log.metrics({"dev.f1_macro": f1, "train.steps": float(stage.counts["steps"])}, run_id)
        runs.end(trial.number, "FINISHED", state="complete")
        say(f"  dev F1 {f1:.4f}")
        return f1

    def failed(trial: Any, error: BaseException) -> None:
        say(f"  trial {trial.number} failed: {error}")
        runs.end(trial.number, "FAILED", state="failed", failure=f"{type(error).__name__}: {error}")

    def in_time() -> bool:
        return limit is None or time.monotonic() - began < limit

    search.search(study, r.project, objective, in_time=in_time, failed=failed)


@dataclass
class _Runs:
    """The search's run in MLflow, and one nested in it for each trial."""

    log: Tracking
    study: str

    @classmethod
    def open(cls, r: Retrain, study: Any) -> _Runs:
        params = {k: v for k, v in r.project.parameters().items() if k.startswith(("tune.", "adapt.", "train."))}
        log = Tracking.open(
            r.log.client,
            r.settings,
            experiment=r.project.name,
            retrain_id=digest_of(["tune", study.study_name])[:32],
            name=f"tune {study.study_name}",
            params=params,
            kind="tune",
        )
        return cls(log, study.study_name)

    def begin(self, number: int, settings: dict[str, Any]) -> str:
        """The id of the trial's run."""
        tags = {"mlflow.parentRunId": self.log.run_id, "reseed.trial": f"{self.study}/{number}"}
        run = self.log.client.create_run(self.log.experiment_id, run_name=f"trial {number}", tags=tags)
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


def _result(r: Retrain, study: Any, runs: _Runs, out: Path) -> dict[str, Any]:
    states = [t.state for t in study.get_trials(deepcopy=False)]
    named = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    own, best = search.own_settings(study), search.best(study)
    result: dict[str, Any] = {
        "project": r.project.name,
        "study": study.study_name,
        "trials": {name: states.count(state) for name, state in named.items()},
        "own": {"dev_f1_macro": own.value} if own else None,
        "best": None,
        "mlflow_run_id": runs.log.run_id,
    }
    if best is None:
        return result
    settings = search.settings_of(best, r.project)
    counts = r.prepared.splits.counts
    rows = counts["rows"]["dev"] if "rows" in counts else sum(counts["dev"].values())
    said = [
        f"{study.study_name}, trial {best.number} of {len(states)}: dev F1 {best.value:.4f}"
        + (f"; the project's own settings {own.value:.4f}" if own else ""),
        f"the best of many on {rows} dev rows flatters itself: `reseed retrain` says what it is worth on the test set",
    ]
    text = fragment(settings, said)
    atomic.write_bytes(out, text.encode())
    runs.log.client.log_artifact(runs.log.run_id, str(out))
    runs.log.metrics({"dev.f1_macro.best": best.value} | ({"dev.f1_macro.own": own.value} if own else {}))
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
    console.print(escape(f"written to {result['file']}; or: --set {' --set '.join(result['set'])}"), soft_wrap=True)
