"""The train stage: from curated rows to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import resolve_encoder
from tasks.model.bundle import BundleResult, save_bundle
from tasks.progress import Points, Progress, silent
from tasks.project import Project, Train
from tasks.references import digest_of_path
from tasks.stage import Metrics, run_stage
from tasks.train.adaptation.adapt import AdaptResult
from tasks.train.curves import draw_curves, read_history
from tasks.train.data import RecordFile
from tasks.train.fine_tune import fine_tune
from tasks.workspace import Workspace

VERSION = 5


Calibrated = dict[
    str, float | dict[str, float]
]  # `temperature` and `shift`: one value, or one per label


def calibration_metrics(calibration: Calibrated) -> Metrics:
    """The calibration under `train.`, for MLflow."""
    metrics: Metrics = {}
    for key, value in calibration.items():
        if isinstance(value, dict):
            metrics |= {f"train.{key}.{label}": v for label, v in value.items()}
        else:
            metrics[f"train.{key}"] = value
    return metrics


class TrainResult(BundleResult):
    """A fine-tuned model: its rows, optimiser steps, macro-F1 on dev, calibration and precision.

    `rows_at_once` and `accumulation` are the batch that fitted into memory; `notes` says what the
    training fell back to.
    """

    rows: int
    steps: int
    resumed_from: int
    dev_f1_macro: float
    calibration: Calibrated
    precision: str
    rows_at_once: int
    accumulation: int
    notes: list[str]

    def metrics(self) -> Metrics:
        return {
            "dev.f1_macro": self.dev_f1_macro,
            "train.steps": float(self.steps),
            "train.rows_at_once": float(self.rows_at_once),
            "train.fallbacks": float(len(self.notes)),
            **calibration_metrics(self.calibration),
        }

    def history(self) -> Points:
        return read_history(self.directory)

    def artifacts(self) -> list[Path]:
        return sorted(self.directory.glob("*.png"))


def write_bundle(
    out: Path,
    work: Path,
    *,
    labels: dict[str, str],
    settings: Train,
    encoder: Path,
    train: Path,
    dev: Path,
    about: dict[str, Any],
    progress: Progress,
    on_points: Callable[[Points], None] | None = None,
    multi_label: bool = False,
) -> TrainResult:
    """Fine-tune on the records in `train`; write `out/bundle`, `out/history.json` and, where matplotlib is installed, `out/curves.png`."""
    rows = RecordFile(train)
    trained = fine_tune(
        rows,
        RecordFile(dev),
        labels=list(labels),
        settings=settings,
        encoder=encoder,
        work=work,
        progress=progress,
        on_points=on_points,
        multi_label=multi_label,
    )
    calibration = trained.calibration.to_json(list(labels))
    about = {
        **about,
        "labels": labels,
        "max_length": settings.max_length,
        "dev": {"f1_macro": trained.dev_f1_macro},
        **calibration,
        "precision": trained.precision,
        "notes": list(trained.attempt.notes),
    }
    digest = save_bundle(trained.model, trained.tokenizer, out / "bundle", about=about)
    atomic.write_json(out / "history.json", trained.history)
    draw_curves(trained.history, out / "curves.png")
    return TrainResult(
        rows=len(rows),
        steps=trained.steps,
        resumed_from=trained.resumed_from,
        dev_f1_macro=trained.dev_f1_macro,
        calibration=calibration,
        precision=trained.precision,
        rows_at_once=trained.attempt.batch_size,
        accumulation=trained.attempt.accumulation,
        notes=list(trained.attempt.notes),
        bundle=digest,
    )


def train(
    project: Project,
    *,
    curated: TrainingRows,
    splits: SplitsResult,
    generation: int,
    number: int = 0,
    adapted: AdaptResult | None = None,
    workspace: Workspace,
    progress: Progress = silent,
    on_points: Callable[[str, Points], None] | None = None,
) -> TrainResult:
    """The fine-tuned model: `bundle/` (see tasks/model/bundle.py), `history.json` and `curves.png`.

    A killed training goes on from its last whole checkpoint. `number` picks one of `train.seeds`;
    the encoder of `adapted` is used in place of `train.model`. `on_points` is called with the stage's
    key and the points of the curves as they come; for a stage that is found, never.
    """
    encoder = adapted.encoder if adapted else resolve_encoder(project, workspace)
    settings = project.train.model_copy(
        update={"seeds": (project.train.seeds[number] + 1000 * generation,)}
    )
    inputs = {
        "curated": curated.digest,
        "splits": splits.digest,
        "encoder": digest_of_path(encoder),
    }
    about = {"project": project.name, "base_model": project.train.model, "data": inputs}

    def build(out: Path, scratch: Path) -> TrainResult:
        return write_bundle(
            out,
            scratch,
            labels=project.labels,
            settings=settings,
            encoder=encoder,
            train=curated.rows_file,
            dev=splits.directory / "dev.jsonl",
            about=about,
            progress=progress,
            on_points=partial(on_points, scratch.name)
            if on_points
            else None,  # the key names the directory
            multi_label=project.multi_label,
        )

    params = settings.model_dump(mode="json", exclude={"model"})
    params |= {"labels": project.labels, "multi_label": project.multi_label}
    return run_stage(
        TrainResult,
        "train",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )
