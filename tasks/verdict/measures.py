"""The measures that `promote.limits` compares, besides F1."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tasks.evaluate.result import ScoreResult
from tasks.evaluate.robustness.stage import RobustnessResult
from tasks.evaluate.serving import ServingComparisonResult, ServingResult
from tasks.model.bundle import BundleRef
from tasks.verdict.model import MeasurePair


@dataclass(frozen=True)
class MeasuredBundle:
    """A bundle with its robustness and its cost of serving; None where the project has one off."""

    bundle: BundleRef
    robustness: RobustnessResult | None = None
    serving: ServingResult | None = None

    def measures(self) -> dict[str, float]:
        """The measures that are known, by their names in tasks/verdict/guardrails.py."""
        measures = {}
        if self.serving:
            measures["latency_p95_ms"] = self.serving.latency_p95_ms
            measures["bundle_mb"] = self.serving.bundle_mb
        if self.robustness and self.robustness.flip_rate.value is not None:
            measures["flip_rate"] = self.robustness.flip_rate.value
        return measures


def compare_measures(
    challenger: MeasuredBundle, champion: MeasuredBundle, turns: ServingComparisonResult | None
) -> dict[str, tuple[float, float]]:
    """The challenger's and the champion's figure of each measure that is known of both.

    Latencies are those of `turns`, where the two were asked in turns.
    """
    ours, theirs = challenger.measures(), champion.measures()
    pairs = {name: (value, theirs[name]) for name, value in ours.items() if name in theirs}
    if turns is not None:
        latencies = turns.challenger.latency_p95_ms, turns.champion.latency_p95_ms
        pairs["latency_p95_ms"] = latencies
    return pairs


def compare_calibration(challenger: ScoreResult, champion: ScoreResult) -> dict[str, MeasurePair]:
    """Both models' calibration error; None where a model gives no probabilities."""
    mine, theirs = (_calibration_error(score) for score in (challenger, champion))
    return {"ece": (mine, theirs)}


def _calibration_error(score: ScoreResult) -> float | None:
    error = score.calibration.ece if score.calibration else math.nan
    return error if math.isfinite(error) else None
