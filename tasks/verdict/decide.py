"""Decide whether a challenger is better than its opponent: pure arithmetic on their answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tasks.labels import encode, labels_in, unknown_labels
from tasks.statistics.bootstrap import Bootstrap, group_codes
from tasks.statistics.permutation import permutation_p_value
from tasks.verdict.effect_size import (
    Bounds,
    EncodedAnswers,
    F1Change,
    bound_gain,
    change_by_label,
    change_by_slice,
    mcnemar,
    recipe_gain,
    rows_to_decide,
)
from tasks.verdict.guardrails import Guarded, check_falls, check_limits
from tasks.verdict.model import Comparison, Policy, Resampling, Verdict, inconclusive
from tasks.verdict.reasons import describe_context, describe_gain, describe_missing_rows

RULE_VERSION = 1  # increase it whenever the same evidence could lead to another verdict
LEAST_GROUPS = 12  # with fewer groups, simulations promote more often than `alpha` allows


def alpha_spent(alpha: float, use: int) -> float:
    """What verdict number `use` (from 1) on one test set may spend of `alpha`: alpha / (use (use + 1)).

    The parts of all uses, however many, add up to `alpha`. So `alpha` bounds the chance that any of
    them promotes a model that is no better (alpha spending: Lan and DeMets 1983, here without a
    planned end).
    """
    return alpha / (use * (use + 1))


def decide(
    comparison: Comparison, policy: Policy, *, resampling: Resampling, use: int = 1
) -> Verdict:
    """Promote, keep or inconclusive, with the reasons, for the one model that would be promoted.

    Promote: the one-sided lower bound of the gain in macro-F1 is above `min_gain`, the permutation
    test is significant, no label or slice falls by more than its margin, and no measure is beyond its
    limit. Keep: the upper bound is not above `min_gain`, a label or slice falls significantly, or a
    limit is broken. Inconclusive: otherwise, or where rows, labels or measures are missing.

    Bounds come from a paired bootstrap (Berg-Kirkpatrick et al. 2012), at what `alpha_spent` leaves
    this use of the test set of 1 - `confidence`; the permutation test has the same level, because
    bounds alone are too narrow with few rows, rare labels or few errors. With the rule `point` both
    bounds are the observed gain and nothing is tested, but the limits hold.
    """
    c = comparison
    if fault := _find_fault(c, policy):
        return inconclusive(fault, c.opponent_name, len(c.true))
    bootstrap = Bootstrap(resampling.samples, resampling.seed, group_codes(c.groups))
    codes = (encode(labels, c.labels) for labels in (c.true, c.challenger, c.opponent))
    answers = EncodedAnswers(c.labels, *codes)
    labels = change_by_label(answers, bootstrap)
    slices = change_by_slice(answers, bootstrap, c.slices)
    alpha = 0.5 if policy.rule == "point" else alpha_spent(1 - policy.confidence, use)
    bounds = bound_gain(list(labels.values()), alpha, bootstrap.widening(alpha))
    if not all(map(math.isfinite, (bounds.gain, bounds.lower, bounds.upper))):
        reason = "the gain in macro-F1 is not a finite number"
        return inconclusive(reason, c.opponent_name, len(c.true))
    verdict = _with_numbers(c, answers, bootstrap, bounds).but(
        use=use,
        labels=_observed(labels),
        slices=_observed(slices) or None,
        permutation_p=_permutation_p(answers, bootstrap, bounds, policy),
    )
    return _conclude(verdict, bounds, _guarded(labels, slices, policy), policy)


def _with_numbers(
    c: Comparison, answers: EncodedAnswers, bootstrap: Bootstrap, bounds: Bounds
) -> Verdict:
    won, lost, mcnemar_p = mcnemar(answers)
    seeds = [encode(labels, c.labels) for labels in c.seeds]
    return Verdict(
        decision="inconclusive",
        reasons=(),
        opponent=c.opponent_name,
        gain=bounds.gain,
        lower=bounds.lower,
        upper=bounds.upper,
        alpha=bounds.alpha,
        rows=len(c.true),
        won=won,
        lost=lost,
        mcnemar_p=mcnemar_p,
        groups=bootstrap.group_count,
        measures=dict(c.measures) or None,
        recipe=recipe_gain(answers, seeds, bootstrap, bounds) if len(seeds) > 1 else None,
    )


def _find_fault(c: Comparison, policy: Policy) -> str | None:
    """Why these answers cannot be judged, or None."""
    n, answers = len(c.true), (c.challenger, c.opponent, *c.seeds)
    if n == 0 or any(len(labels) != n for labels in answers):
        counts = " and ".join(str(len(labels)) for labels in answers)
        return f"{n} test rows but {counts} answers: the models cannot be compared"
    present = labels_in(c.true)
    if absent := [label for label in c.labels if label not in present]:
        return f"no test row has the label {', '.join(map(repr, absent))}: macro-F1 is undefined"
    if unknown := unknown_labels(c.true, c.labels):
        names = ", ".join(map(repr, sorted(unknown)))
        return f"test rows have labels that the project lacks ({names}): macro-F1 is undefined"
    if any(c.groups) and len(c.groups) != n:
        return f"{n} test rows but {len(c.groups)} group names: the models cannot be compared"
    groups = Bootstrap(0, 0, group_codes(c.groups)).group_count
    if groups is not None and groups < LEAST_GROUPS and policy.rule == "bounds":
        return (
            f"the {n} test rows come from {groups} groups (data.group_column), and a verdict needs "
            f"at least {LEAST_GROUPS}: add test rows from other groups"
        )
    return None


def _observed(changes: Mapping[str, F1Change]) -> dict[str, float]:
    return {name: round(change.observed, 12) for name, change in changes.items()}


def _permutation_p(
    answers: EncodedAnswers, bootstrap: Bootstrap, bounds: Bounds, policy: Policy
) -> float | None:
    if policy.rule == "point":
        return None
    return permutation_p_value(
        answers.true,
        answers.challenger,
        answers.opponent,
        classes=len(answers.labels),
        alpha=bounds.alpha,
        seed=bootstrap.seed,
        groups=bootstrap.groups,
    )


def _guarded(
    labels: Mapping[str, F1Change], slices: Mapping[str, F1Change], policy: Policy
) -> list[Guarded]:
    guarded = []
    if policy.label_margin is not None:
        margin = policy.label_margin
        guarded += [Guarded(f"F1 of {k!r}", "label_f1", margin, f) for k, f in labels.items()]
    if policy.slice_margin is not None:
        margin = policy.slice_margin
        guarded += [
            Guarded(f"macro-F1 of the slice {k!r}", "slice_f1", margin, f)
            for k, f in slices.items()
        ]
    return guarded


def _conclude(v: Verdict, bounds: Bounds, guarded: Sequence[Guarded], policy: Policy) -> Verdict:
    """The verdict with the decision that follows from its numbers, and the reasons."""
    broken, unknown = check_limits(v.measures or {}, policy.limits)
    gain, context = describe_gain(v, bounds, policy), describe_context(v, bounds, policy)
    least = f"promote.min_gain {policy.min_gain}"
    lower, upper = ("gain", "gain") if policy.rule == "point" else ("lower bound", "upper bound")
    if bounds.upper <= policy.min_gain:
        why = f"{gain}: the {upper} is not above {least}"
        return v.but(decision="keep", reasons=(why, *context))
    why = f"{gain}: {least} lies between the bounds"
    if bounds.lower > policy.min_gain:
        why = f"{gain}: the {lower} is above {least}"
        if v.permutation_p is None or v.permutation_p <= bounds.alpha:
            decision, falls = check_falls(guarded, alpha=bounds.alpha, widening=bounds.widening)
            if unknown and decision == "promote":
                decision = "inconclusive"
            decision = "keep" if broken else decision
            reasons = (why, *broken, *falls, *unknown, *context)
            return v.but(decision=decision, reasons=reasons)
        why += f", but the permutation test is not significant at the {bounds.alpha:.2%} level"
    distance, deviation = bounds.gain - policy.min_gain, bounds.deviation * bounds.widening
    v = v.but(more_rows=rows_to_decide(v.rows, distance, deviation, 1 - bounds.alpha))
    reasons = (f"{why}; {describe_missing_rows(v)}", *broken, *unknown, *context)
    return v.but(decision="keep" if broken else "inconclusive", reasons=reasons)
