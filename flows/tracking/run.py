"""One MLflow run per retrain, with a child run per stage; a resumed retrain reopens both."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, ViewType
from mlflow.utils.mlflow_tags import (
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from flows.settings import Settings, current_user
from flows.tracking.cleanup import PLACE, workspace_id
from tasks.progress import Points
from tasks.records import label_text, read_records
from tasks.stage import StageResult, Table

_FORBIDDEN = re.compile(r"[^\w/.\- ]")
TABLE_ROWS = 2000


def metric_name(*parts: str) -> str:
    """`split.metric[.slice]`, with the characters that MLflow forbids replaced."""
    return _FORBIDDEN.sub("_", ".".join(parts))


def metrics_now(points: Points, **details: str) -> list[Metric]:
    """The points as MLflow's metrics, all with the current time."""
    now = int(time.time() * 1000)
    return [
        Metric(metric_name(name), float(value), now, step, **details)
        for step, name, value in points
    ]


@dataclass(frozen=True)
class Tracking:
    """The MLflow run of one retrain, the parent run of its stages."""

    client: MlflowClient
    experiment_id: str
    run_id: str

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
        """The run of `retrain_id`: a new one, or the one that an earlier try made, reopened."""
        experiment_id = _open_experiment(client, settings, experiment)
        run = _find_run(client, experiment_id, {"reseed.retrain": retrain_id})
        if run is None:
            tags = {
                "reseed.retrain": retrain_id,
                "reseed.project": experiment,
                "reseed.kind": kind,
                MLFLOW_USER: current_user(),
                MLFLOW_SOURCE_NAME: f"reseed {kind}",
                MLFLOW_SOURCE_TYPE: "LOCAL",
            }
            run = client.create_run(experiment_id, run_name=name, tags=tags)
            rows = [Param(k, v[:6000]) for k, v in params.items()]
            for start in range(0, len(rows), 100):  # as many as MLflow accepts at once
                client.log_batch(run.info.run_id, params=rows[start : start + 100])
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        client.set_tag(run.info.run_id, PLACE, workspace_id(settings.workspace))
        return cls(client, experiment_id, run.info.run_id)

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)

    @contextmanager
    def log_system_metrics(self) -> Iterator[None]:
        """Log the machine's CPU, memory, disk, network and GPU as `system/...` during the body."""
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
        """Set tags of the run."""
        for key, value in tags.items():
            self.client.set_tag(self.run_id, key, value[:5000])

    def rename(self, name: str) -> None:
        """Set the run's name in the list of runs."""
        self.client.update_run(self.run_id, name=name)

    def set_description(self, markdown: str) -> None:
        """Set the description on the run's page."""
        self.set_tags(**{MLFLOW_RUN_NOTE: markdown})

    def log_metrics(self, values: dict[str, float], run_id: str | None = None) -> None:
        """Log metrics at step 0, on the retrain's run or on another one."""
        self.log_points(run_id or self.run_id, metrics_now([(0, k, v) for k, v in values.items()]))

    def log_model_metrics(
        self, values: dict[str, float], *, model_id: str, dataset: tuple[str, str]
    ) -> None:
        """Log scores of a logged model on a dataset (its name and digest), on this run and on the
        model's page; what this run logged before is left out."""
        logged = {
            m.key: m.value
            for m in self.client.get_logged_model(model_id).metrics or []
            if m.run_id == self.run_id
        }
        points = metrics_now(
            [(0, k, v) for k, v in values.items() if logged.get(metric_name(k)) != float(v)],
            model_id=model_id,
            dataset_name=dataset[0],
            dataset_digest=dataset[1][:36],
        )
        self.log_points(self.run_id, points)

    def log_points(self, run_id: str, points: list[Metric]) -> None:
        """Log metrics on a run, in batches of the size that MLflow accepts."""
        for start in range(0, len(points), 1000):
            self.client.log_batch(run_id, metrics=points[start : start + 1000])

    def logged_points(self, run_id: str, names: set[str]) -> set[tuple[str, int]]:
        """(name, step) of a run's points; MLflow draws a point twice that is logged twice."""
        return {
            (m.key, m.step) for name in names for m in self.client.get_metric_history(run_id, name)
        }

    def open_stage_run(self, name: str, key: str) -> Run:
        """The child run of a stage: a new one, or the one of an earlier try, reopened unless it is
        FINISHED."""
        tags = {"mlflow.parentRunId": self.run_id, "reseed.stage": name, "reseed.stage_key": key}
        run = _find_run(self.client, self.experiment_id, tags)
        if run is None:
            return self.client.create_run(self.experiment_id, run_name=name, tags=tags)
        if run.info.status in {"FAILED", "KILLED"}:
            self.client.update_run(run.info.run_id, status="RUNNING")
            if "failure" in run.data.tags:
                self.client.delete_tag(run.info.run_id, "failure")
        return run

    def log_stage(self, result: StageResult, *, name: str) -> None:
        """Log a stage on its child run; nothing where that is FINISHED."""
        run = self.open_stage_run(name, result.published.key)
        run_id = str(run.info.run_id)
        if run.info.status == "FINISHED":
            return
        self.client.set_tag(run_id, "reseed.digest", result.digest)
        history = result.history()
        logged = self.logged_points(run_id, {metric_name(n) for _, n, _ in history})
        new = [p for p in history if (metric_name(p[1]), p[0]) not in logged]
        self.log_points(run_id, metrics_now(new))
        self.log_metrics({"seconds": result.published.seconds, **result.metrics()}, run_id)
        for key, value in result.params().items():
            self.client.log_param(run_id, key, value)
        for title, rows in result.tables().items():
            self._log_table(run_id, title, rows)
        for path in result.artifacts():
            self.client.log_artifact(run_id, str(path))
        if (dataset := result.dataset()) is not None:
            self._log_dataset(run_id, *dataset, result.digest)
        self.client.set_terminated(run_id, "FINISHED")

    def stage_run_id(self, result: StageResult) -> str:
        """The id of the child run that log_stage wrote for the stage."""
        tags = {"mlflow.parentRunId": self.run_id, "reseed.stage_key": result.published.key}
        run = _find_run(self.client, self.experiment_id, tags)
        assert run is not None, result.published
        return str(run.info.run_id)

    def _log_table(self, run_id: str, title: str, rows: Table) -> None:
        import pandas as pd

        if rows:
            self.client.log_table(run_id, pd.DataFrame(rows[:TABLE_ROWS]), f"{title}.json")

    def _log_dataset(self, run_id: str, name: str, path: Path, digest: str) -> None:
        """Log the rows in `path` as a dataset with our digest of all rows: MLflow's own is of the
        first 10,000."""
        import mlflow.data
        import pandas as pd

        rows = [(r.text, label_text(r.label), r.source) for r in read_records(path)]
        frame = pd.DataFrame(rows, columns=["text", "label", "source"])  # rows may be empty
        with warnings.catch_warnings():  # two of MLflow's source classes match a local path
            warnings.simplefilter("ignore", UserWarning)
            data = mlflow.data.from_pandas(
                frame, source=str(path), name=name, targets="label", digest=digest[:36]
            )
        inputs = DatasetInput(data._to_mlflow_entity(), [InputTag("mlflow.data.context", name)])
        self.client.log_inputs(run_id, datasets=[inputs])

    def log_lineage(self, *, datasets: list[tuple[str, str, int]], model_id: str) -> None:
        """Log the datasets (name, digest and number of rows) that the retrain read, and its model."""
        from mlflow.entities import LoggedModelOutput

        self.client.log_inputs(self.run_id, datasets=[dataset_input(*d) for d in datasets])
        outputs = self.client.get_run(self.run_id).outputs
        logged = {m.model_id for m in outputs.model_outputs} if outputs else set()
        if model_id not in logged:  # MLflow refuses it a second time
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model_id, 0)])


def dataset_input(name: str, digest: str, rows: int) -> DatasetInput:
    """A dataset as a run's input: name, digest and number of rows, without texts."""
    source, profile = json.dumps({"digest": digest}), json.dumps({"num_rows": rows})
    return DatasetInput(
        Dataset(name, digest[:36], "reseed", source, profile=profile),
        [InputTag("mlflow.data.context", name)],
    )


def _open_experiment(client: MlflowClient, settings: Settings, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = str(settings.workspace.mlflow_artifacts / name) if settings.sqlite else None
        return str(client.create_experiment(name, artifact_location=location))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def _find_run(client: MlflowClient, experiment_id: str, tags: dict[str, str]) -> Run | None:
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    runs = client.search_runs([experiment_id], query, ViewType.ACTIVE_ONLY, max_results=1)
    return runs[0] if runs else None
