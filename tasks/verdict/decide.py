"""Decide whether a challenger is better than its opponent: pure arithmetic on their answers to the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from tasks.labels import encode, labels_in, unknown_labels
from tasks.records import Label
from tasks.statistics.bootstrap import LEAST_GROUPS, group_codes, label_f1, stretch
from tasks.statistics.metrics import f1_by_label, f1_in
from tasks.statistics.permutation import p_value
from tasks.verdict.effect_size import bounds_of, mcnemar, more_rows, of_recipe
from tasks.verdict.guardrails import LEAST_ROWS, Decision, Figure, Pairs, none_falls, over_limits

Rule = Literal["bounds", "point"]
# left out where they say nothing, as in older evidence
LATER = ("slices", "groups", "measures", "recipe", "permutation_p")
WORN = 10  # verdicts on one test set, from which on it is said to be worn out


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision with every number that led to it. `gain` is challenger minus opponent in macro-F1, `alpha` the chance
    of a wrong promotion that this look was given, `won` and `lost` the rows that one model alone has right, with the
    p-value of McNemar's exact test, `permutation_p` that of the one-sided permutation test of the gain, `labels` each label's gain
    in F1, `slices` that of the judged slices in macro-F1, `groups` how many groups the rows are of, `measures` what both models have
    of what is limited, challenger first, and `recipe` the mean gain of the models of all `seeds` with the bounds that their
    differences widen."""

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
    permutation_p: float | None = None

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
    """Promote when the one-sided lower bound of the gain is above `min_gain`, chance alone does not give as much, no label falls by
    more than `label_margin` in F1, no slice by more than `slice_margin` in the macro-F1 of its labels, and no measure is beyond its
    limit; keep when the upper bound is not above `min_gain`, a label or slice surely falls, or a limit is broken; inconclusive
    between, or when rows, classes or measures are missing. Answers are labels, or label sets.

    `slices` holds the rows of each slice by their places; one with fewer than LEAST_ROWS is left out. `measures` and `limits` are
    those of tasks/verdict/guardrails.py. The bounds come from a paired bootstrap (Berg-Kirkpatrick et al. 2012; stratified by label; of
    label sets plain; of whole groups where `groups` names them, a row without a name alone), at what `spent` leaves this look of 1 -
    `confidence`; at the same level a permutation test must tell the gain from chance (tasks/statistics/permutation.py): with few rows,
    rare labels or few errors the bounds alone are too narrow. With the rule `point` both bounds are the observed gain itself and
    nothing is tested: the plain `its F1 is higher`, whatever chance had to do with it; the limits hold all the same.

    `seeds` holds the answers of the challenger's recipe trained with each of several seeds. The verdict is on the one model that
    would be promoted; what the recipe gains whichever seed it is trained with is said beside it.
    """
    n, alpha = len(true), 0.5 if rule == "point" else spent(1 - confidence, look)
    if fault := _not_comparable(true, challenger, opponent, *seeds, labels=labels, groups=groups):
        return unsure(fault, opponent_name, n)
    y, a, b, *of_seeds = (encode(answers, labels) for answers in (true, challenger, opponent, *seeds))
    together = group_codes(groups)
    many = None if together is None else int(together.max()) + 1
    if many is not None and many < LEAST_GROUPS and rule == "bounds":
        fault = f"the {n} test rows are of {many} groups (data.group_column), and fewer than {LEAST_GROUPS} say too little of others"
        return unsure(f"{fault}: add rows of other groups", opponent_name, n)
    wider = stretch(together, alpha)
    how: dict[str, Any] = {"samples": samples, "seed": seed, "groups": together}
    of_labels = _label_figures(y, a, b, labels, label_margin, how)
    of_slices = _slice_figures(y, a, b, slices or {}, slice_margin, how)
    bounds = bounds_of(of_labels, alpha, wider)
    if not all(map(math.isfinite, (bounds.gain, bounds.lower, bounds.upper))):
        return unsure("the gain is not a number", opponent_name, n)
    won, lost, p = mcnemar(y, a, b)
    test: dict[str, Any] = {"classes": len(labels), "alpha": alpha, "seed": seed, "groups": together}
    by_chance = None if rule == "point" else p_value(y, a, b, **test)
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
        recipe=of_recipe(y, of_seeds, b, alpha, wider, len(labels), how) if len(of_seeds) > 1 else None,
        permutation_p=by_chance,
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
    above = f"{said}: above promote.min_gain {min_gain}"
    by_chance = v.permutation_p is not None and v.permutation_p > v.alpha
    if v.lower > min_gain and not by_chance:
        decision, reasons = none_falls(figures, alpha=v.alpha, stretch=wider)
        decision = "keep" if broken else "inconclusive" if unknown and decision == "promote" else decision
        return replace(v, decision=decision, reasons=(above, *broken, *reasons, *unknown, *beside))
    why = f"{said}: promote.min_gain {min_gain} lies between"
    if v.lower > min_gain:
        why = f"{above}, but more than {v.alpha:.2%} of swaps between two equals give as much by chance"
    more = more_rows(v.rows, v.gain - min_gain, deviation * wider, 1 - v.alpha)
    decision = "keep" if broken else "inconclusive"
    return replace(
        v, decision=decision, reasons=(f"{why}; {_advice(more, v)}", *broken, *unknown, *beside), more_rows=more
    )


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
    there = labels_in(true)
    absent = [label for label in labels if label not in there]
    if absent:
        return f"no test row of {', '.join(map(repr, absent))}: macro-F1 is not known"
    if unknown_labels(true, labels):
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
    said += (
        f"{1 - v.alpha:.2%} one-sided bounds {v.lower:+.4f} to {v.upper:+.4f}, permutation test p {v.permutation_p:.2g}"
    )
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
        return "no number of rows that can be had would decide"
    groups = f" of about {math.ceil(more * v.groups / v.rows)} more groups" if v.groups else ""
    return (
        f"about {more} more test rows{groups} would decide, drawn at random: rows chosen because a model finds them hard "
        f"make a biased test"
    )
