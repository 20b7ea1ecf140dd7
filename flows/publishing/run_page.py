"""What MLflow's page of a retrain says: its name, its description, the columns that retrains are compared by, and pictures."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModelInput
from mlflow.exceptions import MlflowException

from flows.context import Retrain
from flows.publishing.model_card import render
from flows.registry.client import Version
from flows.tracking import stage_runs
from flows.tracking.run import dataset_input
from tasks.encoder.base_model import base_model
from tasks.project import Project
from tasks.records import count_by_source, read_records
from tasks.stage import Stage

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "mlflow" / "run_page.md.j2"


def first_name(project: Project, *, now: datetime) -> str:
    """The run's name until its rows are known."""
    return f"{now:%Y-%m-%d} {project.name} {len(project.labels)} labels"


def name(project: Project, *, began: datetime, rows: int, base: str) -> str:
    """`2026-11-21 bbc-news 5 labels, 1489 rows, all-MiniLM-L6-v2`: when, which data, which model."""
    return f"{began:%Y-%m-%d} {project.name} {len(project.labels)} labels, {rows} rows, {base}"


def rows_by_source(rows: Stage) -> dict[str, int]:
    """How many rows of each source are trained on."""
    return count_by_source(read_records(rows.directory / "kept.jsonl"))


def named(r: Retrain, rows: Stage) -> int:
    """How many rows are trained on; the run is called by that and by its base model from here on."""
    base = base_model(r.project.train.model, beside=r.beside, cache=r.home / "cache").name
    began = datetime.fromtimestamp(r.log.client.get_run(r.log.run_id).info.start_time / 1000, UTC)
    trained_on = sum(rows_by_source(rows).values())
    r.log.name(name(r.project, began=began, rows=trained_on, base=base))
    return trained_on


def scored(
    r: Retrain, version: Version, *, rows: Stage, trained: Stage, challenger: Stage, curve: Stage | None = None
) -> None:
    """The challenger's scores, with the model and the data that they are about, and the pictures: before anybody is asked."""
    trained_on = named(r, rows)
    splits, sealed, log = r.prepared.splits, r.prepared.sealed, r.log
    test, dev = ("test", sealed.digest), ("dev", splits.digest)
    sizes = splits.counts.get("rows") or {"dev": sum(splits.counts["dev"].values())}
    training = ("training", rows.digest, trained_on)
    log.used(datasets=[training, (*dev, sizes["dev"]), (*test, challenger.counts["rows"])], model_id=version.model_id)
    log.model_metrics(stage_runs.test_metrics(challenger), model_id=version.model_id, dataset=test)
    log.model_metrics({"dev.f1_macro": trained.counts["dev_f1_macro"]}, model_id=version.model_id, dataset=dev)
    for stage in [challenger, trained, *([curve] if curve else [])]:
        for picture in stage_runs.pictures(stage):
            log.client.log_artifact(log.run_id, str(picture))


def champion_scored(r: Retrain, champion: Version, score: Stage) -> None:
    """The champion's scores with its own model and the same test rows, on the run that scored it: the retrain's own run has the
    challenger's under the same names."""
    log = replace(r.log, run_id=stage_runs.scored(r.log, f"champion {champion.version}", score))
    test = ("test", r.prepared.sealed.digest)
    try:
        if champion.model_id:  # a version that was registered before versions told has none
            log.model_metrics(stage_runs.test_metrics(score), model_id=champion.model_id, dataset=test)
            data, model = dataset_input(*test, score.counts["rows"]), LoggedModelInput(champion.model_id)
            log.client.log_inputs(log.run_id, datasets=[data], models=[model])
    except MlflowException as e:
        if e.error_code != "RESOURCE_DOES_NOT_EXIST":  # somebody deleted the logged model: the registry's files stay
            raise


def stands(r: Retrain, version: Version, champion: dict[str, Any] | None, *, promoted: bool) -> bool:
    """Whether the run tells its verdict already, and this is only the champion met again: what it says stays."""
    itself = champion is not None and champion["version"] == version.version and not promoted
    return itself and "verdict" in r.log.client.get_run(r.log.run_id).data.tags


def write(r: Retrain, report: dict[str, Any], *, rows: Stage) -> None:
    """The columns that runs are compared by, and the description."""
    by_source, data = rows_by_source(rows), report["data"]
    columns = {f"data.{source}.rows": float(by_source.get(source, 0)) for source in ("synthetic", "harvested", "seed")}
    columns |= {f"data.{source}.rows": float(n) for source, n in by_source.items()}
    columns |= {"data.training.rows": float(sum(by_source.values()))}
    columns |= {f"data.{k}.rows": float(data[k]["total"]) for k in ("requested", "accepted", "rejected")}
    columns |= {f"tokens.{k}": float(v) for k, v in report["tokens"].items()}
    r.log.metrics(columns | {"cost.usd": report["cost"]["usd"]})
    names = {"seed": "real", "reviewed": "reviewed by a person"}
    r.log.describe(
        render(
            report
            | {
                "rows": {names.get(source, source): n for source, n in by_source.items()},
                "generators": sorted(data["generators"]) or ["no LLM"],
            },
            TEMPLATE,
        )
    )
