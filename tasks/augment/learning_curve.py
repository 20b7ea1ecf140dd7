"""How dev F1 grows with the training rows: what more rows would be worth."""

from __future__ import annotations

from pathlib import Path

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import resolve_encoder
from tasks.labels import encode, label_of
from tasks.progress import Points
from tasks.project import Project
from tasks.records import Record, label_text, read_records
from tasks.references import digest_of_path
from tasks.stage import StageResult, run_stage
from tasks.statistics.scores import CurvePoint
from tasks.workspace import Workspace

VERSION = 1
PARTS = (8, 4, 2, 1)  # of the rows
MIN_ROWS = 40  # rows, below which a quarter of them says nothing


class LearningCurveResult(StageResult):
    """The points of the curve, fewest rows first; none where there are too few rows, or no dev."""

    points: list[CurvePoint]
    dev_rows: int

    def history(self) -> Points:
        return [(p.rows, "dev.f1_macro.by_rows", p.value) for p in self.points]

    def artifacts(self) -> list[Path]:
        return sorted(self.directory.glob("curve.*"))


def learning_curve(
    project: Project, *, training: TrainingRows, splits: SplitsResult, workspace: Workspace
) -> LearningCurveResult:
    """`curve.json` and `curve.png`: macro-F1 on dev, with its 95% interval, of a linear head on frozen embeddings fitted on an
    eighth, a quarter, a half and all of the training rows. Counts `points`, empty where there are fewer than 40 rows or no dev.

    The sealed test set is not opened for it. It is quick, and not the fine-tuned model's own curve.
    """
    encoder = resolve_encoder(project, workspace)
    length = project.train.max_length

    def build(out: Path, scratch: Path) -> LearningCurveResult:
        rows = training.read()
        dev = read_records(splits.directory / "dev.jsonl")
        points = _points(project, encoder, rows, dev) if len(rows) >= MIN_ROWS and dev else []
        atomic.write_json(out / "curve.json", [p.model_dump() for p in points])
        if points:
            from tasks.evaluate import plots

            plots.plot_learning_curve(
                points, f"{project.name}: linear heads on frozen embeddings", out / "curve.png"
            )
        return LearningCurveResult(points=points, dev_rows=len(dev))

    inputs = {
        "training": training.digest,
        "splits": splits.digest,
        "encoder": digest_of_path(encoder),
    }
    params = {"labels": project.label_names, "max_length": length}
    params |= {"bootstrap": project.evaluate.bootstrap_samples, "seed": project.evaluate.seed}
    return run_stage(
        LearningCurveResult,
        "learning_curve",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def nested_subsets(rows: list[Record], parts: tuple[int, ...] = PARTS) -> list[list[Record]]:
    """The first `len(rows) // part` of the rows for each part, so that each holds the one before; each label (or label set)
    keeps its share, and within it the content hash decides."""
    groups: dict[str, list[Record]] = {}
    for r in sorted(rows, key=lambda r: r.id):
        groups.setdefault(label_text(r.label), []).append(r)
    order = sorted(
        (
            ((i + 0.5) / len(own), label, r.id, r)
            for label, own in groups.items()
            for i, r in enumerate(own)
        ),
        key=lambda item: item[:3],
    )
    return [[item[-1] for item in order[: len(rows) // part]] for part in parts]


def _points(
    project: Project, encoder: Path, rows: list[Record], dev: list[Record]
) -> list[CurvePoint]:
    """{rows, value, ci_low, ci_high} by the number of rows; a part that lacks a label is left out."""
    import numpy as np

    from tasks.encoder.embed import embed
    from tasks.encoder.linear_probe import fit_probe, predict_labels
    from tasks.statistics.bootstrap import Bootstrap
    from tasks.statistics.metrics import f1_macro

    length, names, e = project.train.max_length, project.label_names, project.evaluate
    x = dict(
        zip(
            (r.id for r in rows),
            embed(encoder, [r.text for r in rows], max_length=length),
            strict=True,
        )
    )
    asked = embed(encoder, [r.text for r in dev], max_length=length)
    y = encode([label_of(r) for r in dev], names)
    points, bootstrap = [], Bootstrap(e.bootstrap_samples, e.seed)
    for part in nested_subsets(rows):
        if set(names) - {label for r in part for label in r.labels}:
            continue
        probe = fit_probe(np.stack([x[r.id] for r in part]), [label_of(r) for r in part])
        z = encode(predict_labels(probe, asked), names)
        point = f1_macro(y, z, list(range(len(names))))
        drawn = bootstrap.macro_f1(y, [z], classes=len(names))
        points.append(
            CurvePoint(rows=len(part), **bootstrap.interval(point, drawn[:, 0]).model_dump())
        )
    return points
