"""What a challenger gains in macro-F1 and how sure that is: its bounds, its recipe's gain, and the rows that would do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tasks.figures import Figures
from tasks.statistics.bootstrap import label_f1
from tasks.statistics.metrics import f1_by_label
from tasks.verdict.guardrails import Figure

MANY = 1_000_000  # rows
TAIL = 10  # resamples beyond a quantile, below which it is drawn out from one that has as many


@dataclass(frozen=True, slots=True)
class Draws:
    """How resamples are drawn: how many, the seed, and the index of each row's group where rows have groups."""

    samples: int
    seed: int
    groups: np.ndarray | None


class RecipeGain(Figures):
    """The mean gain of the models of all seeds, with bounds that the differences between seeds widen."""

    gain: float
    lower: float
    upper: float
    seeds: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """The gain in macro-F1, its one-sided bounds, and its deviation from resample to resample."""

    gain: float
    lower: float
    upper: float
    deviation: float


def bounds_of(of_labels: list[Figure], alpha: float, wider: float) -> Bounds:
    """The gain of the mean of the labels' F1, bounded as `one_sided` says; `wider` is bootstrap.py's `stretch`."""
    gains = np.stack([f.drawn for f in of_labels], axis=1).mean(axis=-1)
    gain = float(np.mean([f.seen for f in of_labels]))
    # rounded: a difference in the order of summation is no gain
    point, lower, upper = (round(v, 12) for v in (gain, *one_sided(gain, gains, alpha, wider)))
    return Bounds(point, lower, upper, float(gains.std()))


def one_sided(gain: float, gains: np.ndarray, alpha: float, wider: float) -> tuple[float, float]:
    """The bounds of `gain` at `alpha` each, from the `gains` of resamples: of the percentiles, and the same centred on `gain`, those
    further out. Where too few resamples lie beyond a quantile it is drawn out from a nearer one as a normal tail would be."""
    from scipy.stats import norm

    if alpha >= 0.5:
        return gain, gain
    level = min(0.25, max(alpha, TAIL / len(gains)))
    low, middle, high = (float(q) for q in np.quantile(gains, [level, 0.5, 1 - level]))
    wider *= float(norm.ppf(alpha) / norm.ppf(level)) if level > alpha else 1.0
    return min(gain, middle) + wider * (low - middle), max(gain, middle) + wider * (high - middle)


def of_recipe(
    y: np.ndarray,
    a: list[np.ndarray],
    b: np.ndarray,
    alpha: float,
    wider: float,
    classes: int,
    draws: Draws,
) -> RecipeGain:
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
    f1 = label_f1(
        y, [*a, b], classes=classes, samples=draws.samples, seed=draws.seed, groups=draws.groups
    ).mean(axis=-1)
    times = np.random.default_rng(draws.seed).multinomial(k - 1, np.full(k, 1 / k), size=len(f1))
    gains = ((f1[:, :k] - f1[:, [k]]) * times).sum(axis=1) / (k - 1)
    of_seeds = float(seen.var(ddof=1)) / k
    if of_seeds > 0 and alpha < 0.5:
        freedom = (k - 1) * max(1.0, float(gains.var()) / of_seeds) ** 2
        wider *= float(t.ppf(1 - alpha, freedom) / norm.ppf(1 - alpha))
    mean = float(seen.mean())
    gain, lower, upper = (round(v, 12) for v in (mean, *one_sided(mean, gains, alpha, wider)))
    return RecipeGain(gain=gain, lower=lower, upper=upper, seeds=k)


def mcnemar(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """Rows that the challenger alone has right, rows that the opponent alone has, and McNemar's exact two-sided p-value."""
    from scipy.stats import binomtest

    right_a, right_b = ((y == z) if y.ndim == 1 else (y == z).all(axis=1) for z in (a, b))
    won, lost = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return won, lost, round(float(binomtest(won, won + lost).pvalue), 12) if won + lost else 1.0


def more_rows(n: int, distance: float, deviation: float, confidence: float) -> int | None:
    """Rows beyond `n` at which the bound would reach `min_gain`, its width falling with the root of the rows; None where nobody
    could label as many (MANY)."""
    from scipy.stats import norm

    if abs(distance) < 1e-9:
        return None
    more = n * (norm.ppf(confidence) * deviation / distance) ** 2 - n
    return None if more > MANY else max(1, math.ceil(more))
