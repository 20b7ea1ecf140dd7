"""One logical MLflow run a retrain, with a child run a stage; both are found again when a retrain is resumed."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, ViewType
from mlflow.utils.mlflow_tags import (
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from flows.settings import Settings, current_user
from flows.tracking.cleanup import PLACE, workspace_id
from tasks.errors import TransientError
from tasks.progress import Points
from tasks.records import label_text, read_records
from tasks.stage import StageResult, Table

_METRIC_NAME = re.compile(r"[^\w/.\- ]")
TABLE_ROWS = 2000


def metric_name(*parts: str) -> str:
    """`split.metric[.slice]` with what MLflow forbids in a name replaced."""
    return _METRIC_NAME.sub("_", ".".join(parts))


def metrics_now(rows: Points, **about: str) -> list[Metric]:
    """The points as MLflow takes them, of this moment: what is logged twice with the same time is one."""
    now = int(time.time() * 1000)
    return [
        Metric(metric_name(name), float(value), now, step, **about) for step, name, value in rows
    ]


@dataclass
class Tracking:
    """The parent run of one retrain."""

    client: MlflowClient
    experiment_id: str
    run_id: str
    retrain_id: str

    @classmethod
    def open(
        cls,
        client: MlflowClient,
        settings: Settings,
        *,
        experiment: str,
        retrain_id: str,
        name: str,
        params: dict[str, str],
        kind: str = "retrain",
    ) -> Tracking:
        """The run of `retrain_id`, reopened where an earlier try made it."""
        experiment_id = _experiment(client, settings, experiment)
        run = _find(client, experiment_id, {"reseed.retrain": retrain_id})
        if run is None:
            tags = {"reseed.retrain": retrain_id, "reseed.project": experiment, "reseed.kind": kind}
            tags |= {
                MLFLOW_USER: current_user(),
                MLFLOW_SOURCE_NAME: f"reseed {kind}",
                MLFLOW_SOURCE_TYPE: "LOCAL",
            }
            run = client.create_run(experiment_id, run_name=name, tags=tags)
            from mlflow.entities import Param

            rows = [Param(k, v[:6000]) for k, v in params.items()]
            for start in range(0, len(rows), 100):
                client.log_batch(run.info.run_id, params=rows[start : start + 100])
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        client.set_tag(run.info.run_id, PLACE, workspace_id(settings.workspace))
        return cls(client, experiment_id, run.info.run_id, retrain_id)

    def close(self, status: str) -> None:
        """End the parent run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)

    @contextmanager
    def log_system_metrics(self) -> Iterator[None]:
        """The machine's CPU, memory, disk, network and GPU on the parent run while the body runs, as `system/...`."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            self.run_id, resume_logging=True, tracking_uri=self.client.tracking_uri
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def set_tags(self, **tags: str) -> None:
        for key, value in tags.items():
            self.client.set_tag(self.run_id, key, value[:5000])

    def rename(self, name: str) -> None:
        """Call the parent run `name`, which stands in the list of runs."""
        self.client.update_run(self.run_id, name=name)

    def set_description(self, markdown: str) -> None:
        """What the parent run's page says of it."""
        self.set_tags(**{MLFLOW_RUN_NOTE: markdown})

    def log_metrics(self, values: dict[str, float], run_id: str | None = None) -> None:
        self._metrics(run_id or self.run_id, [(0, k, v) for k, v in values.items()])

    def log_model_metrics(
        self, values: dict[str, float], *, model_id: str, dataset: tuple[str, str]
    ) -> None:
        """Scores of a logged model on a dataset (its name and digest), on the parent run and on the model's page.

        What stands there from this run already is not logged again.
        """
        there = {
            m.key: m.value
            for m in self.client.get_logged_model(model_id).metrics or []
            if m.run_id == self.run_id
        }
        new = [(0, k, v) for k, v in values.items() if there.get(metric_name(k)) != float(v)]
        self._metrics(
            self.run_id,
            new,
            model_id=model_id,
            dataset_name=dataset[0],
            dataset_digest=dataset[1][:36],
        )

    def _metrics(self, run_id: str, rows: Points, **about: str) -> None:
        self.log_points(run_id, metrics_now(rows, **about))

    def log_points(self, run_id: str, points: list[Metric]) -> None:
        for start in range(0, len(points), 1000):
            self.client.log_batch(run_id, metrics=points[start : start + 1000])

    def logged_points(self, run_id: str, names: set[str]) -> set[tuple[str, int]]:
        """(name, step) of the points that a run has: MLflow draws what is logged a second time twice."""
        return {
            (m.key, m.step) for name in names for m in self.client.get_metric_history(run_id, name)
        }

    def open_stage_run(self, name: str, key: str) -> Run:
        """The child run of a stage: that of an earlier try, which goes on if it is not FINISHED, or a new one."""
        tags = {"mlflow.parentRunId": self.run_id, "reseed.stage": name, "reseed.stage_key": key}
        run = _find(self.client, self.experiment_id, tags)
        if run is None:
            return self.client.create_run(self.experiment_id, run_name=name, tags=tags)
        if run.info.status in {"FAILED", "KILLED"}:
            self.client.update_run(run.info.run_id, status="RUNNING")
            if "failure" in run.data.tags:
                self.client.delete_tag(run.info.run_id, "failure")
        return run

    def log_stage(self, result: StageResult, *, name: str) -> str:
        """The id of the stage's child run, logged once: an interrupted logging is done again, a finished one is not."""
        run = self.open_stage_run(name, result.published.key)
        run_id = str(run.info.run_id)
        if run.info.status == "FINISHED":
            return run_id
        self.client.set_tag(run_id, "reseed.digest", result.digest)
        history = result.history()
        there = self.logged_points(run_id, {metric_name(n) for _, n, _ in history})
        self._metrics(run_id, [p for p in history if (metric_name(p[1]), p[0]) not in there])
        self.log_metrics({"seconds": result.published.seconds, **result.metrics()}, run_id)
        for key, value in result.params().items():
            self.client.log_param(run_id, key, value)
        for title, rows in result.tables().items():
            self._table(run_id, title, rows)
        for path in result.artifacts():
            self.client.log_artifact(run_id, str(path))
        if (dataset := result.dataset()) is not None:
            self._dataset(run_id, *dataset, result.digest)
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def stage_run_id(self, result: StageResult) -> str:
        """The id of the child run that log_stage wrote for the stage."""
        tags = {"mlflow.parentRunId": self.run_id, "reseed.stage_key": result.published.key}
        run = _find(self.client, self.experiment_id, tags)
        assert run is not None, result.published
        return str(run.info.run_id)

    def _table(self, run_id: str, title: str, rows: Table) -> None:
        import pandas as pd

        if rows:
            self.client.log_table(run_id, pd.DataFrame(rows[:TABLE_ROWS]), f"{title}.json")

    def _dataset(self, run_id: str, name: str, path: Path, digest: str) -> None:
        """A dataset under our own digest, which is over all rows (MLflow's is over the first 10,000)."""
        import mlflow.data
        import pandas as pd
        from mlflow.entities import DatasetInput, InputTag

        rows = [(r.text, label_text(r.label), r.source) for r in read_records(path)]
        frame = pd.DataFrame(
            rows, columns=["text", "label", "source"]
        )  # named, as there may be no row
        with warnings.catch_warnings():  # two of MLflow's own source classes claim a local path
            warnings.simplefilter("ignore", UserWarning)
            data = mlflow.data.from_pandas(
                frame, source=str(path), name=name, targets="label", digest=digest[:36]
            )
        entity = data._to_mlflow_entity()
        self.client.log_inputs(
            run_id, datasets=[DatasetInput(entity, [InputTag("mlflow.data.context", name)])]
        )

    def log_lineage(self, *, datasets: list[tuple[str, str, int]], model_id: str) -> None:
        """On the parent run: the datasets (name, digest and rows, no texts) and the model that came of them."""
        from mlflow.entities import LoggedModelOutput

        self.client.log_inputs(self.run_id, datasets=[dataset_input(*told) for told in datasets])
        outputs = self.client.get_run(self.run_id).outputs
        if model_id not in {
            m.model_id for m in (outputs.model_outputs if outputs else [])
        }:  # twice is an error
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model_id, 0)])


def dataset_input(name: str, digest: str, rows: int) -> Any:
    """A dataset as a run's input: name, digest and number of rows, no texts."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    about, profile = json.dumps({"digest": digest}), json.dumps({"num_rows": rows})
    return DatasetInput(
        Dataset(name, digest[:36], "reseed", about, profile=profile),
        [InputTag("mlflow.data.context", name)],
    )


def _experiment(client: MlflowClient, settings: Settings, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    location = str(settings.workspace.mlflow_artifacts / name) if settings.sqlite else None
    return str(client.create_experiment(name, artifact_location=location))


def _find(client: MlflowClient, experiment_id: str, tags: dict[str, str]) -> Run | None:
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    try:
        runs = client.search_runs([experiment_id], query, ViewType.ACTIVE_ONLY, max_results=1)
    except ConnectionError as e:
        raise TransientError(f"MLflow can't be reached: {e}") from None
    return runs[0] if runs else None
