"""What MLflow's page of an experiment says: a description, and a saved view with the columns that compare retrains."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from flows.publishing.model_card import render
from tasks.project import Project

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "mlflow" / "experiment_page.md.j2"
VIEW = "reseed"
# in their order, with their widths in pixels
COLUMNS = {
    "tags.`verdict`": 100,
    "metrics.`test.f1_macro`": 115,
    "metrics.`verdict.gain`": 105,
    "metrics.`data.synthetic.rows`": 150,
    "metrics.`data.harvested.rows`": 150,
    "metrics.`data.seed.rows`": 120,
    "metrics.`cost.usd`": 90,
}
_FIRST = {"attributes.`Run Name`": 400}  # a name tells date, data and model
_MOST = 5000  # characters of a tag that every store of MLflow takes


def write(client: MlflowClient, experiment_id: str, project: Project) -> None:
    """The experiment's tags, where they say something else. What a person wrote as its description is written over."""
    told = client.get_experiment(experiment_id).tags
    about = {"project": project.name, "labels": project.labels, "multi_label": project.multi_label}
    tags = {
        MLFLOW_RUN_NOTE: render(about, TEMPLATE)[:_MOST],
        # MLflow guesses from what it finds, and would take the traces for an agent's
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": view("Retrains", COLUMNS),
    }
    for key, value in tags.items():
        if told.get(key) != value:
            client.set_experiment_tag(experiment_id, key, value)


def view(name: str, columns: dict[str, int]) -> str:
    """A saved view of MLflow's list of runs, as its UI keeps one: the state as deflated JSON in base64."""
    state: dict[str, Any] = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": [*_FIRST, *columns, "duration", "runDateAndNestInfo"],
        "columnWidths": _FIRST | columns,
        "groupBy": None,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state, sort_keys=True).encode())).decode()
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"})
