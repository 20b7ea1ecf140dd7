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
from flows.tracking.cleanup import ClosedOrphans, close_orphans
from flows.tracking.curves import live_curves
from flows.tracking.run import Tracking
from flows.tracking.store import connect
from tasks import atomic
from tasks.progress import Points, Progress, silent
from tasks.project import Project
from tasks.train.stage import TrainResult, train
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.stages import curated_of, splits_of
from tests.kit.training import BATCHES, DEV, TRAIN, Stopped, chosen

pytestmark = pytest.mark.slow  # they train or export models

NAMES = ("train.loss", "train.learning_rate", "train.grad_norm", "dev.loss", "dev.f1_macro")


class Bench:
    """A training stage of three epochs, and the MLflow store of its retrain."""

    def __init__(self, home: Path, encoder: Path) -> None:
        self.settings = Settings(Workspace(home), f"sqlite:///{home / 'mlflow.db'}")
        self.client: MlflowClient = connect(self.settings)
        self.tracking = Tracking.open(
            self.client, self.settings, experiment="toy", retrain_id="r", name="r", params={}
        )
        told = chosen(logging_steps=1).model_dump(mode="json") | {"model": str(encoder)}
        given = {"name": "toy", "labels": toy.LABELS, "data": {"pool": "rows.csv"}, "train": told}
        self.project = Project.model_validate(given)
        self.rows, self.splits = curated_of(home, TRAIN), splits_of(home, dev=DEV)

    def train(
        self, on_points: Callable[[str, Points], None], progress: Progress = silent
    ) -> TrainResult:
        return train(
            self.project,
            curated=self.rows,
            splits=self.splits,
            generation=0,
            workspace=self.settings.workspace,
            progress=progress,
            on_points=on_points,
        )

    def runs(self) -> list[Any]:
        asked = f"tags.`mlflow.parentRunId` = '{self.tracking.run_id}'"
        return list(self.client.search_runs([self.tracking.experiment_id], asked))

    def points(self, run_id: str) -> Counter[tuple[int, str]]:
        """How often the run has each point; the result, which is logged at step 0, left out."""
        logged = [m for name in NAMES for m in self.client.get_metric_history(run_id, name)]
        return Counter((m.step, m.key) for m in logged if m.step)

    def complete(self, trained: TrainResult) -> None:
        """The training has one run, FINISHED, with every point of its history once."""
        (run,) = self.runs()
        history = {
            (step, name) for step, name, _ in atomic.read_json(trained.directory / "history.json")
        }
        assert len(history) == 3 * (3 * BATCHES) + 2 * 3
        assert self.points(run.info.run_id) == Counter(history)
        assert run.info.status == "FINISHED" and "failure" not in run.data.tags


@pytest.fixture
def bench(home: Path, encoder: Path) -> Bench:
    return Bench(home, encoder)


def wait_for(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + 200
    while not (found := what()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)
    return found


def test_points_are_there_before_the_training_has_ended(bench: Bench) -> None:
    seen: list[int] = []

    def look(done: int, total: int, note: str) -> None:
        if done == 2 * BATCHES:
            (run,) = wait_for(bench.runs)
            wait_for(lambda: bench.points(run.info.run_id)[BATCHES, "dev.f1_macro"])
            assert run.info.status == "RUNNING" and run.info.run_name == "train"
            seen.append(done)

    with live_curves(bench.tracking, "train") as on_points:
        trained = bench.train(on_points, look)
    assert seen
    bench.tracking.log_stage(trained, name="train")
    bench.complete(trained)

    with live_curves(bench.tracking, "train seed 2") as on_points:
        assert bench.train(on_points).published.found
    assert len(bench.runs()) == 1, "a run was opened for a stage that was found"


def test_a_training_that_failed_leaves_its_curve_and_goes_on_in_the_same_run(bench: Bench) -> None:
    def stop(done: int, total: int, note: str) -> None:
        if done == 2 * BATCHES - 2:  # the last checkpoint is of step 6
            raise Stopped("the disk is full")

    with pytest.raises(Stopped), live_curves(bench.tracking, "train") as on_points:
        bench.train(on_points, stop)
    (run,) = bench.runs()
    assert run.info.status == "FAILED" and run.data.tags["failure"] == "Stopped: the disk is full"
    left = bench.points(run.info.run_id)
    assert left[2 * BATCHES - 3, "train.loss"] == 1 and left[BATCHES, "dev.f1_macro"] == 1

    bench.client.update_run(run.info.run_id, status="RUNNING")  # as a kill would have left it
    closed = close_orphans(
        bench.client,
        experiment_id=bench.tracking.experiment_id,
        workspace=bench.settings.workspace,
        current=bench.tracking.run_id,
    )
    assert closed == ClosedOrphans([run.info.run_id], [])
    with live_curves(bench.tracking, "train") as on_points:
        trained = bench.train(on_points)
    assert trained.resumed_from == BATCHES
    bench.tracking.log_stage(trained, name="train")
    bench.complete(trained)


def test_an_mlflow_that_is_away_is_said_once_and_caught_up_with(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[float] = []

    def away(*_: Any, **__: Any) -> None:
        tried.append(time.monotonic())
        raise MlflowException("no route to host\nat all")

    with monkeypatch.context() as m:
        m.setattr(bench.client, "log_batch", away)
        with live_curves(bench.tracking, "train") as on_points:
            trained = bench.train(
                on_points, lambda done, *_: wait_for(lambda: len(tried) >= done // BATCHES)
            )
    said = [line for line in capsys.readouterr().err.splitlines() if "MLflow" in line]
    assert len(said) == 1 and "curves of train" in said[0] and "no route to host)" in said[0], said
    bench.tracking.log_stage(trained, name="train")
    bench.complete(trained)


def test_a_slow_mlflow_does_not_hold_a_training_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, answers = bench.client.log_batch, threading.Event()

    def slow(*args: Any, **given: Any) -> None:
        answers.wait(300)
        real(*args, **given)

    with monkeypatch.context() as m:
        m.setattr(bench.client, "log_batch", slow)
        with live_curves(bench.tracking, "train") as on_points:
            trained = bench.train(on_points)
            assert not answers.is_set(), "it has trained while MLflow did not answer"
            answers.set()
    (run,) = bench.runs()
    assert len(bench.points(run.info.run_id)) == 3 * (3 * BATCHES) + 2 * 3, (
        "nothing was lost by waiting"
    )
    bench.tracking.log_stage(trained, name="train")
    bench.complete(trained)
