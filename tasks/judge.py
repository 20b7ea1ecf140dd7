"""Decide whether a challenger is better than its opponent: pure arithmetic on their answers to the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from tasks.evaluate.bootstrap import macro_f1
from tasks.evaluate.metrics import f1_macro
from tasks.labels import codes, strange
from tasks.records import Label

Decision = Literal["promote", "keep", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision with every number that led to it. `gain` is challenger minus opponent in macro-F1."""

    decision: Decision
    reasons: tuple[str, ...]
    opponent: str
    gain: float | None = None
    lower: float | None = None
    upper: float | None = None
    rows: int = 0
    more_rows: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Verdict:
        return cls(**{**value, "reasons": tuple(value["reasons"])})


def unsure(reason: str, opponent: str, rows: int = 0) -> Verdict:
    """Inconclusive, without numbers: unsure is not yes."""
    return Verdict("inconclusive", (reason,), opponent, rows=rows)


def decide(
    true: Sequence[Label],
    challenger: Sequence[Label],
    opponent: Sequence[Label],
    *,
    labels: list[str],
    opponent_name: str,
    min_gain: float = 0.0,
    confidence: float = 0.95,
    samples: int = 5000,
    seed: int = 0,
) -> Verdict:
    """Promote when the one-sided lower bound of the gain is above `min_gain`, keep when its upper bound is not,
    inconclusive between, or when rows or classes are missing. Answers are labels, or label sets.

    The bounds are the observed gain plus the centred quantiles of a paired bootstrap (stratified by label; of label sets plain),
    so at `confidence` 0.5 both are the observed gain itself: the plain rule `its F1 is higher`. Paired bootstrap:
    Berg-Kirkpatrick et al. 2012.
    """
    n = len(true)
    if n == 0 or len(challenger) != n or len(opponent) != n:
        return unsure(
            f"{n} test rows, {len(challenger)} and {len(opponent)} answers: nothing to compare", opponent_name, n
        )
    y = codes(true, labels)
    there = set().union(*([own] if isinstance(own, str) else own for own in true))
    absent = [label for label in labels if label not in there]
    if absent or strange(true, labels):
        what = (
            f"no test row of {', '.join(map(repr, absent))}"
            if absent
            else "a test row with a label that is not the project's"
        )
        return unsure(f"{what}: macro-F1 is not known", opponent_name, n)
    a, b = codes(challenger, labels), codes(opponent, labels)
    k = len(labels)
    names = list(range(k))
    point = f1_macro(y, a, names) - f1_macro(y, b, names)
    drawn = macro_f1(y, [a, b], classes=k, samples=samples, seed=seed)
    gains = drawn[:, 0] - drawn[:, 1]
    low, middle, high = np.quantile(gains, [1 - confidence, 0.5, confidence])
    # rounded: a difference in the order of summation is no gain
    point, lower, upper = (round(float(v), 12) for v in (point, point + (low - middle), point + (high - middle)))
    if not all(map(math.isfinite, (point, lower, upper))):
        return unsure("the gain is not a number", opponent_name, n)
    said = (
        f"macro-F1 {point:+.4f} against {opponent_name}, {confidence:.0%} one-sided bounds {lower:+.4f} to {upper:+.4f}"
    )
    numbers: dict[str, Any] = {
        "opponent": opponent_name,
        "gain": point,
        "lower": lower,
        "upper": upper,
        "rows": n,
    }
    if lower > min_gain:
        return Verdict("promote", (f"{said}: above promote.min_gain {min_gain}",), **numbers)
    if upper <= min_gain:
        return Verdict("keep", (f"{said}: not above promote.min_gain {min_gain}",), **numbers)
    more = _more_rows(n, point - min_gain, float(gains.std()), confidence)
    advice = f"about {more} more test rows would decide" if more else "no number of rows decides at no difference"
    return Verdict(
        "inconclusive", (f"{said}: promote.min_gain {min_gain} lies between; {advice}",), **numbers, more_rows=more
    )


def _more_rows(n: int, distance: float, deviation: float, confidence: float) -> int | None:
    """Rows beyond `n` at which the bound would reach `min_gain`, its width falling with the root of the rows."""
    from scipy.stats import norm

    if abs(distance) < 1e-9:
        return None
    return max(1, math.ceil(n * (norm.ppf(confidence) * deviation / distance) ** 2) - n)
