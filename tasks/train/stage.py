"""The train stage: from training rows to a bundle."""

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
from tasks.project import Project
from tasks.references import digest_of_path
from tasks.stage import Metrics, run_stage
from tasks.train.adaptation.adapt import AdaptResult
from tasks.train.curves import draw_curves, read_history
from tasks.train.task import Listeners, RecordFile, TrainingTask
from tasks.workspace import Workspace

VERSION = 5

# `temperature` and `shift`: one value, or one per label
CalibrationValues = dict[str, float | dict[str, float]]


def calibration_metrics(calibration: CalibrationValues) -> Metrics:
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

    `rows_at_once` and `accumulation` are the batch that fitted into memory; `notes` lists the
    fallbacks of the training.
    """

    rows: int
    steps: int
    resumed_from: int
    dev_f1_macro: float
    calibration: CalibrationValues
    precision: str
    rows_at_once: int
    accumulation: int
    notes: list[str]

    def metrics(self) -> Metrics:
        """Dev F1, steps, the batch, fallbacks and calibration."""
        return {
            "dev.f1_macro": self.dev_f1_macro,
            "train.steps": float(self.steps),
            "train.rows_at_once": float(self.rows_at_once),
            "train.fallbacks": float(len(self.notes)),
            **calibration_metrics(self.calibration),
        }

    def history(self) -> Points:
        """The curves of the training."""
        return read_history(self.directory)

    def artifacts(self) -> list[Path]:
        """The picture of the curves."""
        return sorted(self.directory.glob("*.png"))


def write_bundle(
    task: TrainingTask,
    out: Path,
    *,
    work: Path,
    about: dict[str, Any],
    listeners: Listeners | None = None,
) -> TrainResult:
    """Fine-tune; write `out/bundle`, `out/history.json` and, with matplotlib, `out/curves.png`.

    `about` goes into the bundle's `reseed.json`. Raises what `fine_tune` raises.
    """
    from tasks.train.fine_tune import fine_tune

    trained = fine_tune(task, work=work, listeners=listeners)
    calibration, attempt = trained.calibration.to_json(task.label_names), trained.attempt
    about = {
        **about,
        "labels": task.labels,
        "max_length": task.settings.max_length,
        "dev": {"f1_macro": trained.dev_f1_macro},
        **calibration,
        "precision": attempt.precision,
        "notes": list(attempt.notes),
    }
    digest = save_bundle(trained.model, trained.tokenizer, out / "bundle", about=about)
    atomic.write_json(out / "history.json", trained.history)
    draw_curves(trained.history, out / "curves.png")
    return TrainResult(
        rows=len(task.train),
        steps=trained.steps,
        resumed_from=trained.resumed_from,
        dev_f1_macro=trained.dev_f1_macro,
        calibration=calibration,
        precision=attempt.precision,
        rows_at_once=attempt.batch_size,
        accumulation=attempt.accumulation,
        notes=list(attempt.notes),
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

    A killed training resumes from its last complete checkpoint. `number` selects one of `train.seeds`;
    the encoder of `adapted` replaces `train.model`. `on_points` is called with the stage's key and the
    points of the curves as they come; never for a stage that is found.
    """
    encoder = adapted.encoder if adapted else resolve_encoder(project, workspace)
    seed = project.train.seeds[number] + 1000 * generation
    settings = project.train.model_copy(update={"seeds": (seed,)})
    digests = {"curated": curated.digest, "splits": splits.digest}
    inputs = {**digests, "encoder": digest_of_path(encoder)}
    about = {"project": project.name, "base_model": project.train.model, "data": inputs}

    def build(out: Path, scratch: Path) -> TrainResult:
        rows, dev = RecordFile(curated.rows_file), RecordFile(splits.directory / "dev.jsonl")
        seeded = project.model_copy(update={"train": settings})
        task = TrainingTask.of(seeded, encoder, rows, dev)
        # the stage's key names its scratch directory
        listeners = Listeners(progress, on_points=on_points and partial(on_points, scratch.name))
        return write_bundle(task, out, work=scratch, about=about, listeners=listeners)

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
