"""What the HTML report of a retrain shows, gathered from its stages and its result."""

from __future__ import annotations

import base64
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.augment.learning_curve import LearningCurveResult
from tasks.dataset.training_rows import TrainingRows
from tasks.evaluate.result import ScoreResult
from tasks.figures import Interval
from tasks.model.inference.choose import describe_choice
from tasks.project import Project
from tasks.records import count_by_source
from tasks.report.blocks import Block, name_in_words, to_blocks
from tasks.report.model import ModelScore, RetrainReport
from tasks.stage import Table
from tasks.statistics.scores import LabelScore, Scores
from tasks.verdict.decide import RULE_VERSION
from tasks.verdict.evidence import library_versions
from tasks.verdict.model import Verdict

MOST_ROWS = 20  # of a table of errors
CHARACTERS = 700  # of a text
TITLES = {
    "f1_macro": "macro-F1",
    "f1_micro": "micro-F1",
    "f1_weighted": "weighted F1",
    "matthews": "Matthews correlation",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "roc_auc_macro": "ROC-AUC, macro",
    "average_precision_macro": "average precision, macro",
}
LIBRARIES = (
    "torch",
    "transformers",
    "scikit-learn",
    "onnxruntime",
    "cleanlab",
    "numpy",
    "mlflow",
    "prefect",
)
FEW_ROWS = 30  # test rows of a label, below which its F1 says little
SOURCES = {
    "seed": "real, labelled",
    "synthetic": "synthetic",
    "harvested": "real, labelled by the model before",
    "reviewed": "labelled by a person",
}


@dataclass(frozen=True, slots=True)
class ModelBar:
    """A model in the chart of macro-F1; `kind` is challenger, champion or baseline."""

    name: str
    kind: str
    score: ModelScore
    note: str = ""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """The challenger's scores of a label; the opponent's F1 and the gain where they are known."""

    label: str
    score: LabelScore
    opponent: float | None
    gain: float | None


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that the page shows; `pictures` are data: URIs by name."""

    report: RetrainReport
    project: Project
    models: list[ModelBar]
    labels: list[LabelRow]
    summary: dict[str, Interval | float]
    pictures: dict[str, str]
    confusion_pairs: Table
    mistakes: Table
    likely_label_errors: Table
    likely_label_error_count: int
    curve: LearningCurveResult | None
    score: ScoreResult
    other_figures: dict[str, list[Block]]
    inference: str
    sources: dict[str, int]
    generators: list[str]
    digests: dict[str, str]
    seeds: dict[str, Any]
    versions: dict[str, str]
    not_tested: list[str]


def gather_contents(
    report: RetrainReport,
    *,
    project: Project,
    challenger: ScoreResult,
    training: TrainingRows,
    curve: LearningCurveResult | None,
    gain: Path,
    digests: dict[str, str],
    commit: str | None,
) -> Contents:
    """Everything that the page shows. The picture `gain` may be missing."""
    rows = Counter(count_by_source(training.read()))
    label_errors = atomic.read_lines(challenger.directory / "likely_label_errors.jsonl")
    return Contents(
        report=report,
        project=project,
        models=_models(report),
        labels=_labels(challenger.known, report.judgement),
        summary=_summary(challenger),
        pictures=_pictures(challenger, curve, gain),
        confusion_pairs=_rows(challenger, "confusion_pairs"),
        mistakes=_rows(challenger, "mistakes"),
        likely_label_errors=_rows(challenger, "likely_label_errors"),
        likely_label_error_count=len(label_errors),
        curve=curve,
        score=challenger,
        other_figures=_other_figures(report),
        inference=describe_choice(report.inference),
        sources={SOURCES.get(source, source): n for source, n in rows.most_common()},
        generators=generators_of(project, rows),
        digests=digests,
        seeds=_seeds(project, report),
        versions=_versions(commit),
        not_tested=_not_tested(report, challenger),
    )


def generators_of(project: Project, rows: Mapping[str, int]) -> list[str]:
    """The models that wrote the synthetic training rows, if any; `rows` is counts by source."""
    if not rows.get("synthetic"):
        return []
    return sorted({endpoint.model for _, endpoint in project.generate.endpoints().values()})


def _seeds(project: Project, report: RetrainReport) -> dict[str, Any]:
    return {
        "train.seeds": list(project.train.seeds),
        "generate.seed": project.generate.seed,
        "evaluate.seed": project.evaluate.seed,
        "bootstrap resamples": project.evaluate.bootstrap_samples,
        "generation": report.generation,
    }


def _other_figures(report: RetrainReport) -> dict[str, list[Block]]:
    """Tables by section; the section on serving is always there, because it names the backend."""
    robustness, serving = report.robustness, report.serving
    figures = {"robustness": to_blocks(robustness.model_dump())} if robustness else {}
    return figures | {"serving": to_blocks(serving.model_dump() if serving else {})}


def _models(report: RetrainReport) -> list[ModelBar]:
    """The challenger, the champion and each baseline."""
    name = f"{report.model.name} {report.model.version}"
    bars = [ModelBar(name, "challenger", report.test)]
    champion = report.champion
    if champion and champion.version != report.model.version and champion.score:
        bars.append(ModelBar(f"champion {champion.version}", "champion", champion.score))
    for baseline, score in report.baselines.items():
        note = ""
        if on := score.challenger:
            note = (
                f"on {score.rows} rows alone; the challenger on these {on.value:.3f} "
                f"({on.ci_low:.3f} to {on.ci_high:.3f})"
            )
        bars.append(ModelBar(baseline.replace("_", " "), "baseline", score, note))
    return bars


def _labels(scores: Scores, verdict: Verdict) -> list[LabelRow]:
    gains = verdict.labels or {}
    return [
        LabelRow(
            label, score, score.f1 - gains[label] if label in gains else None, gains.get(label)
        )
        for label, score in scores.labels.items()
    ]


def _pictures(
    challenger: ScoreResult, curve: LearningCurveResult | None, gain: Path
) -> dict[str, str]:
    """The PNGs that exist, as data: URIs by name."""
    names = ("confusion", "labels", "reliability")
    paths = {name: challenger.directory / f"{name}.png" for name in names} | {"gain": gain}
    if curve:
        paths["curve"] = curve.directory / "curve.png"
    return {
        name: f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        for name, path in paths.items()
        if path.exists()
    }


def _rows(challenger: ScoreResult, name: str) -> Table:
    table = atomic.read_lines(challenger.directory / f"{name}.jsonl")[:MOST_ROWS]
    return [row | {"text": _short(row["text"])} if "text" in row else row for row in table]


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[:CHARACTERS].rstrip() + " …"


def _summary(challenger: ScoreResult) -> dict[str, Interval | float]:
    """Each figure of the whole test set under the name that a reader knows, macro-F1 first."""
    figures: dict[str, Interval | float] = {**challenger.known.summary, **challenger.known.more}
    if challenger.calibration:
        figures |= challenger.calibration.by_name()
    order = sorted(figures, key=lambda name: name != "f1_macro")
    return {TITLES.get(name, name_in_words(name)): figures[name] for name in order}


def _versions(commit: str | None) -> dict[str, str]:
    """The code that made the report, and the libraries that its figures come from."""
    return {
        "Reseed": library_versions(["reseed"])["reseed"],
        "commit": commit or "not a git checkout",
        "rule of the verdict": str(RULE_VERSION),
        "Python": platform.python_version(),
        "machine": platform.machine(),
        **library_versions(LIBRARIES),
    }


def _not_tested(report: RetrainReport, challenger: ScoreResult) -> list[str]:
    """What no figure of this report is about, in sentences."""
    few = [label for label, score in challenger.known.labels.items() if score.rows < FEW_ROWS]
    too_few = f"Labels with fewer than {FEW_ROWS} test rows are uncertain: {', '.join(few)}."
    unsliced = all(s.name.startswith(("length=", "label=")) for s in challenger.slices)
    sentences = {
        "Other languages, other sources and later times than those of the test texts.": True,
        "Whether it errs more with some groups of people than with others.": True,
        too_few: bool(few),
        "Typing errors, and texts made to mislead.": not report.robustness,
        "Parts of the test set by source or time (data.keep_columns, evaluate.slices).": unsliced,
        "Speed and answers under load.": not report.serving,
        "A champion: there is none, so the best baseline was the opponent.": not report.champion,
        "The LLM itself as a classifier (evaluate.llm_rows).": "llm" not in report.baselines,
        "A zero-shot model that is not fine-tuned (evaluate.zero_shot).": (
            "zero_shot" not in report.baselines
        ),
    }
    return [sentence for sentence, applies in sentences.items() if applies]
