"""A bundle as a logged model of MLflow, which its own servers can load too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from tasks import atomic
from tasks.labels import MULTI_LABEL

CLASSIFIER = Path(__file__).resolve().parent.parent.parent / "mlflow" / "classifier.py"
PAGE = 100  # logged models that are asked for at once


def iter_logged_models(client: MlflowClient, experiment_id: str) -> Iterator[LoggedModel]:
    """The logged models of an experiment, page after page."""
    token = None
    while True:
        page = client.search_logged_models([experiment_id], max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def find_or_log_model(
    client: MlflowClient, key: str, directory: Path, *, name: str, run_id: str, labels: list[str]
) -> str:
    """The id of a READY logged model of this key, called `name`; one that a kill left PENDING is passed over."""
    import mlflow

    experiment = client.get_run(run_id).info.experiment_id
    for model in iter_logged_models(client, experiment):
        if model.tags.get("reseed.promotion_key") == key and str(model.status) == "READY":
            return str(model.model_id)
    import pandas as pd
    import torch
    import transformers

    with mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name=name.replace(".", "-"),  # MLflow allows no full stop there
            python_model=str(CLASSIFIER),
            artifacts={"bundle": str(directory)},
            model_config={"bundle": atomic.read_json(directory / atomic.MANIFEST)["digest"]},
            signature=_signature(directory),
            input_example=pd.DataFrame({"text": ["The text to be classified."]}),
            pip_requirements=[
                f"mlflow=={mlflow.__version__}",
                f"torch=={torch.__version__.split('+')[0]}",
                f"transformers=={transformers.__version__}",
                "onnxruntime>=1.31",
                f"pandas=={pd.__version__}",
            ],
            metadata={"labels": labels},
            tags={"reseed.promotion_key": key},
        )
    return str(info.model_id)


def delete_model_files(place: str, *, within: Path) -> str | None:
    """Remove the files of a logged model; why they stay where they do. Local ones must lie below `within`."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if urlsplit(place).scheme in {"", "file"}:
        local = Path(place.removeprefix("file://"))
        if not local.is_absolute() or not local.is_relative_to(within):
            return f"they are not below {within}"
        shutil.rmtree(local, ignore_errors=True)
        return f"{local} can't be removed" if local.exists() else None
    try:
        get_artifact_repository(place).delete_artifacts()  # as `mlflow gc` does
    except Exception as e:  # every kind of store has exceptions of its own
        return f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
    return None


def _signature(directory: Path) -> Any:
    """`text` in; `label` and `score` out, or of a multi-label bundle `labels` and `scores` by label."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Map

    many = atomic.read_json(directory / "config.json").get("problem_type") == MULTI_LABEL
    out = (
        [ColSpec(Array(DataType.string), "labels"), ColSpec(Map(DataType.double), "scores")]
        if many
        else [ColSpec(DataType.string, "label"), ColSpec(DataType.double, "score")]
    )
    return ModelSignature(Schema([ColSpec(DataType.string, "text")]), Schema(out))
