"""Decide whether a challenger is better than its opponent: pure arithmetic on their answers to the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from tasks.evaluate.bootstrap import label_f1
from tasks.evaluate.metrics import f1_by_label
from tasks.labels import codes, strange
from tasks.records import Label

Decision = Literal["promote", "keep", "inconclusive"]
Rule = Literal["bounds", "point"]
WORN = 10  # verdicts on one test set, from which on it is said to be worn out


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision with every number that led to it. `gain` is challenger minus opponent in macro-F1, `alpha` the chance
    of a wrong promotion that this look was given, `won` and `lost` the rows that one model alone has right, with the
    p-value of McNemar's exact test, and `labels` each label's gain in F1."""

    decision: Decision
    reasons: tuple[str, ...]
    opponent: str
    gain: float | None = None
    lower: float | None = None
    upper: float | None = None
    rows: int = 0
    more_rows: int | None = None
    look: int = 1
    alpha: float | None = None
    won: int | None = None
    lost: int | None = None
    mcnemar_p: float | None = None
    labels: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Verdict:
        return cls(**{**value, "reasons": tuple(value["reasons"])})


def unsure(reason: str, opponent: str, rows: int = 0) -> Verdict:
    """Inconclusive, without numbers: unsure is not yes."""
    return Verdict("inconclusive", (reason,), opponent, rows=rows)


def spent(alpha: float, look: int) -> float:
    """What the verdict number `look` (from 1) on one test set may spend of `alpha`: alpha / (look (look + 1)).

    The parts of all looks, however many, add up to `alpha`, so it bounds the chance that any of them promotes what is no
    better (alpha spending: Lan and DeMets 1983, here without a planned end).
    """
    return alpha / (look * (look + 1))


def decide(
    true: Sequence[Label],
    challenger: Sequence[Label],
    opponent: Sequence[Label],
    *,
    labels: list[str],
    opponent_name: str,
    min_gain: float = 0.0,
    confidence: float = 0.95,
    rule: Rule = "bounds",
    look: int = 1,
    label_margin: float | None = None,
    samples: int = 5000,
    seed: int = 0,
) -> Verdict:
    """Promote when the one-sided lower bound of the gain is above `min_gain` and no label falls by more than `label_margin` in
    F1; keep when the upper bound is not above `min_gain`, or a label surely falls; inconclusive between, or when rows or
    classes are missing. Answers are labels, or label sets.

    The bounds are the observed gain plus the centred quantiles of a paired bootstrap (stratified by label; of label sets
    plain), at what `spent` leaves this look of 1 - `confidence`. With the rule `point` both are the observed gain itself: the
    plain `its F1 is higher`, whatever chance had to do with it. Paired bootstrap: Berg-Kirkpatrick et al. 2012.
    """
    n = len(true)
    if n == 0 or len(challenger) != n or len(opponent) != n:
        return unsure(
            f"{n} test rows, {len(challenger)} and {len(opponent)} answers: nothing to compare", opponent_name, n
        )
    there = set().union(*([own] if isinstance(own, str) else own for own in true))
    absent = [label for label in labels if label not in there]
    if absent or strange(true, labels):
        what = (
            f"no test row of {', '.join(map(repr, absent))}"
            if absent
            else "a test row with a label that is not the project's"
        )
        return unsure(f"{what}: macro-F1 is not known", opponent_name, n)
    y, a, b = (codes(answers, labels) for answers in (true, challenger, opponent))
    each = f1_by_label(y, a, len(labels)) - f1_by_label(y, b, len(labels))
    drawn = label_f1(y, [a, b], classes=len(labels), samples=samples, seed=seed)
    gains = (drawn[:, 0] - drawn[:, 1]).mean(axis=-1)
    alpha = 0.5 if rule == "point" else spent(1 - confidence, look)
    low, middle, high = np.quantile(gains, [alpha, 0.5, 1 - alpha])
    # rounded: a difference in the order of summation is no gain
    point, lower, upper = (round(float(each.mean() + v - middle), 12) for v in (middle, low, high))
    if not all(map(math.isfinite, (point, lower, upper))):
        return unsure("the gain is not a number", opponent_name, n)
    won, lost, p = _mcnemar(y, a, b)
    numbers: dict[str, Any] = {
        "opponent": opponent_name,
        "gain": point,
        "lower": lower,
        "upper": upper,
        "rows": n,
        "look": look,
        "alpha": alpha,
        "won": won,
        "lost": lost,
        "mcnemar_p": p,
        "labels": {label: round(float(v), 12) for label, v in zip(labels, each, strict=True)},
    }
    said = f"macro-F1 {point:+.4f} against {opponent_name}, "
    if rule == "point":
        said += "by the plain rule (promote.rule: point), which leaves chance out"
    else:
        said += f"{1 - alpha:.2%} one-sided bounds {lower:+.4f} to {upper:+.4f}"
        said += f" (verdict {look} on this test set)" if look > 1 else ""
    worn = (
        (
            f"this test set has decided {look} times and is worn out: give fresh rows (data.test, or a larger data.split.test)",
        )
        if rule == "bounds" and look >= WORN
        else ()
    )
    if upper <= min_gain:
        return Verdict("keep", (f"{said}: not above promote.min_gain {min_gain}", *worn), **numbers)
    if lower > min_gain:
        decision, reasons = _no_label_falls(labels, each, drawn[:, 0] - drawn[:, 1], label_margin, alpha)
        return Verdict(decision, (f"{said}: above promote.min_gain {min_gain}", *reasons, *worn), **numbers)
    more = _more_rows(n, point - min_gain, float(gains.std()), 1 - alpha)
    advice = f"about {more} more test rows would decide" if more else "no number of rows decides at no difference"
    reason = f"{said}: promote.min_gain {min_gain} lies between; {advice}"
    return Verdict("inconclusive", (reason, *worn), **numbers, more_rows=more)


def _no_label_falls(
    labels: list[str], each: np.ndarray, drawn: np.ndarray, margin: float | None, alpha: float
) -> tuple[Decision, tuple[str, ...]]:
    """Promote where no label's F1 falls by more than `margin`; keep where one surely does, at `alpha` for all labels together
    (Holm 1979); inconclusive where one seems to.
    """
    if margin is None or not (each < -margin).any():
        return "promote", ()
    # under "it falls by the margin, no more", how often would it be seen to fall as far as it did
    p = (drawn - np.median(drawn, axis=0) - margin <= each).mean(axis=0)
    sure, left = set(), len(labels)
    for k in np.argsort(p, kind="stable"):
        if p[k] * left > alpha:
            break
        sure.add(int(k))
        left -= 1
    reasons = tuple(
        f"F1 of {labels[k]!r} {each[k]:+.4f}: it {'falls' if k in sure else 'seems to fall'} by more than "
        f"promote.limits.label_f1 {margin}"
        for k in np.flatnonzero(each < -margin)
    )
    return ("keep" if sure & set(np.flatnonzero(each < -margin).tolist()) else "inconclusive"), reasons


def _mcnemar(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """Rows that the challenger alone has right, rows that the opponent alone has, and McNemar's exact two-sided p-value."""
    from scipy.stats import binomtest

    right_a, right_b = ((y == z) if y.ndim == 1 else (y == z).all(axis=1) for z in (a, b))
    won, lost = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return won, lost, round(float(binomtest(won, won + lost).pvalue), 12) if won + lost else 1.0


def _more_rows(n: int, distance: float, deviation: float, confidence: float) -> int | None:
    """Rows beyond `n` at which the bound would reach `min_gain`, its width falling with the root of the rows."""
    from scipy.stats import norm

    if abs(distance) < 1e-9:
        return None
    return max(1, math.ceil(n * (norm.ppf(confidence) * deviation / distance) ** 2) - n)
