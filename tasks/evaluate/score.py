"""The evaluate stage: one directory per model, with its answers to the sealed test rows and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks import atomic
from tasks.dataset.sealed import open_sealed
from tasks.dataset.split import SealedResult
from tasks.evaluate import plots
from tasks.evaluate.errors import error_tables
from tasks.evaluate.result import METRICS, PREDICTIONS, ScoreResult
from tasks.evaluate.slices import score_slices, slices_of_rows
from tasks.figures import Interval
from tasks.labels import encode, label_of
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.records import Label, Record
from tasks.stage import run_stage
from tasks.statistics.bootstrap import Bootstrap, group_codes
from tasks.statistics.metrics import score_answers
from tasks.statistics.probability_scores import score_probabilities
from tasks.workspace import Workspace

VERSION = 6
# settings of one baseline, or of other stages
UNSHARED = {
    "static_model",
    "zero_shot",
    "llm_rows",
    "robustness_rows",
    "perturbations",
    "cases",
    "serving_rows",
}


@dataclass(frozen=True)
class Answers:
    """A label or label set per text; and where the model gives them, probabilities (rows, labels)."""

    labels: list[Label]
    scores: np.ndarray | None = None


Answer = Callable[[list[str]], Answers]


def shared_settings(project: Project) -> dict[str, object]:
    """The settings that every score depends on."""
    settings = project.evaluate.model_dump(mode="json", exclude=UNSHARED)
    return settings | {"columns": list(project.data.keep_columns)}


def score_bundle(
    project: Project, bundle: BundleRef, *, sealed: SealedResult, workspace: Workspace
) -> ScoreResult:
    """The bundle's scores on the test rows, with `predictions.jsonl`, `metrics.json` and plots.

    Champion and challenger are scored alike, so a champion is scored again on other test rows.
    """

    def answer(texts: list[str]) -> Answers:
        from tasks.model.bundle import Classifier

        model = Classifier.load(bundle.directory, digest=bundle.digest)
        p = model.probabilities(texts)
        # a champion may be from before the project had these labels, or several per text
        several, names = project.multi_label, project.label_names
        same = model.multi_label == several and set(model.labels) == set(names)
        columns = [model.labels.index(name) for name in names] if same else []
        return Answers(model.answers(p, multi_label=several), p[:, columns] if same else None)

    who, inputs = f"bundle {bundle.digest[:12]}", {"bundle": bundle.digest}
    return score_model(project, who, answer, sealed=sealed, workspace=workspace, inputs=inputs)


def score_model(
    project: Project,
    who: str,
    answer: Answer,
    *,
    sealed: SealedResult,
    workspace: Workspace,
    inputs: Mapping[str, str],
    params: Mapping[str, object] | None = None,
) -> ScoreResult:
    """The scores of anything that answers texts, published as the stage `evaluate`."""

    def build(out: Path, scratch: Path) -> ScoreResult:
        rows = open_sealed(sealed, workspace=workspace, by=who)
        return score_rows(project, who, rows, answer([r.text for r in rows]), out=out)

    return run_stage(
        ScoreResult,
        "evaluate",
        workspace=workspace,
        version=VERSION,
        params={"labels": project.labels, **shared_settings(project), **(params or {})},
        inputs={**inputs, "sealed": sealed.digest},
        build=build,
    )


def score_rows(
    project: Project, who: str, rows: list[Record], answers: Answers, *, out: Path
) -> ScoreResult:
    """The scores of the answers to `rows`; answers, tables and plots are written into `out`."""
    e, names = project.evaluate, project.label_names
    true = [label_of(r) for r in rows]
    slices = slices_of_rows(rows, e.slices, project.data.keep_columns)
    atomic.write_lines(out / PREDICTIONS, _answer_rows(rows, answers, slices))
    bootstrap = Bootstrap(e.bootstrap_samples, e.seed, group_codes([r.group for r in rows]))
    p = answers.scores if answers.scores is not None and np.isfinite(answers.scores).all() else None
    for name, table in error_tables(rows, answers.labels, p, names).items():
        lines = (row.model_dump(mode="json", exclude_none=True) for row in table)
        atomic.write_lines(out / f"{name}.jsonl", lines)
    result = ScoreResult(
        model=who,
        scores=score_answers(true, answers.labels, names, bootstrap=bootstrap),
        slices=score_slices(
            rows,
            answers.labels,
            slices,
            labels=names,
            declared=list(e.slices),
            bootstrap=bootstrap,
        ),
        calibration=None if p is None else score_probabilities(encode(true, names), p),
        probabilities=answers.scores is not None,
    )
    atomic.write_json(out / METRICS, result.model_dump(mode="json"))
    _plot(result, f"{project.name}: {who}", names, out)
    return result


def _plot(result: ScoreResult, title: str, labels: list[str], out: Path) -> None:
    if result.calibration:
        plots.plot_reliability(result.calibration.reliability, title, out / "reliability.png")
    confusion = result.known.confusion
    if isinstance(confusion, dict):
        plots.plot_labels(result.known.labels, title, out / "labels.png")
    else:
        plots.plot_confusion(confusion, labels, title, out / "confusion.png")


def _answer_rows(
    rows: list[Record], answers: Answers, slices: list[list[str]]
) -> Iterator[dict[str, object]]:
    """A ScoredRow per row, as JSON, without the keys that are at their default."""
    for i, (r, predicted) in enumerate(zip(rows, answers.labels, strict=True)):
        row: dict[str, object] = {"id": r.id, "label": r.label, "predicted": predicted}
        row |= {"group": r.group} if r.group else {}
        row["slices"] = slices[i]
        if answers.scores is not None and np.isfinite(answers.scores[i]).all():
            row["scores"] = [round(float(v), 6) for v in answers.scores[i]]
        elif answers.scores is not None:
            row["broken"] = True
        yield row


def f1_on_rows(project: Project, scored: ScoreResult, ids: set[str]) -> Interval:
    """Macro-F1 of a scored model on some of the test rows, with its 95% interval."""
    rows = [row for row in scored.read() if row.id in ids]
    true, predicted = [row.label for row in rows], [row.predicted for row in rows]
    bootstrap = Bootstrap(project.evaluate.bootstrap_samples, project.evaluate.seed)
    return score_answers(true, predicted, project.label_names, bootstrap=bootstrap).f1_macro
