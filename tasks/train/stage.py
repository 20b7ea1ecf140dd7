"""The train stage: from curated rows to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.model import bundle
from tasks.progress import Points, Report, silent
from tasks.project import Project, Train
from tasks.references import digest_of_path, resolve
from tasks.stage import Stage, stage
from tasks.train.curves import draw
from tasks.train.data import RecordFile
from tasks.train.fine_tune import fine_tune

VERSION = 5


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
    report: Report,
    on_points: Callable[[Points], None] | None = None,
    multi_label: bool = False,
) -> dict[str, Any]:
    """Fine-tune on the records in `train`, write `out/bundle`, `out/history.json` and `out/curves.png` (where matplotlib is), and
    return the counts."""
    rows = RecordFile(train)
    trained = fine_tune(
        rows,
        RecordFile(dev),
        labels=list(labels),
        settings=settings,
        encoder=encoder,
        work=work,
        report=report,
        on_points=on_points,
        multi_label=multi_label,
    )
    calibration = trained.calibration.told(list(labels))
    about = {
        **about,
        "labels": labels,
        "max_length": settings.max_length,
        "dev": {"f1_macro": trained.dev_f1_macro},
        **calibration,
        "precision": trained.precision,
        "notes": list(trained.attempt.notes),
    }
    digest = bundle.save(trained.model, trained.tokenizer, out / "bundle", about=about)
    atomic.write_json(out / "history.json", trained.history)
    draw(trained.history, out / "curves.png")
    return {
        "rows": len(rows),
        "steps": trained.steps,
        "resumed_from": trained.resumed_from,
        "dev_f1_macro": trained.dev_f1_macro,
        **calibration,
        "precision": trained.precision,
        "rows_at_once": trained.attempt.batch_size,
        "accumulation": trained.attempt.accumulation,
        "notes": list(trained.attempt.notes),
        "bundle": digest,
    }


def train(
    project: Project,
    *,
    curated: Stage,
    splits: Stage,
    generation: int,
    number: int = 0,
    adapted: Stage | None = None,
    beside: Path,
    home: Path,
    report: Report = silent,
    on_points: Callable[[str, Points], None] | None = None,
) -> Stage:
    """The challenger: `bundle/` (see tasks/model/bundle.py), `history.json` and `curves.png`. A killed training goes on from
    its last whole checkpoint. `number` picks one of `train.seeds`; `adapted` is the adapt stage whose encoder stands in
    for `train.model`. `on_points` is told the stage's key, and the points of the curves as they come; of a stage that is
    found, nothing."""
    own = adapted.directory / "encoder" if adapted else None
    encoder = own or resolve(project.train.model, beside=beside, cache=home / "cache", kind="model")
    settings = project.train.model_copy(update={"seeds": (project.train.seeds[number] + 1000 * generation,)})
    inputs = {"curated": curated.digest, "splits": splits.digest, "encoder": digest_of_path(encoder)}
    about = {"project": project.name, "base_model": project.train.model, "data": inputs}

    def build(out: Path, work: Path) -> dict[str, Any]:
        return write_bundle(
            out,
            work,
            labels=project.labels,
            settings=settings,
            encoder=encoder,
            train=curated.directory / "kept.jsonl",
            dev=splits.directory / "dev.jsonl",
            about=about,
            report=report,
            on_points=partial(on_points, work.name) if on_points else None,  # the key names the scratch directory
            multi_label=project.multi_label,
        )

    params = settings.model_dump(mode="json", exclude={"model"}) | {"labels": project.labels}
    params |= {"multi_label": True} if project.multi_label else {}
    return stage(home, "train", version=VERSION, params=params, inputs=inputs, build=build)
