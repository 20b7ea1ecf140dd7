"""What is measured of challenger and champion beside their F1: robustness, and the cost of serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows import steps
from flows.context import Retrain
from flows.tracking import stage_runs
from tasks.evaluate.robustness import cases_line, wanted
from tasks.evaluate.robustness import line as flips_line
from tasks.evaluate.serving import Measured, measures
from tasks.evaluate.serving import line as serving_line
from tasks.stage import Stage


def measured(r: Retrain, bundle: Path, digest: str, who: str) -> Measured:
    """Both stages of one bundle, or None where the project file switches one off; logged under `who`."""
    robustness: Stage | None = None
    serving: Stage | None = None
    if wanted(r.project):
        robustness = steps.robustness(r.project, bundle, digest=digest, sealed=r.prepared.sealed, **r.places)
        stage_runs.robust(r.log, who, r.timed(robustness, title=f"robustness of {who}"))
    if r.project.evaluate.serving:
        serving = steps.serving(r.project, bundle, digest=digest, splits=r.prepared.splits, home=r.home)
        stage_runs.served(r.log, who, r.timed(serving, title=f"cost of serving {who}"))
    return Measured(bundle, digest, robustness, serving)


def compared(r: Retrain, bundle: Path, digest: str, who: str) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """The champion's figures for the report; and by name what limits may be set to: the challenger's and the champion's, their
    latencies measured in turns."""
    theirs = measured(r, bundle, digest, who)
    if r.measured is None:
        return told(theirs), {}
    turns: Stage | None = None
    if r.project.evaluate.serving:
        places = {"splits": r.prepared.splits, "home": r.home}
        turns = r.timed(steps.side_by_side(r.project, r.measured, theirs, **places), title="both in turns")
        stage_runs.in_turns(r.log, turns)
    return told(theirs), measures(r.measured, theirs, turns)


def told(m: Measured | None) -> dict[str, Any]:
    """The figures of one model in the report."""
    stages = {"robustness": m.robustness if m else None, "serving": m.serving if m else None}
    return {name: stage.counts if stage else None for name, stage in stages.items()}


def lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of the table about them."""
    found = []
    robust, serving, champion = report["robustness"], report["serving"], report["champion"] or {}
    if robust and robust["perturbations"]:
        found.append(("under typos etc.", flips_line(robust)))
    if robust and robust["cases"]:
        found.append(("cases", cases_line(robust)))
    if serving:
        found.append(("serving", serving_line(serving)))
    if against := measures_line(champion.get("measures") or {}):
        found.append((f"beside champion {champion['version']}", against))
    return found


def measures_line(found: dict[str, tuple[float, float]]) -> str:
    """Challenger against champion in a line."""
    ways = {
        "latency_p95_ms": ("p95", 1, ".1f", " ms"),
        "bundle_mb": ("on disk", 1, ".0f", " MB"),
        "flip_rate": ("flips", 100, ".1f", "%"),
    }
    told = []
    for name, (what, factor, how, unit) in ways.items():
        if name in found:
            ours, theirs = (f"{factor * v:{how}}{unit}" for v in found[name])
            told.append(f"{what} {ours} against {theirs}")
    return ", ".join(told)
