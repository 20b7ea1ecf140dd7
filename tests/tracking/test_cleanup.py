"""What a kill leaves in MLflow is closed at the next start, and nobody else's run is."""

from __future__ import annotations

import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.settings import Settings
from flows.tracking import logged_model
from flows.tracking.cleanup import ClosedOrphans, close_orphans, workspace_id
from flows.tracking.run import Tracking
from flows.tracking.store import connect
from tasks.workspace import Workspace


class Store:
    def __init__(self, home: Path) -> None:
        self.settings = Settings(Workspace(home), f"sqlite:///{home / 'mlflow.db'}")
        self.client: MlflowClient = connect(self.settings)

    def opened(self, name: str, *, home: Path | None = None, kind: str = "retrain") -> Tracking:
        where = Settings(
            Workspace(home or self.settings.workspace.home), self.settings.tracking_uri
        )
        told: dict[str, Any] = {
            "experiment": "toy",
            "retrain_id": name,
            "name": name,
            "params": {},
            "kind": kind,
        }
        return Tracking.open(self.client, where, **told)

    def child(self, log: Tracking, name: str) -> str:
        tags = {"mlflow.parentRunId": log.run_id, "reseed.stage": name}
        return str(self.client.create_run(log.experiment_id, run_name=name, tags=tags).info.run_id)

    def status(self, run_id: str) -> str:
        return str(self.client.get_run(run_id).info.status)

    def closed(self, by: Tracking) -> ClosedOrphans:
        """What a retrain that starts now closes."""
        workspace = self.settings.workspace
        return close_orphans(
            self.client, experiment_id=by.experiment_id, workspace=workspace, current=by.run_id
        )


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home)


def test_dead_runs_end_as_killed_with_their_children(store: Store) -> None:
    dead, done, mine = store.opened("dead"), store.opened("done"), store.opened("mine")
    left, own, finished = (
        store.child(dead, "train"),
        store.child(mine, "train"),
        store.child(done, "train"),
    )
    store.client.set_terminated(finished, "FINISHED")
    done.close("FINISHED")
    found = store.closed(by=mine)
    assert sorted(found.runs) == sorted([dead.run_id, left, own]) and found.models == []
    assert [store.status(r) for r in (dead.run_id, left, own)] == ["KILLED"] * 3
    assert [store.status(r) for r in (mine.run_id, done.run_id, finished)] == [
        "RUNNING",
        "FINISHED",
        "FINISHED",
    ]
    assert store.client.get_run(dead.run_id).data.tags["failure"] == "its process was killed"
    assert store.closed(by=mine) == ClosedOrphans([], [])


def test_searches_and_other_workspaces_are_left_alone(store: Store, tmp_path: Path) -> None:
    search, elsewhere = (
        store.opened("search", kind="tune"),
        store.opened("elsewhere", home=tmp_path / "other"),
    )
    trial, stage = store.child(search, "trial 0"), store.child(elsewhere, "train")
    assert store.closed(by=store.opened("mine")) == ClosedOrphans([], [])
    assert {store.status(r) for r in (search.run_id, elsewhere.run_id, trial, stage)} == {"RUNNING"}


def test_a_pod_that_is_started_anew_closes_what_was_left_under_its_old_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "pod-a1")
    dead = store.opened("dead")
    monkeypatch.setattr(socket, "gethostname", lambda: "pod-b2")
    assert store.closed(by=store.opened("mine")).runs == [dead.run_id]


def test_a_copy_of_a_workspace_is_another_one_and_lives_on(store: Store, tmp_path: Path) -> None:
    first = store.opened("first")
    copied = Path(shutil.copytree(store.settings.workspace.home, tmp_path / "copy"))
    store.opened("second", home=copied)
    assert (
        workspace_id(Workspace(copied))
        == workspace_id(Workspace(copied))
        != workspace_id(store.settings.workspace)
    )
    assert store.closed(by=store.opened("mine")).runs == [first.run_id]


def test_two_first_starts_at_once_have_one_name(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(workspace_id, [Workspace(tmp_path / "new")] * 32))) == 1


def test_pending_models_of_ours_are_deleted(store: Store, tmp_path: Path) -> None:
    dead, elsewhere = store.opened("dead"), store.opened("elsewhere", home=tmp_path / "other")
    runs = [store.child(dead, "train"), dead.run_id, store.child(elsewhere, "train")]
    pending = [
        store.client.create_logged_model(dead.experiment_id, source_run_id=r).model_id for r in runs
    ]
    ready = store.client.create_logged_model(dead.experiment_id, source_run_id=runs[0]).model_id
    store.client.finalize_logged_model(ready, "READY")
    assert sorted(store.closed(by=store.opened("mine")).models) == sorted(pending[:2])
    left = {m.model_id for m in store.client.search_logged_models([dead.experiment_id])}
    assert left == {pending[2], ready}


def test_every_page_of_models_is_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged_model, "PAGE", 2)
    dead = store.opened("dead")
    pending = [
        store.client.create_logged_model(dead.experiment_id, source_run_id=dead.run_id)
        for _ in range(5)
    ]
    assert len(store.closed(by=store.opened("mine")).models) == len(pending)


def test_a_run_that_is_opened_again_is_not_dead(store: Store) -> None:
    first = store.opened("again")
    store.closed(by=store.opened("other"))
    again = store.opened("again")
    assert again.run_id == first.run_id and store.status(first.run_id) == "RUNNING"
    assert store.closed(by=again).runs != [] and store.status(first.run_id) == "RUNNING"
