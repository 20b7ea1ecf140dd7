"""Proportions with their intervals."""

from __future__ import annotations

from tasks.figures import Figures


class Proportion(Figures):
    """A proportion with its 95% interval (Wilson 1927); all None of nothing."""

    value: float | None
    ci_low: float | None
    ci_high: float | None


def proportion(k: int, n: int) -> Proportion:
    """`k` of `n` with its 95% interval (Wilson 1927)."""
    from scipy.stats import binomtest

    if not n:
        return Proportion(value=None, ci_low=None, ci_high=None)
    low, high = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    return Proportion(value=k / n, ci_low=float(low), ci_high=float(high))
