"""MLflow's page of an experiment: a description, and a saved view with the columns that compare retrains."""

from __future__ import annotations

import base64
import json
import zlib

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from flows.publishing.markdown import render_markdown
from tasks.project import Project

VIEW = "reseed"
RUN_NAME_WIDTH = 400  # pixels: a run's name holds date, data and model
# in display order, with their widths in pixels
COLUMNS = {
    "tags.`verdict`": 100,
    "metrics.`test.f1_macro`": 115,
    "metrics.`verdict.gain`": 105,
    "metrics.`data.synthetic.rows`": 150,
    "metrics.`data.harvested.rows`": 150,
    "metrics.`data.seed.rows`": 120,
    "metrics.`cost.usd`": 90,
}
TAG_LENGTH = 5000  # characters of a tag that every MLflow store accepts


def publish_experiment_page(client: MlflowClient, experiment_id: str, project: Project) -> None:
    """Set the experiment's description and saved view. A description that a person wrote is replaced."""
    current = client.get_experiment(experiment_id).tags
    context = {
        "project": project.name,
        "labels": project.labels,
        "multi_label": project.multi_label,
    }
    tags = {
        MLFLOW_RUN_NOTE: render_markdown("experiment_page.md.j2", context)[:TAG_LENGTH],
        # MLflow would guess from the traces that this is an agent
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": saved_view("Retrains", COLUMNS),
    }
    for key, value in tags.items():
        if current.get(key) != value:
            client.set_experiment_tag(experiment_id, key, value)


def saved_view(name: str, columns: dict[str, int]) -> str:
    """A saved view of MLflow's list of runs, in the UI's own format: deflated JSON in base64."""
    first = {"attributes.`Run Name`": RUN_NAME_WIDTH}
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": [*first, *columns, "duration", "runDateAndNestInfo"],
        "columnWidths": first | columns,
        "groupBy": None,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state, sort_keys=True).encode())).decode()
    view = {"name": name, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"}
    return json.dumps(view)
