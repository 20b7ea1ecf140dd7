"""What the report of a retrain tells, gathered from its stages and from the object that the retrain ends with."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.model.inference.choose import line as answers_by
from tasks.project import Project
from tasks.records import count_by_source, read_records
from tasks.report.blocks import blocks, said
from tasks.report.page import picture
from tasks.stage import Stage
from tasks.verdict.evidence import code

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
LIBRARIES = ("torch", "transformers", "scikit-learn", "onnxruntime", "cleanlab", "numpy", "mlflow", "prefect")
MORE = ("robustness", "serving")  # parts of the report that are shown where they are there
FEW_ROWS = 30  # test rows of a label, below which its F1 says little
SOURCES = {
    "seed": "real, labelled",
    "synthetic": "synthetic",
    "harvested": "real, labelled by the model before",
    "reviewed": "looked at by a person",
}


def tell(
    report: dict[str, Any],
    *,
    project: Project,
    verdict: dict[str, Any],
    challenger: Stage,
    training: Stage,
    curve: Stage | None,
    gain: Path,
    digests: dict[str, str],
    commit: str | None,
) -> dict[str, Any]:
    """All that the page shows, as JSON. `report` is what flows/retrain.py returns; of its keys `robustness` and `serving` are
    shown where they are there, and so are the challenger's `slices`. `gain` may be a picture that is not there.
    """
    metrics = atomic.read_json(challenger.directory / "metrics.json")
    kept = Counter(count_by_source(read_records(training.directory / "kept.jsonl")))
    return {
        "report": report,
        "name": project.name,
        "base": project.train.model,
        "multi_label": project.multi_label,
        "described": project.labels,
        "verdict": verdict,
        "promote": project.promote.model_dump(mode="json"),
        "models": models(report),
        "labels": by_label(metrics, report, verdict),
        "more": _summary(metrics),
        "pictures": pictures(challenger, curve, gain),
        "pairs": _rows(challenger, "confusion_pairs"),
        "mistakes": _rows(challenger, "mistakes"),
        "suspects": _rows(challenger, "likely_label_errors"),
        "suspected": len(atomic.read_lines(challenger.directory / "likely_label_errors.jsonl")),
        "points": curve.counts["points"] if curve else [],
        "dev_rows": curve.counts["dev_rows"] if curve else 0,
        "slices": metrics["slices"],
        "more_figures": {
            name: blocks(report.get(name) or {}) for name in MORE if report.get(name) or name == "serving"
        },
        "answers_by": answers_by(report["inference"]),
        "sources": {SOURCES.get(source, source): n for source, n in kept.most_common()},
        "generators": generators_of(project, kept),
        "digests": digests,
        "seeds": {
            "train.seeds": list(project.train.seeds),
            "generate.seed": project.generate.seed,
            "evaluate.seed": project.evaluate.seed,
            "bootstrap resamples": project.evaluate.bootstrap,
            "generation": report["generation"],
        },
        "versions": versions(commit),
        "not_tested": not_tested(report, metrics),
    }


def generators_of(project: Project, rows: Mapping[str, int]) -> list[str]:
    """The models that wrote the synthetic ones among the training `rows`, a number for each source."""
    return sorted({e.model for _, e in project.generate.sources().values()}) if rows.get("synthetic") else []


def models(report: dict[str, Any]) -> list[dict[str, Any]]:
    """{name, kind, f1_macro, ci_low, ci_high, rows, note} of the challenger, the champion and each baseline, for one chart."""
    own = report["model"]
    found = [{"name": f"{own['name']} {own['version']}", "kind": "challenger", "note": "", **_score(report["test"])}]
    champion = report["champion"]
    if champion and champion["version"] != own["version"] and champion.get("f1_macro") is not None:
        found.append({"name": f"champion {champion['version']}", "kind": "champion", "note": "", **_score(champion)})
    for name, b in report["baselines"].items():
        note = ""
        if b.get("sample"):
            on = b["challenger"]
            note = (
                f"on {b['rows']} rows alone; the challenger on these {on['value']:.3f} "
                f"({on['ci_low']:.3f} to {on['ci_high']:.3f})"
            )
        found.append({"name": name.replace("_", " "), "kind": "baseline", "note": note, **_score(b)})
    return found


def _score(f: dict[str, Any]) -> dict[str, Any]:
    return {key: f[key] for key in ("f1_macro", "ci_low", "ci_high", "rows")}


def by_label(metrics: dict[str, Any], report: dict[str, Any], verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """{label, rows, precision, recall, f1, opponent, gain} a label; the last two None where there is no other model."""
    gains = verdict.get("labels") or {}
    return [
        {
            "label": label,
            **figures,
            "gain": gains.get(label),
            "opponent": None if label not in gains else figures["f1"] - gains[label],
        }
        for label, figures in metrics["labels"].items()
    ]


def pictures(challenger: Stage, curve: Stage | None, gain: Path) -> dict[str, str]:
    """The PNGs that there are, as data: URIs by name."""
    places = {name: challenger.directory / f"{name}.png" for name in ("confusion", "labels", "reliability")}
    places |= {"gain": gain} | ({"curve": curve.directory / "curve.png"} if curve else {})
    return {name: uri for name, path in places.items() if (uri := picture(path))}


def _rows(challenger: Stage, name: str) -> list[dict[str, Any]]:
    found = atomic.read_lines(challenger.directory / f"{name}.jsonl")[:MOST_ROWS]
    return [row | {"text": _short(row["text"])} if "text" in row else row for row in found]


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[:CHARACTERS].rstrip() + " …"


def _summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """Every figure of the whole test set under the name that a reader knows, macro-F1 first."""
    found = {name: v for name, v in metrics.items() if isinstance(v, dict) and "ci_low" in v}
    found |= metrics.get("more", {})
    found |= {name: v for name, v in (metrics.get("scores") or {}).items() if isinstance(v, float)}
    order = sorted(found, key=lambda name: name != "f1_macro")
    return {TITLES.get(name, said(name)): found[name] for name in order}


def versions(commit: str | None) -> dict[str, str]:
    """What made the report: the code, and the libraries that its figures come from."""
    mine = code()
    found = {"Reseed": mine["reseed"], "commit": commit or "not a git checkout", "judge": mine["judge"][:12]}
    found |= {"Python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def not_tested(report: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    """What no figure of this report is about, in sentences."""
    few = [label for label, v in metrics["labels"].items() if v["rows"] < FEW_ROWS]
    found = [
        "Other languages, other sources and later times than the test texts'.",
        "Whether it errs more with some groups of people than with others.",
    ]
    if few:
        found.append(f"Labels with fewer than {FEW_ROWS} test rows say little by themselves: {', '.join(few)}.")
    if not report.get("robustness"):
        found.append("Typing errors, and texts made to mislead.")
    if all(s["name"].startswith(("length=", "label=")) for s in metrics["slices"]):
        found.append("Parts of the test set by source or time (data.keep_columns, evaluate.slices).")
    if not report.get("serving"):
        found.append("Speed and answers under load.")
    if not report["champion"]:
        found.append("A champion: there is none, so the best baseline was the opponent.")
    if "llm" not in report["baselines"]:
        found.append("The LLM itself as a classifier (evaluate.ask_llm).")
    if "zero_shot" not in report["baselines"]:
        found.append("A zero-shot model that is not fine-tuned (evaluate.zero_shot).")
    return found
