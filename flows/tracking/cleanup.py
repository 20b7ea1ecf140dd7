"""Close what a killed process left in MLflow: RUNNING runs and PENDING logged models."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from flows.tracking.logged_model import iter_logged_models
from flows.tracking.store import all_pages
from tasks import atomic
from tasks.workspace import Workspace

PLACE = "reseed.place"  # tag of a run: the workspace that it runs in


def workspace_id(workspace: Workspace) -> str:
    """The workspace's id, which stays the same under another host name, as in a restarted pod.

    It is kept in a file. The file's inode is part of it: a copy of a workspace has locks of its own,
    so it must be another workspace.
    """
    file = workspace.identity
    while not (lines := atomic.read_lines(file)):  # the first line counts where two processes write
        atomic.append_line(file, {"workspace": uuid.uuid4().hex})
    return f"{lines[0]['workspace']}:{file.stat().st_ino}"


@dataclass(frozen=True, slots=True)
class ClosedOrphans:
    """The ids of the runs that were ended and the logged models that were deleted."""

    runs: list[str]
    models: list[str]


def close_orphans(
    client: MlflowClient, *, experiment_id: str, workspace: Workspace, current: str
) -> ClosedOrphans:
    """End the retrains that a kill left RUNNING, with their child runs, and delete PENDING models.

    Runs end as KILLED. `current` is the run of the caller, which stays open; its child runs are
    reopened when they are logged again. Runs of other workspaces and of searches are left alone.
    Call it while holding the project's retrain lock: then no other retrain of this workspace runs,
    on any machine that shares its disk and the disk's locks.
    """
    here = workspace_id(workspace)

    def is_ours(run: Run) -> bool:
        parent = run.data.tags.get("mlflow.parentRunId")
        tags = client.get_run(parent).data.tags if parent else run.data.tags
        return tags.get(PLACE) == here and tags.get("reseed.kind") == "retrain"

    running = all_pages(
        lambda token: client.search_runs(
            [experiment_id], "attributes.status = 'RUNNING'", ViewType.ACTIVE_ONLY, page_token=token
        )
    )
    dead = [r.info.run_id for r in running if r.info.run_id != current and is_ours(r)]
    for run_id in dead:
        client.set_tag(run_id, "failure", "its process was killed")
        client.set_terminated(run_id, "KILLED")
    pending = [
        model.model_id
        for model in iter_logged_models(client, experiment_id)
        if str(model.status) == "PENDING"
        and model.source_run_id
        and is_ours(client.get_run(model.source_run_id))
    ]
    for model_id in pending:
        client.delete_logged_model(model_id)
    return ClosedOrphans(dead, pending)
