"""Close what a kill left open in MLflow: runs that are RUNNING and will never end, logged models that are PENDING for ever."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

from flows.tracking.logged_model import iter_logged_models
from tasks import atomic
from tasks.workspace import Workspace

PLACE = "reseed.place"  # of a run: the workspace where it goes on
_MOST = 1000


def workspace_id(workspace: Workspace) -> str:
    """The workspace's own name, on whatever machine it is used: a pod that is started anew has another host name.

    A file in the workspace keeps it. The file's inode is part of it, as a copy of a workspace is another one: each has its own
    lock, so neither knows whether the other's retrain lives.
    """
    kept = workspace.identity
    while not (
        lines := atomic.read_lines(kept)
    ):  # of two that come first at once, the first line counts
        atomic.append_line(kept, {"workspace": uuid.uuid4().hex})
    return f"{lines[0]['workspace']}:{kept.stat().st_ino}"


@dataclass(frozen=True, slots=True)
class ClosedOrphans:
    """The ids of the runs that were ended and the logged models that were deleted."""

    runs: list[str]
    models: list[str]


def close_orphans(
    client: MlflowClient, *, experiment_id: str, workspace: Workspace, current: str
) -> ClosedOrphans:
    """End as KILLED every retrain of this experiment that began in this workspace and is RUNNING still, with its children,
    and delete the PENDING models of such runs; their ids.

    Call it while holding the project's retrain lock, which says that no other retrain of it lives in this workspace, on
    whichever machine: that takes a disk whose locks count on all machines that share it. `current` is the run that goes on; what it
    logs again is finished then. Searches for settings, which may be several at once, and other workspaces' runs are left alone.
    """
    where = workspace_id(workspace)

    def is_ours(run: Any) -> bool:
        parent = run.data.tags.get("mlflow.parentRunId")
        tags = client.get_run(parent).data.tags if parent else run.data.tags
        return tags.get(PLACE) == where and tags.get("reseed.kind") == "retrain"

    running = _runs(client, experiment_id, "attributes.status = 'RUNNING'")
    dead = [str(r.info.run_id) for r in running if r.info.run_id != current and is_ours(r)]
    for run_id in dead:
        client.set_tag(run_id, "failure", "its process ended without a word")
        client.set_terminated(run_id, "KILLED")
    pending = [
        str(m.model_id)
        for m in iter_logged_models(client, experiment_id)
        if str(m.status) == "PENDING"
        and m.source_run_id
        and is_ours(client.get_run(m.source_run_id))
    ]
    for model_id in pending:
        client.delete_logged_model(model_id)
    return ClosedOrphans(dead, pending)


def _runs(client: MlflowClient, experiment_id: str, query: str) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], query, ViewType.ACTIVE_ONLY, max_results=_MOST, page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found
