"""The sentences of a verdict. They are part of its evidence: another word needs another RULE_VERSION."""

from __future__ import annotations

import math

from tasks.verdict.effect_size import Bounds
from tasks.verdict.model import Policy, Verdict

REUSED = 10  # verdicts on one test set, from which on fresh rows are asked for


def describe_gain(v: Verdict, bounds: Bounds, policy: Policy) -> str:
    """The gain with its bounds and p-value."""
    gain = f"macro-F1 {bounds.gain:+.4f} against {v.opponent}, "
    if policy.rule == "point":
        return gain + "compared without bounds or a test (promote.rule: point)"
    gain += f"{1 - bounds.alpha:.2%} one-sided bounds {bounds.lower:+.4f} to {bounds.upper:+.4f}"
    gain += f" over {v.groups} groups" if v.groups else ""
    gain += f", permutation test p = {v.permutation_p:.2g}"
    return gain + (f" (verdict {v.use} on this test set)" if v.use > 1 else "")


def describe_missing_rows(v: Verdict) -> str:
    """How many more test rows would decide."""
    if v.more_rows is None:
        return "no feasible number of test rows would decide"
    groups = ""
    if v.groups:
        groups = f" from about {math.ceil(v.more_rows * v.groups / v.rows)} more groups"
    return (
        f"about {v.more_rows} more test rows{groups} would decide: draw them at random, because rows "
        f"chosen as hard for a model make a biased test set"
    )


def describe_context(v: Verdict, bounds: Bounds, policy: Policy) -> list[str]:
    """The recipe's gain, and a request for fresh rows where the test set was used often."""
    sentences = []
    if v.recipe is not None:
        recipe = f"the recipe's mean gain over {v.recipe.seeds} seeds is {v.recipe.gain:+.4f}"
        if policy.rule == "bounds":
            ends = f"{v.recipe.lower:+.4f} to {v.recipe.upper:+.4f}"
            recipe += f" (bounds {ends}, seed choice included)"
            if v.recipe.lower <= policy.min_gain < bounds.lower:
                recipe += ": this model is better, but the next one trained the same way may not be"
        sentences.append(recipe)
    if policy.rule == "bounds" and v.use >= REUSED:
        sentences.append(
            f"this test set has been used for {v.use} verdicts: provide fresh test rows (data.test, "
            f"or a larger data.split.test)"
        )
    return sentences
