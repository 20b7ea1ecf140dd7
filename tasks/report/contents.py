"""What the report of a retrain tells, gathered from its stages and from the object that the retrain ends with."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
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
from tasks.report.blocks import blocks, said
from tasks.report.model import ModelScore, RetrainReport
from tasks.report.page import picture
from tasks.statistics.scores import Scores
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
    "reviewed": "looked at by a person",
}


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
) -> dict[str, Any]:
    """Everything that the page shows. `gain` may be a picture that is not there."""
    kept = Counter(count_by_source(training.read()))
    parts = {"robustness": report.robustness, "serving": report.serving}
    return {
        "report": report,
        "name": project.name,
        "base": project.train.model,
        "multi_label": project.multi_label,
        "described": project.labels,
        "verdict": report.judgement,
        "promote": project.promote,
        "models": models(report),
        "labels": by_label(challenger.known, report.judgement),
        "more": _summary(challenger),
        "pictures": pictures(challenger, curve, gain),
        "pairs": _rows(challenger, "confusion_pairs"),
        "mistakes": _rows(challenger, "mistakes"),
        "suspects": _rows(challenger, "likely_label_errors"),
        "suspected": len(atomic.read_lines(challenger.directory / "likely_label_errors.jsonl")),
        "points": curve.points if curve else [],
        "dev_rows": curve.dev_rows if curve else 0,
        "slices": challenger.slices,
        "more_figures": {
            name: blocks(part.model_dump() if part else {})
            for name, part in parts.items()
            if part or name == "serving"
        },
        "answers_by": describe_choice(report.inference),
        "sources": {SOURCES.get(source, source): n for source, n in kept.most_common()},
        "generators": generators_of(project, kept),
        "digests": digests,
        "seeds": {
            "train.seeds": list(project.train.seeds),
            "generate.seed": project.generate.seed,
            "evaluate.seed": project.evaluate.seed,
            "bootstrap resamples": project.evaluate.bootstrap_samples,
            "generation": report.generation,
        },
        "versions": versions(commit),
        "not_tested": not_tested(report, challenger),
    }


def generators_of(project: Project, rows: Mapping[str, int]) -> list[str]:
    """The models that wrote the synthetic ones among the training `rows`, a number for each source."""
    return (
        sorted({e.model for _, e in project.generate.endpoints().values()})
        if rows.get("synthetic")
        else []
    )


def models(report: RetrainReport) -> list[dict[str, Any]]:
    """The challenger, the champion and each baseline as {name, kind, note, f1_macro, ci_low, ci_high}, for one chart."""
    name = f"{report.model.name} {report.model.version}"
    found = [_bar(name, "challenger", report.test)]
    champion = report.champion
    if champion and champion.version != report.model.version and champion.score:
        found.append(_bar(f"champion {champion.version}", "champion", champion.score))
    for baseline, b in report.baselines.items():
        note = ""
        if on := b.challenger:
            note = f"on {b.rows} rows alone; the challenger on these {on.value:.3f} ({on.ci_low:.3f} to {on.ci_high:.3f})"
        found.append(_bar(baseline.replace("_", " "), "baseline", b, note))
    return found


def _bar(name: str, kind: str, score: ModelScore, note: str = "") -> dict[str, Any]:
    ends = {"f1_macro": score.f1_macro, "ci_low": score.ci_low, "ci_high": score.ci_high}
    return {"name": name, "kind": kind, "note": note, **ends}


def by_label(scores: Scores, verdict: Verdict) -> list[dict[str, Any]]:
    """{label, rows, precision, recall, f1, opponent, gain} per label; the last two None where there is no other model."""
    gains = verdict.labels or {}
    return [
        {
            "label": label,
            **own.model_dump(),
            "gain": gains.get(label),
            "opponent": None if label not in gains else own.f1 - gains[label],
        }
        for label, own in scores.labels.items()
    ]


def pictures(
    challenger: ScoreResult, curve: LearningCurveResult | None, gain: Path
) -> dict[str, str]:
    """The PNGs that there are, as data: URIs by name."""
    places = {
        name: challenger.directory / f"{name}.png"
        for name in ("confusion", "labels", "reliability")
    }
    places |= {"gain": gain} | ({"curve": curve.directory / "curve.png"} if curve else {})
    return {name: uri for name, path in places.items() if (uri := picture(path))}


def _rows(challenger: ScoreResult, name: str) -> list[dict[str, Any]]:
    found = atomic.read_lines(challenger.directory / f"{name}.jsonl")[:MOST_ROWS]
    return [row | {"text": _short(row["text"])} if "text" in row else row for row in found]


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[:CHARACTERS].rstrip() + " …"


def _summary(challenger: ScoreResult) -> dict[str, Interval | float]:
    """Every figure of the whole test set under the name that a reader knows, macro-F1 first."""
    found: dict[str, Interval | float] = {**challenger.known.summary, **challenger.known.more}
    if challenger.calibration:
        found |= challenger.calibration.by_name()
    order = sorted(found, key=lambda name: name != "f1_macro")
    return {TITLES.get(name, said(name)): found[name] for name in order}


def versions(commit: str | None) -> dict[str, str]:
    """What made the report: the code, and the libraries that its figures come from."""
    return {
        "Reseed": library_versions(["reseed"])["reseed"],
        "commit": commit or "not a git checkout",
        "rule of the verdict": str(RULE_VERSION),
        "Python": platform.python_version(),
        "machine": platform.machine(),
        **library_versions(LIBRARIES),
    }


def not_tested(report: RetrainReport, challenger: ScoreResult) -> list[str]:
    """What no figure of this report is about, in sentences."""
    few = [label for label, v in challenger.known.labels.items() if v.rows < FEW_ROWS]
    found = [
        "Other languages, other sources and later times than the test texts'.",
        "Whether it errs more with some groups of people than with others.",
    ]
    if few:
        found.append(
            f"Labels with fewer than {FEW_ROWS} test rows say little by themselves: {', '.join(few)}."
        )
    if not report.robustness:
        found.append("Typing errors, and texts made to mislead.")
    if all(s.name.startswith(("length=", "label=")) for s in challenger.slices):
        found.append(
            "Parts of the test set by source or time (data.keep_columns, evaluate.slices)."
        )
    if not report.serving:
        found.append("Speed and answers under load.")
    if not report.champion:
        found.append("A champion: there is none, so the best baseline was the opponent.")
    if "llm" not in report.baselines:
        found.append("The LLM itself as a classifier (evaluate.llm_rows).")
    if "zero_shot" not in report.baselines:
        found.append("A zero-shot model that is not fine-tuned (evaluate.zero_shot).")
    return found
