"""The curves of a training are in MLflow while it trains, each point once, whatever happens to the training or to MLflow."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.settings import Settings
from flows.tracking import curves as live
from flows.tracking import stage_runs
from flows.tracking.cleanup import tidy
from flows.tracking.curves import curves
from flows.tracking.run import Tracking, connect
from tasks import atomic
from tasks.progress import Points, Progress, silent
from tasks.project import Project
from tasks.stage import Stage
from tasks.train.stage import train
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.stages import made
from tests.kit.training import BATCHES, DEV, TRAIN, Stopped, chosen

NAMES = ("train.loss", "train.learning_rate", "train.grad_norm", "dev.loss", "dev.f1_macro")


class Desk:
    """A training stage of three epochs, and the MLflow store of its retrain."""

    def __init__(self, home: Path, encoder: Path) -> None:
        self.home = home
        settings = Settings(Workspace(home), f"sqlite:///{home / 'mlflow.db'}")
        self.client: MlflowClient = connect(settings)
        self.log = Tracking.open(self.client, settings, experiment="toy", retrain_id="r", name="r", params={})
        told = chosen(logging_steps=1).model_dump(mode="json") | {"model": str(encoder)}
        given = {"name": "toy", "labels": toy.LABELS, "data": {"pool": "rows.csv"}, "train": told}
        self.project = Project.model_validate(given)
        self.rows = made(home, "curate", rows={"kept.jsonl": TRAIN})
        self.splits = made(home, "splits", rows={"dev.jsonl": DEV})

    def train(self, on_points: Callable[[str, Points], None], progress: Progress = silent) -> Stage:
        places = {"beside": self.home, "home": self.home}
        given: dict[str, Any] = {"curated": self.rows, "splits": self.splits, "generation": 0, **places}
        return train(self.project, **given, progress=progress, on_points=on_points)

    def runs(self) -> list[Any]:
        asked = f"tags.`mlflow.parentRunId` = '{self.log.run_id}'"
        return list(self.client.search_runs([self.log.experiment_id], asked))

    def points(self, run_id: str) -> Counter[tuple[int, str]]:
        """How often the run has each point; the result, which is logged at step 0, left out."""
        logged = [m for name in NAMES for m in self.client.get_metric_history(run_id, name)]
        return Counter((m.step, m.key) for m in logged if m.step)

    def complete(self, stage: Stage) -> None:
        """The stage has one run, FINISHED, with every point of its history once."""
        (run,) = self.runs()
        history = {(step, name) for step, name, _ in atomic.read_json(stage.directory / "history.json")}
        assert len(history) == 3 * (3 * BATCHES) + 2 * 3
        assert self.points(run.info.run_id) == Counter(history)
        assert run.info.status == "FINISHED" and "failure" not in run.data.tags


@pytest.fixture
def desk(home: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(live, "CURVE_SECONDS", 0.01)
    return Desk(home, encoder)


def wait_for(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + 200
    while not (found := what()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)
    return found


def test_points_are_there_before_the_training_has_ended(desk: Desk) -> None:
    seen: list[int] = []

    def look(done: int, total: int, note: str) -> None:
        if done == 2 * BATCHES:
            (run,) = wait_for(desk.runs)
            wait_for(lambda: desk.points(run.info.run_id)[BATCHES, "dev.f1_macro"])
            assert run.info.status == "RUNNING" and run.info.run_name == "train"
            seen.append(done)

    with curves(desk.log, "train") as on_points:
        stage = desk.train(on_points, look)
    assert seen
    stage_runs.trained(desk.log, stage)
    desk.complete(stage)

    with curves(desk.log, "train seed 2") as on_points:
        assert desk.train(on_points).found
    assert len(desk.runs()) == 1, "a run was opened for a stage that was found"


def test_a_training_that_failed_leaves_its_curve_and_goes_on_in_the_same_run(desk: Desk) -> None:
    def stop(done: int, total: int, note: str) -> None:
        if done == 2 * BATCHES - 2:  # the last checkpoint is of step 6
            raise Stopped("the disk is full")

    with pytest.raises(Stopped), curves(desk.log, "train") as on_points:
        desk.train(on_points, stop)
    (run,) = desk.runs()
    assert run.info.status == "FAILED" and run.data.tags["failure"] == "Stopped: the disk is full"
    left = desk.points(run.info.run_id)
    assert left[2 * BATCHES - 3, "train.loss"] == 1 and left[BATCHES, "dev.f1_macro"] == 1

    desk.client.update_run(run.info.run_id, status="RUNNING")  # as a kill would have left it
    found = tidy(desk.client, experiment_id=desk.log.experiment_id, home=desk.home, mine=desk.log.run_id)
    assert found["runs"] == [run.info.run_id]
    with curves(desk.log, "train") as on_points:
        stage = desk.train(on_points)
    assert stage.counts["resumed_from"] == BATCHES
    stage_runs.trained(desk.log, stage)
    desk.complete(stage)


def test_an_mlflow_that_is_away_is_said_once_and_caught_up_with(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[float] = []

    def away(*_: Any, **__: Any) -> None:
        tried.append(time.monotonic())
        raise MlflowException("no route to host\nat all")

    with monkeypatch.context() as m:
        m.setattr(desk.client, "log_batch", away)
        with curves(desk.log, "train") as on_points:
            stage = desk.train(on_points, lambda done, *_: wait_for(lambda: len(tried) >= done // BATCHES))
    said = [line for line in capsys.readouterr().err.splitlines() if "MLflow" in line]
    assert len(said) == 1 and "curves of train" in said[0] and "no route to host)" in said[0], said
    stage_runs.trained(desk.log, stage)
    desk.complete(stage)


def test_a_slow_mlflow_does_not_hold_a_training_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real, answers = desk.client.log_batch, threading.Event()

    def slow(*args: Any, **given: Any) -> None:
        answers.wait(300)
        real(*args, **given)

    with monkeypatch.context() as m:
        m.setattr(desk.client, "log_batch", slow)
        with curves(desk.log, "train") as on_points:
            stage = desk.train(on_points)
            assert not answers.is_set(), "it has trained while MLflow did not answer"
            answers.set()
    (run,) = desk.runs()
    assert len(desk.points(run.info.run_id)) == 3 * (3 * BATCHES) + 2 * 3, "nothing was lost by waiting"
    stage_runs.trained(desk.log, stage)
    desk.complete(stage)
