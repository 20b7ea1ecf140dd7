"""A bundle as a logged model of MLflow, which MLflow's own servers can load too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from flows.tracking.store import all_pages
from tasks import atomic
from tasks.labels import MULTI_LABEL

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

CLASSIFIER = Path(__file__).resolve().parent.parent.parent / "mlflow" / "classifier.py"
PAGE = 100  # logged models in one request
PINNED = ("mlflow", "torch", "transformers", "pandas")


def iter_logged_models(client: MlflowClient, experiment_id: str) -> Iterator[LoggedModel]:
    """The logged models of an experiment."""
    return all_pages(
        lambda token: client.search_logged_models(
            [experiment_id], max_results=PAGE, page_token=token
        )
    )


def find_or_log_model(
    client: MlflowClient, key: str, directory: Path, *, name: str, run_id: str, labels: list[str]
) -> str:
    """The id of the READY logged model with this promotion key, which is logged where there is none.

    A model that a kill left PENDING is ignored: it cannot be loaded.
    """
    import mlflow
    import pandas as pd

    experiment = client.get_run(run_id).info.experiment_id
    for model in iter_logged_models(client, experiment):
        if model.tags.get("reseed.promotion_key") == key and str(model.status) == "READY":
            return str(model.model_id)
    pins = [f"{package}=={version(package).partition('+')[0]}" for package in PINNED]
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name=name.replace(".", "-"),  # MLflow allows no full stop there
            python_model=str(CLASSIFIER),
            artifacts={"bundle": str(directory)},
            model_config={"bundle": atomic.read_json(directory / atomic.MANIFEST)["digest"]},
            signature=_signature(directory),
            input_example=pd.DataFrame({"text": ["The text to be classified."]}),
            pip_requirements=[*pins, "onnxruntime>=1.31"],
            metadata={"labels": labels},
            tags={"reseed.promotion_key": key},
        )
    return str(info.model_id)


def delete_model_files(location: str, *, within: Path) -> str | None:
    """Delete the files of a logged model; the reason where they are kept.

    Local files are deleted only below `within`.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if urlsplit(location).scheme in {"", "file"}:
        local = Path(location.removeprefix("file://"))
        if not local.is_absolute() or not local.is_relative_to(within):
            return f"they are not below {within}"
        shutil.rmtree(local, ignore_errors=True)
        return f"{local} could not be deleted" if local.exists() else None
    try:
        get_artifact_repository(location).delete_artifacts()  # as `mlflow gc` does
    except Exception as e:  # each kind of store has exceptions of its own
        return f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
    return None


def _signature(directory: Path) -> ModelSignature:
    """`text` in; `label` and `score` out, or `labels` and `scores` of a multi-label bundle."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Map

    if atomic.read_json(directory / "config.json").get("problem_type") == MULTI_LABEL:
        answer = [
            ColSpec(Array(DataType.string), "labels"),
            ColSpec(Map(DataType.double), "scores"),
        ]
    else:
        answer = [ColSpec(DataType.string, "label"), ColSpec(DataType.double, "score")]
    return ModelSignature(Schema([ColSpec(DataType.string, "text")]), Schema(answer))
