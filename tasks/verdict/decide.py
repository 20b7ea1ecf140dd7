"""Decide whether a challenger is better than its opponent: pure arithmetic on their answers to the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field

from tasks.evaluate.slices import LEAST_ROWS
from tasks.figures import Figures
from tasks.labels import encode, labels_in, unknown_labels
from tasks.records import Label
from tasks.statistics.bootstrap import LEAST_GROUPS, group_codes, label_f1, stretch
from tasks.statistics.metrics import f1_by_label, f1_in
from tasks.statistics.permutation import p_value
from tasks.verdict.effect_size import Draws, RecipeGain, bounds_of, mcnemar, more_rows, of_recipe
from tasks.verdict.guardrails import Decision, Figure, Pairs, none_falls, over_limits

Rule = Literal["bounds", "point"]
RULE_VERSION = 1  # increase it whenever the same evidence could lead to another verdict
WORN = 10  # verdicts on one test set, from which on it is said to be worn out


class Verdict(Figures):
    """The decision with every number that led to it.

    `gain` is challenger minus opponent in macro-F1; `use` the number of this verdict on the test set and
    `alpha` the chance of a wrong promotion that it may spend; `won` and `lost` the rows that one model
    alone has right, with the p-value of McNemar's exact test; `permutation_p` that of the one-sided
    permutation test of the gain; `labels` each label's gain in F1; `slices` that of the judged slices in
    macro-F1; `groups` how many groups the rows are of; `measures` what both models have of what is
    limited, challenger first.
    """

    decision: Decision
    reasons: tuple[str, ...]
    opponent: str
    gain: float | None = None
    lower: float | None = None
    upper: float | None = None
    rows: int = 0
    more_rows: int | None = None
    use: int = 1
    alpha: float | None = None
    won: int | None = None
    lost: int | None = None
    mcnemar_p: float | None = None
    labels: dict[str, float] | None = None
    slices: dict[str, float] | None = None
    groups: int | None = None
    measures: dict[str, tuple[float | None, float | None]] | None = None
    recipe: RecipeGain | None = None
    permutation_p: float | None = None

    def but(self, **changes: object) -> Verdict:
        """This verdict with some fields replaced."""
        return self.model_copy(update=changes)


class Policy(Figures):
    """What a challenger must do to be promoted, from the section `promote` of a project file.

    `label_margin` and `slice_margin` are the falls in F1 that are tolerated (None: any), `limits` those
    of tasks/verdict/guardrails.py by measure.
    """

    min_gain: float = 0.0
    confidence: float = 0.95
    rule: Rule = "bounds"
    label_margin: float | None = None
    slice_margin: float | None = None
    limits: Mapping[str, float] = Field(default_factory=dict)


class Resampling(Figures):
    """Resamples of the bootstrap, and the seed of everything that is drawn."""

    samples: int = 5000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models' answers to the same test rows: labels, or label sets.

    `opponent_name` is how the opponent is called; `groups` names each row's group, or None; `slices`
    holds the rows of each judged slice by position; `measures` both models' figures of what is limited,
    challenger first; `seeds` the answers of the challenger's recipe trained with each of several seeds.
    """

    labels: list[str]
    true: Sequence[Label]
    challenger: Sequence[Label]
    opponent: Sequence[Label]
    opponent_name: str
    groups: Sequence[str | None] = ()
    slices: Mapping[str, Sequence[int]] = field(default_factory=dict)
    measures: Pairs = field(default_factory=dict)
    seeds: Sequence[Sequence[Label]] = ()


def unsure(reason: str, opponent: str, rows: int = 0) -> Verdict:
    """Inconclusive, without numbers: unsure is not yes."""
    return Verdict(decision="inconclusive", reasons=(reason,), opponent=opponent, rows=rows)


def alpha_spent(alpha: float, use: int) -> float:
    """What the verdict number `use` (from 1) on one test set may spend of `alpha`: alpha / (use (use + 1)).

    The parts of all uses, however many, add up to `alpha`, so it bounds the chance that any of them promotes what is no
    better (alpha spending: Lan and DeMets 1983, here without a planned end).
    """
    return alpha / (use * (use + 1))


def decide(
    comparison: Comparison, policy: Policy, *, use: int = 1, resampling: Resampling | None = None
) -> Verdict:
    """Promote, keep or inconclusive, with the reasons.

    Promote when the one-sided lower bound of the gain is above `min_gain`, chance alone does not give
    as much, no label falls by more than `label_margin` in F1, no slice by more than `slice_margin` in
    the macro-F1 of its labels, and no measure is beyond its limit; keep when the upper bound is not
    above `min_gain`, a label or slice surely falls, or a limit is broken; inconclusive between, or when
    rows, classes or measures are missing. A slice with fewer than LEAST_ROWS rows is not judged.

    The bounds come from a paired bootstrap (Berg-Kirkpatrick et al. 2012; stratified by label; of label
    sets plain; of whole groups where rows have any, a row without a group alone), at what `alpha_spent`
    leaves this use of the test set of 1 - `confidence`; at the same level a permutation test must tell
    the gain from chance (tasks/statistics/permutation.py): with few rows, rare labels or few errors the
    bounds alone are too narrow. With the rule `point` both bounds are the observed gain itself and
    nothing is tested; the limits hold all the same.

    The verdict is on the one model that would be promoted; the gain of its recipe over several seeds is
    given beside it.
    """
    c, resampling = comparison, resampling or Resampling()
    n, alpha = (
        len(c.true),
        0.5 if policy.rule == "point" else alpha_spent(1 - policy.confidence, use),
    )
    if fault := _not_comparable(c):
        return unsure(fault, c.opponent_name, n)
    together = group_codes(c.groups)
    many = None if together is None else int(together.max()) + 1
    if many is not None and many < LEAST_GROUPS and policy.rule == "bounds":
        fault = (
            f"the {n} test rows come from {many} groups (data.group_column), and a verdict needs "
            f"at least {LEAST_GROUPS}: add test rows from other groups"
        )
        return unsure(fault, c.opponent_name, n)
    y, a, b, *of_seeds = (
        encode(answers, c.labels) for answers in (c.true, c.challenger, c.opponent, *c.seeds)
    )
    draws = Draws(samples=resampling.samples, seed=resampling.seed, groups=together)
    wider = stretch(together, alpha)
    of_labels = _label_figures(y, a, b, c.labels, policy.label_margin, draws)
    of_slices = _slice_figures(y, a, b, c.slices, policy.slice_margin, draws)
    bounds = bounds_of(of_labels, alpha, wider)
    if not all(map(math.isfinite, (bounds.gain, bounds.lower, bounds.upper))):
        return unsure("the gain in macro-F1 is not a finite number", c.opponent_name, n)
    won, lost, p = mcnemar(y, a, b)
    by_chance = None
    if policy.rule == "bounds":
        by_chance = p_value(
            y, a, b, classes=len(c.labels), alpha=alpha, seed=draws.seed, groups=together
        )
    verdict = Verdict(
        decision="inconclusive",
        reasons=(),
        opponent=c.opponent_name,
        gain=bounds.gain,
        lower=bounds.lower,
        upper=bounds.upper,
        rows=n,
        use=use,
        alpha=alpha,
        won=won,
        lost=lost,
        mcnemar_p=p,
        labels={label: round(f.seen, 12) for label, f in zip(c.labels, of_labels, strict=True)},
        slices={name: round(f.seen, 12) for name, f in of_slices.items()} or None,
        groups=many,
        measures={name: (ours, theirs) for name, (ours, theirs) in c.measures.items()} or None,
        recipe=of_recipe(y, of_seeds, b, alpha, wider, len(c.labels), draws)
        if len(of_seeds) > 1
        else None,
        permutation_p=by_chance,
    )
    over = over_limits(c.measures, policy.limits)
    figures = [*of_labels, *of_slices.values()]
    return _concluded(verdict, figures, over, policy, wider=wider, deviation=bounds.deviation)


def _concluded(
    v: Verdict,
    figures: list[Figure],
    over: tuple[tuple[str, ...], tuple[str, ...]],
    policy: Policy,
    *,
    wider: float,
    deviation: float,
) -> Verdict:
    """The verdict `v` with the decision that follows from its numbers, and the reasons. `over` are the limits that are broken and
    those that can't be checked, `deviation` that of the gain from resample to resample, before it is made `wider`."""
    assert (
        v.gain is not None and v.lower is not None and v.upper is not None and v.alpha is not None
    )
    min_gain, rule = policy.min_gain, policy.rule
    said, (broken, unknown) = _said(v, rule), over
    beside = (*_recipe_said(v, rule, min_gain), *_worn(v, rule))
    if v.upper <= min_gain:
        upper = "gain" if rule == "point" else "upper bound"
        why = f"{said}: the {upper} is not above promote.min_gain {min_gain}"
        return v.but(decision="keep", reasons=(why, *beside))
    lower = "gain" if rule == "point" else "lower bound"
    above = f"{said}: the {lower} is above promote.min_gain {min_gain}"
    by_chance = v.permutation_p is not None and v.permutation_p > v.alpha
    if v.lower > min_gain and not by_chance:
        decision, reasons = none_falls(figures, alpha=v.alpha, stretch=wider)
        decision = (
            "keep" if broken else "inconclusive" if unknown and decision == "promote" else decision
        )
        return v.but(decision=decision, reasons=(above, *broken, *reasons, *unknown, *beside))
    why = f"{said}: promote.min_gain {min_gain} lies between the bounds"
    if v.lower > min_gain:
        why = f"{above}, but the permutation test is not significant at the {v.alpha:.2%} level"
    more = more_rows(v.rows, v.gain - min_gain, deviation * wider, 1 - v.alpha)
    decision = "keep" if broken else "inconclusive"
    return v.but(
        decision=decision,
        reasons=(f"{why}; {_advice(more, v)}", *broken, *unknown, *beside),
        more_rows=more,
    )


def _not_comparable(c: Comparison) -> str | None:
    """Why nothing can be said of these answers, or None."""
    n, answers = len(c.true), (c.challenger, c.opponent, *c.seeds)
    if n == 0 or any(len(own) != n for own in answers):
        counts = " and ".join(str(len(own)) for own in answers)
        return f"{n} test rows but {counts} answers: the models cannot be compared"
    there = labels_in(c.true)
    absent = [label for label in c.labels if label not in there]
    if absent:
        return f"no test row has the label {', '.join(map(repr, absent))}: macro-F1 is undefined"
    if unknown := unknown_labels(c.true, c.labels):
        names = ", ".join(map(repr, sorted(unknown)))
        return f"test rows have labels that the project lacks ({names}): macro-F1 is undefined"
    if any(c.groups) and len(c.groups) != n:
        return f"{n} test rows but {len(c.groups)} group names: the models cannot be compared"
    return None


def _label_figures(
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    labels: list[str],
    margin: float | None,
    draws: Draws,
) -> list[Figure]:
    """What each label's F1 gains, in the order of `labels`, and in each resample."""
    n = len(labels)
    each = f1_by_label(y, a, n) - f1_by_label(y, b, n)
    drawn = label_f1(
        y, [a, b], classes=n, samples=draws.samples, seed=draws.seed, groups=draws.groups
    )
    drawn = drawn[:, 0] - drawn[:, 1]
    return [
        Figure(f"F1 of {k!r}", "label_f1", margin, float(each[i]), drawn[:, i])
        for i, k in enumerate(labels)
    ]


def _slice_figures(
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    slices: Mapping[str, Sequence[int]],
    margin: float | None,
    draws: Draws,
) -> dict[str, Figure]:
    """What the macro-F1 of each slice that is large enough gains, by its name."""
    found = {}
    for name, places in slices.items():
        own = np.array(sorted(places), dtype=np.int64)
        if len(own) < LEAST_ROWS:
            continue
        groups = None if draws.groups is None else draws.groups[own]
        f1 = f1_in(y[own], [a[own], b[own]], samples=draws.samples, seed=draws.seed, groups=groups)
        if f1 is not None:
            (mine, theirs), drawn = f1
            seen = float(mine - theirs)
            found[name] = Figure(
                f"macro-F1 of the slice {name!r}",
                "slice_f1",
                margin,
                seen,
                drawn[:, 0] - drawn[:, 1],
            )
    return found


def _recipe_said(v: Verdict, rule: Rule, min_gain: float) -> tuple[str, ...]:
    if v.recipe is None or v.lower is None:
        return ()
    said = f"the recipe's mean gain over {v.recipe.seeds} seeds is {v.recipe.gain:+.4f}"
    if rule == "point":
        return (said,)
    said += f" (bounds {v.recipe.lower:+.4f} to {v.recipe.upper:+.4f}, seed choice included)"
    lucky = v.recipe.lower <= min_gain < v.lower
    return (
        said
        + (
            ": this model is better, but the next one trained the same way may not be"
            if lucky
            else ""
        ),
    )


def _said(v: Verdict, rule: Rule) -> str:
    """The gain and what bounds it, in words."""
    assert (
        v.gain is not None and v.lower is not None and v.upper is not None and v.alpha is not None
    )
    said = f"macro-F1 {v.gain:+.4f} against {v.opponent}, "
    if rule == "point":
        return said + "compared without bounds or a test (promote.rule: point)"
    said += f"{1 - v.alpha:.2%} one-sided bounds {v.lower:+.4f} to {v.upper:+.4f}"
    said += f" over {v.groups} groups" if v.groups else ""
    said += f", permutation test p = {v.permutation_p:.2g}"
    return said + (f" (verdict {v.use} on this test set)" if v.use > 1 else "")


def _worn(v: Verdict, rule: Rule) -> tuple[str, ...]:
    if rule == "point" or v.use < WORN:
        return ()
    return (
        f"this test set has been used for {v.use} verdicts: provide fresh test rows (data.test, or "
        f"a larger data.split.test)",
    )


def _advice(more: int | None, v: Verdict) -> str:
    if more is None:
        return "no feasible number of test rows would decide"
    groups = f" from about {math.ceil(more * v.groups / v.rows)} more groups" if v.groups else ""
    return (
        f"about {more} more test rows{groups} would decide: draw them at random, because rows "
        f"chosen as hard for a model make a biased test set"
    )
