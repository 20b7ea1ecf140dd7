"""The challenger's gain in macro-F1 and how certain it is: bounds, and the rows that would decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.evaluate.slices import MIN_SLICE_ROWS
from tasks.statistics.bootstrap import Bootstrap
from tasks.statistics.metrics import f1_by_label, f1_of_present_labels
from tasks.verdict.model import RecipeGain

MOST_ROWS = 1_000_000  # more rows than anyone could label
TAIL = 10  # resamples needed beyond a quantile


@dataclass(frozen=True, slots=True)
class EncodedAnswers:
    """The true labels and both models' answers, as codes (tasks/labels.py) of `labels`."""

    labels: list[str]
    true: np.ndarray
    challenger: np.ndarray
    opponent: np.ndarray

    def of_rows(self, rows: np.ndarray) -> EncodedAnswers:
        """The same for some of the rows."""
        codes = (self.true, self.challenger, self.opponent)
        return EncodedAnswers(self.labels, *(c[rows] for c in codes))


@dataclass(frozen=True, slots=True)
class F1Change:
    """A change in F1: observed, and in each resample, shape (samples,)."""

    observed: float
    drawn: np.ndarray


@dataclass(frozen=True, slots=True)
class Bounds:
    """The gain in macro-F1 with one-sided bounds at `alpha` each.

    `deviation` is the standard deviation over resamples, `widening` the factor for few groups.
    """

    gain: float
    lower: float
    upper: float
    alpha: float
    deviation: float
    widening: float


def change_by_label(answers: EncodedAnswers, bootstrap: Bootstrap) -> dict[str, F1Change]:
    """The change in F1 of each label, in the order of the labels."""
    y, a, b, n = answers.true, answers.challenger, answers.opponent, len(answers.labels)
    observed = f1_by_label(y, a, n) - f1_by_label(y, b, n)
    f1 = bootstrap.label_f1(y, [a, b], classes=n)
    drawn = f1[:, 0] - f1[:, 1]
    return {k: F1Change(float(observed[i]), drawn[:, i]) for i, k in enumerate(answers.labels)}


def change_by_slice(
    answers: EncodedAnswers, bootstrap: Bootstrap, slices: Mapping[str, Sequence[int]]
) -> dict[str, F1Change]:
    """The change in macro-F1, over the labels that occur, of each slice of MIN_SLICE_ROWS and more."""
    changes = {}
    for name, positions in slices.items():
        rows = np.array(sorted(positions), dtype=np.int64)
        if len(rows) < MIN_SLICE_ROWS:
            continue
        part = answers.of_rows(rows)
        f1 = f1_of_present_labels(
            part.true, [part.challenger, part.opponent], bootstrap=bootstrap.of_rows(rows)
        )
        if f1 is not None:
            (mine, theirs), drawn = f1
            changes[name] = F1Change(float(mine - theirs), drawn[:, 0] - drawn[:, 1])
    return changes


def bound_gain(labels: Sequence[F1Change], alpha: float, widening: float) -> Bounds:
    """The gain in macro-F1, the mean of the labels' changes, with its bounds."""
    gains = np.stack([change.drawn for change in labels], axis=1).mean(axis=-1)
    gain = float(np.mean([change.observed for change in labels]))
    # rounded: a difference in the order of summation is no gain
    point, lower, upper = (
        round(v, 12) for v in (gain, *one_sided_bounds(gain, gains, alpha, widening))
    )
    return Bounds(point, lower, upper, alpha, float(gains.std()), widening)


def one_sided_bounds(
    gain: float, gains: np.ndarray, alpha: float, widening: float
) -> tuple[float, float]:
    """The bounds of `gain` at `alpha` each, from the `gains` of resamples.

    Of the percentiles and the percentiles centred on `gain`, those further out. Where fewer than TAIL
    resamples lie beyond a quantile, it is extrapolated from a nearer one as a normal tail.
    """
    from scipy.stats import norm

    if alpha >= 0.5:
        return gain, gain
    level = min(0.25, max(alpha, TAIL / len(gains)))
    low, middle, high = (float(q) for q in np.quantile(gains, [level, 0.5, 1 - level]))
    widening *= float(norm.ppf(alpha) / norm.ppf(level)) if level > alpha else 1.0
    lower = min(gain, middle) + widening * (low - middle)
    return lower, max(gain, middle) + widening * (high - middle)


def recipe_gain(
    answers: EncodedAnswers, seeds: Sequence[np.ndarray], bootstrap: Bootstrap, bounds: Bounds
) -> RecipeGain:
    """The mean gain over the opponent of the models of a recipe, one per seed, with bounds.

    `bounds` are those of the model that would be promoted.

    Rows are resampled and, nested in them, seeds: one fewer than there are, which gives the mean its
    right spread (Rao and Wu 1988, "Resampling inference with complex survey data"). Bounds use
    Student's t with Satterthwaite's (1946) degrees of freedom for the sum of both variances.
    """
    from scipy.stats import norm, t

    alpha, widening = bounds.alpha, bounds.widening
    k, y, n = len(seeds), answers.true, len(answers.labels)
    opponent = f1_by_label(y, answers.opponent, n)
    observed = np.array([float((f1_by_label(y, z, n) - opponent).mean()) for z in seeds])
    # drawn apart from the verdict's own resamples, which are so the same with and without seeds
    f1 = bootstrap.macro_f1(y, [*seeds, answers.opponent], classes=n)
    rng = np.random.default_rng(bootstrap.seed)
    times = rng.multinomial(k - 1, np.full(k, 1 / k), size=len(f1))
    gains = ((f1[:, :k] - f1[:, [k]]) * times).sum(axis=1) / (k - 1)
    variance = float(observed.var(ddof=1)) / k
    if variance > 0 and alpha < 0.5:
        freedom = (k - 1) * max(1.0, float(gains.var()) / variance) ** 2
        widening *= float(t.ppf(1 - alpha, freedom) / norm.ppf(1 - alpha))
    mean = float(observed.mean())
    lower, upper = one_sided_bounds(mean, gains, alpha, widening)
    return RecipeGain(gain=round(mean, 12), lower=round(lower, 12), upper=round(upper, 12), seeds=k)


def mcnemar(answers: EncodedAnswers) -> tuple[int, int, float]:
    """The rows that the challenger, and the opponent, alone has right, and McNemar's exact p-value."""
    from scipy.stats import binomtest

    a, b = (z == answers.true for z in (answers.challenger, answers.opponent))
    if answers.true.ndim == 2:
        a, b = a.all(axis=1), b.all(axis=1)
    won, lost = int((a & ~b).sum()), int((b & ~a).sum())
    return won, lost, round(float(binomtest(won, won + lost).pvalue), 12) if won + lost else 1.0


def rows_to_decide(n: int, distance: float, deviation: float, confidence: float) -> int | None:
    """Rows beyond `n` at which the bound would reach `min_gain`; None above MOST_ROWS.

    `distance` is that of the gain from `min_gain`; the width of the bound falls with the square root
    of the rows.
    """
    from scipy.stats import norm

    if abs(distance) < 1e-9:
        return None
    more = n * (norm.ppf(confidence) * deviation / distance) ** 2 - n
    return None if more > MOST_ROWS else max(1, math.ceil(more))
