"""Decide whether a challenger is better than its opponent: pure arithmetic on their answers to the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from tasks.evaluate.bootstrap import LEAST_GROUPS, group_codes, label_f1, stretch
from tasks.evaluate.metrics import f1_by_label, f1_in
from tasks.labels import codes, strange, used
from tasks.non_inferiority import LEAST_ROWS, Decision, Figure, Pairs, none_falls, over_limits
from tasks.records import Label

Rule = Literal["bounds", "point"]
LATER = ("slices", "groups", "measures", "recipe")  # left out where they say nothing: older evidence has no such keys
WORN = 10  # verdicts on one test set, from which on it is said to be worn out


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision with every number that led to it. `gain` is challenger minus opponent in macro-F1, `alpha` the chance
    of a wrong promotion that this look was given, `won` and `lost` the rows that one model alone has right, with the
    p-value of McNemar's exact test, `labels` each label's gain in F1, `slices` that of the judged slices in macro-F1, `groups` how
    many groups the rows are of, `measures` what both models have of what is limited, challenger first, and `recipe` the mean gain
    of the models of all `seeds` with the bounds that their differences widen."""

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
    slices: dict[str, float] | None = None
    groups: int | None = None
    measures: dict[str, list[float | None]] | None = None
    recipe: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        said = {**asdict(self), "reasons": list(self.reasons)}
        return {k: v for k, v in said.items() if v is not None or k not in LATER}

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
    slice_margin: float | None = None,
    slices: Mapping[str, Sequence[int]] | None = None,
    groups: Sequence[str | None] = (),
    measures: Pairs | None = None,
    limits: Mapping[str, float] | None = None,
    seeds: Sequence[Sequence[Label]] = (),
    samples: int = 5000,
    seed: int = 0,
) -> Verdict:
    """Promote when the one-sided lower bound of the gain is above `min_gain`, no label falls by more than `label_margin` in F1, no
    slice by more than `slice_margin` in the macro-F1 of its labels, and no measure is beyond its limit; keep when the upper bound
    is not above `min_gain`, a label or slice surely falls, or a limit is broken; inconclusive between, or when rows, classes or
    measures are missing. Answers are labels, or label sets.

    `slices` holds the rows of each slice by their places; one with fewer than LEAST_ROWS is left out. `measures` and `limits` are
    those of tasks/non_inferiority.py. The bounds are the observed gain plus the centred quantiles of a paired bootstrap
    (stratified by label; of label sets plain; of whole groups where `groups` names them, a row without a name alone), at what
    `spent` leaves this look of 1 - `confidence`. With the rule `point` both are the observed gain itself: the plain `its F1 is
    higher`, whatever chance had to do with it; the limits hold all the same. Paired bootstrap: Berg-Kirkpatrick et al. 2012.

    `seeds` holds the answers of the challenger's recipe trained with each of several seeds. The verdict is on the one model that
    would be promoted; what the recipe gains whichever seed it is trained with is said beside it.
    """
    n, alpha = len(true), 0.5 if rule == "point" else spent(1 - confidence, look)
    if fault := _not_comparable(true, challenger, opponent, *seeds, labels=labels, groups=groups):
        return unsure(fault, opponent_name, n)
    y, a, b, *of_seeds = (codes(answers, labels) for answers in (true, challenger, opponent, *seeds))
    together = group_codes(groups)
    many = None if together is None else int(together.max()) + 1
    if many is not None and many < LEAST_GROUPS and rule == "bounds":
        fault = f"the {n} test rows are of {many} groups (data.group_column), and fewer than {LEAST_GROUPS} say too little of others"
        return unsure(f"{fault}: add rows of other groups", opponent_name, n)
    wider = stretch(together, alpha)
    how: dict[str, Any] = {"samples": samples, "seed": seed, "groups": together}
    of_labels = _label_figures(y, a, b, labels, label_margin, how)
    of_slices = _slice_figures(y, a, b, slices or {}, slice_margin, how)
    bounds = _bounds(of_labels, alpha, wider)
    if not all(map(math.isfinite, (bounds.gain, bounds.lower, bounds.upper))):
        return unsure("the gain is not a number", opponent_name, n)
    won, lost, p = _mcnemar(y, a, b)
    verdict = Verdict(
        "inconclusive",
        (),
        opponent_name,
        *(bounds.gain, bounds.lower, bounds.upper, n),
        look=look,
        alpha=alpha,
        won=won,
        lost=lost,
        mcnemar_p=p,
        labels={label: round(f.seen, 12) for label, f in zip(labels, of_labels, strict=True)},
        slices={name: round(f.seen, 12) for name, f in of_slices.items()} or None,
        groups=many,
        measures={name: list(pair) for name, pair in (measures or {}).items()} or None,
        recipe=_recipe(y, of_seeds, b, alpha, wider, len(labels), how) if len(of_seeds) > 1 else None,
    )
    over = over_limits(measures or {}, limits or {})
    figures = [*of_labels, *of_slices.values()]
    return _concluded(verdict, figures, over, min_gain=min_gain, rule=rule, wider=wider, deviation=bounds.deviation)


def _concluded(
    v: Verdict,
    figures: list[Figure],
    over: tuple[tuple[str, ...], tuple[str, ...]],
    *,
    min_gain: float,
    rule: Rule,
    wider: float,
    deviation: float,
) -> Verdict:
    """The verdict `v` with the decision that follows from its numbers, and the reasons. `over` are the limits that are broken and
    those that can't be checked, `deviation` that of the gain from resample to resample, before it is made `wider`."""
    assert v.gain is not None and v.lower is not None and v.upper is not None and v.alpha is not None
    said, (broken, unknown) = _said(v, rule), over
    beside = (*_recipe_said(v, rule, min_gain), *_worn(v, rule))
    if v.upper <= min_gain:
        return replace(v, decision="keep", reasons=(f"{said}: not above promote.min_gain {min_gain}", *beside))
    if v.lower > min_gain:
        decision, reasons = none_falls(figures, alpha=v.alpha, stretch=wider)
        above = f"{said}: above promote.min_gain {min_gain}"
        decision = "keep" if broken else "inconclusive" if unknown and decision == "promote" else decision
        return replace(v, decision=decision, reasons=(above, *broken, *reasons, *unknown, *beside))
    more = _more_rows(v.rows, v.gain - min_gain, deviation * wider, 1 - v.alpha)
    between = f"{said}: promote.min_gain {min_gain} lies between; {_advice(more, v)}"
    decision = "keep" if broken else "inconclusive"
    return replace(v, decision=decision, reasons=(between, *broken, *unknown, *beside), more_rows=more)


def _not_comparable(
    true: Sequence[Label],
    *answers: Sequence[Label],
    labels: list[str],
    groups: Sequence[str | None],
) -> str | None:
    """Why nothing can be said of these answers, or None."""
    n = len(true)
    if n == 0 or any(len(own) != n for own in answers):
        return f"{n} test rows, {' and '.join(str(len(own)) for own in answers)} answers: nothing to compare"
    there = used(true)
    absent = [label for label in labels if label not in there]
    if absent:
        return f"no test row of {', '.join(map(repr, absent))}: macro-F1 is not known"
    if strange(true, labels):
        return "a test row with a label that is not the project's: macro-F1 is not known"
    if any(groups) and len(groups) != n:
        return f"{n} test rows and the groups of {len(groups)}: nothing to compare"
    return None


def _label_figures(
    y: np.ndarray, a: np.ndarray, b: np.ndarray, labels: list[str], margin: float | None, how: dict[str, Any]
) -> list[Figure]:
    """What each label's F1 gains, in the order of `labels`, and in each resample."""
    n = len(labels)
    each = f1_by_label(y, a, n) - f1_by_label(y, b, n)
    drawn = label_f1(y, [a, b], classes=n, **how)
    drawn = drawn[:, 0] - drawn[:, 1]
    return [Figure(f"F1 of {k!r}", "label_f1", margin, float(each[i]), drawn[:, i]) for i, k in enumerate(labels)]


def _slice_figures(
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    slices: Mapping[str, Sequence[int]],
    margin: float | None,
    how: dict[str, Any],
) -> dict[str, Figure]:
    """What the macro-F1 of each slice that is large enough gains, by its name."""
    found = {}
    for name, places in slices.items():
        own = np.array(sorted(places), dtype=np.int64)
        if len(own) < LEAST_ROWS:
            continue
        groups = None if how["groups"] is None else how["groups"][own]
        f1 = f1_in(y[own], [a[own], b[own]], **{**how, "groups": groups})
        if f1 is not None:
            (mine, theirs), drawn = f1
            seen = float(mine - theirs)
            found[name] = Figure(f"macro-F1 of the slice {name!r}", "slice_f1", margin, seen, drawn[:, 0] - drawn[:, 1])
    return found


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The gain in macro-F1, its one-sided bounds, and its deviation from resample to resample."""

    gain: float
    lower: float
    upper: float
    deviation: float


def _bounds(of_labels: list[Figure], alpha: float, wider: float) -> _Bounds:
    gains = np.stack([f.drawn for f in of_labels], axis=1).mean(axis=-1)
    gain = float(np.mean([f.seen for f in of_labels]))
    low, middle, high = np.quantile(gains, [alpha, 0.5, 1 - alpha])
    # rounded: a difference in the order of summation is no gain
    point, lower, upper = (round(gain + wider * float(v - middle), 12) for v in (middle, low, high))
    return _Bounds(point, lower, upper, float(gains.std()))


def _recipe(
    y: np.ndarray, a: list[np.ndarray], b: np.ndarray, alpha: float, wider: float, classes: int, how: dict[str, Any]
) -> dict[str, float]:
    """The mean gain of the models `a`, one a seed, over `b`; with one-sided bounds from a bootstrap of the rows and, nested in it,
    of the seeds.

    One seed fewer than there are is drawn with replacement, so that the mean of those drawn spreads as the mean of the seeds does
    (Rao and Wu 1988, "Resampling inference with complex survey data"). Few seeds say little of that spread: the bounds take
    Student's t, with Satterthwaite's (1946) degrees of freedom for the sum of both spreads.
    """
    from scipy.stats import norm, t

    k, theirs = len(a), f1_by_label(y, b, classes)
    seen = np.array([float((f1_by_label(y, own, classes) - theirs).mean()) for own in a])
    # drawn apart from the verdict's own resamples, which so are the same with seeds and without
    f1 = label_f1(y, [*a, b], classes=classes, **how).mean(axis=-1)
    times = np.random.default_rng(how["seed"]).multinomial(k - 1, np.full(k, 1 / k), size=len(f1))
    gains = ((f1[:, :k] - f1[:, [k]]) * times).sum(axis=1) / (k - 1)
    of_seeds = float(seen.var(ddof=1)) / k
    if of_seeds > 0 and alpha < 0.5:
        freedom = (k - 1) * max(1.0, float(gains.var()) / of_seeds) ** 2
        wider *= float(t.ppf(1 - alpha, freedom) / norm.ppf(1 - alpha))
    low, middle, high = np.quantile(gains, [alpha, 0.5, 1 - alpha])
    gain, lower, upper = (round(float(seen.mean() + wider * (v - middle)), 12) for v in (middle, low, high))
    return {"gain": gain, "lower": lower, "upper": upper, "seeds": k}


def _recipe_said(v: Verdict, rule: Rule, min_gain: float) -> tuple[str, ...]:
    if v.recipe is None or v.lower is None:
        return ()
    said = f"its recipe gains {v.recipe['gain']:+.4f} on average over {v.recipe['seeds']} seeds"
    if rule == "point":
        return (said,)
    said += f", bounds {v.recipe['lower']:+.4f} to {v.recipe['upper']:+.4f} with the choice of the seed in them"
    lucky = v.recipe["lower"] <= min_gain < v.lower
    return (said + (": this model is better, and the next one trained like it may not be" if lucky else ""),)


def _said(v: Verdict, rule: Rule) -> str:
    """The gain and what bounds it, in words."""
    assert v.gain is not None and v.lower is not None and v.upper is not None and v.alpha is not None
    said = f"macro-F1 {v.gain:+.4f} against {v.opponent}, "
    if rule == "point":
        return said + "by the plain rule (promote.rule: point), which leaves chance out"
    said += f"{1 - v.alpha:.2%} one-sided bounds {v.lower:+.4f} to {v.upper:+.4f}"
    said += f" over {v.groups} groups" if v.groups else ""
    return said + (f" (verdict {v.look} on this test set)" if v.look > 1 else "")


def _worn(v: Verdict, rule: Rule) -> tuple[str, ...]:
    if rule == "point" or v.look < WORN:
        return ()
    return (
        f"this test set has decided {v.look} times and is worn out: give fresh rows (data.test, or a larger data.split.test)",
    )


def _advice(more: int | None, v: Verdict) -> str:
    if more is None:
        return "no number of rows decides at no difference"
    groups = f" of about {math.ceil(more * v.groups / v.rows)} more groups" if v.groups else ""
    return (
        f"about {more} more test rows{groups} would decide, drawn at random: rows chosen because a model finds them hard "
        f"make a biased test"
    )


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
