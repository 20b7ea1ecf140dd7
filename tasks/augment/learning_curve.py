"""How macro-F1 on dev grows with the number of training rows."""

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
MIN_ROWS = 40  # with fewer rows a part of them says nothing


class LearningCurveResult(StageResult):
    """The points of the curve, fewest rows first; none with too few rows or without dev rows."""

    points: list[CurvePoint]
    dev_rows: int

    def history(self) -> Points:
        """The curve, by the number of rows."""
        return [(p.rows, "dev.f1_macro.by_rows", p.value) for p in self.points]

    def artifacts(self) -> list[Path]:
        """The curve as JSON, and as a picture where it has points."""
        return sorted(self.directory.glob("curve.*"))


def learning_curve(
    project: Project, *, training: TrainingRows, splits: SplitsResult, workspace: Workspace
) -> LearningCurveResult:
    """`curve.json` and `curve.png`: macro-F1 on dev by the number of training rows.

    It is that of a linear head on frozen embeddings, fitted on an eighth, a quarter, a half and all
    of the rows: quick, but not the curve of the fine-tuned model. The test set is not used.
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
    """`len(rows) // part` of the rows for each part, each a subset of the next.

    Each label, or label set, keeps its share; within it the content hash decides.
    """
    by_label: dict[str, list[Record]] = {}
    for r in sorted(rows, key=lambda r: r.id):
        by_label.setdefault(label_text(r.label), []).append(r)
    positions = {
        r.id: ((i + 0.5) / len(same), label, r.id)
        for label, same in by_label.items()
        for i, r in enumerate(same)
    }
    ordered = sorted(rows, key=lambda r: positions[r.id])
    return [ordered[: len(rows) // part] for part in parts]


def _points(
    project: Project, encoder: Path, rows: list[Record], dev: list[Record]
) -> list[CurvePoint]:
    """One point per part of the rows that has every label."""
    import numpy as np

    from tasks.encoder.embed import embed
    from tasks.encoder.linear_probe import fit_probe, predict_labels
    from tasks.statistics.bootstrap import Bootstrap
    from tasks.statistics.metrics import f1_macro

    length, names, evaluate = project.train.max_length, project.label_names, project.evaluate
    vectors = embed(encoder, [r.text for r in rows], max_length=length)
    x = dict(zip((r.id for r in rows), vectors, strict=True))
    x_dev = embed(encoder, [r.text for r in dev], max_length=length)
    y = encode([label_of(r) for r in dev], names)
    bootstrap = Bootstrap(evaluate.bootstrap_samples, evaluate.seed)
    points = []
    for part in nested_subsets(rows):
        if set(names) - {label for r in part for label in r.labels}:
            continue
        probe = fit_probe(np.stack([x[r.id] for r in part]), [label_of(r) for r in part])
        predicted = encode(predict_labels(probe, x_dev), names)
        f1 = f1_macro(y, predicted, list(range(len(names))))
        samples = bootstrap.macro_f1(y, [predicted], classes=len(names))
        interval = bootstrap.interval(f1, samples[:, 0])
        points.append(CurvePoint(rows=len(part), **interval.model_dump()))
    return points
