"""What a gain in macro-F1 does not excuse: a label or slice that falls, a measure beyond its limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.project import Limits
from tasks.verdict.effect_size import F1Change
from tasks.verdict.model import Decision, MeasurePair


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure with a limit in `promote.limits`, on a ratio or on a rise. Less is better."""

    key: str
    name: str
    ratio: bool


MEASURES = {
    "ece": Measure("ece", "expected calibration error", ratio=False),
    "latency_p95_ms": Measure("latency", "95th percentile of latency in ms", ratio=True),
    "bundle_mb": Measure("size", "size of the bundle in MB", ratio=True),
    "flip_rate": Measure("robustness", "share of answers that small changes flip", ratio=False),
}


@dataclass(frozen=True, slots=True)
class Guarded:
    """A change in F1 that `promote.limits.<key>` bounds: it may fall by `margin`."""

    name: str
    key: str
    margin: float
    change: F1Change


def limits_by_measure(limits: Limits) -> dict[str, float]:
    """The limits of MEASURES that the project sets."""
    values = {name: getattr(limits, m.key) for name, m in MEASURES.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def check_limits(
    measures: Mapping[str, MeasurePair], limits: Mapping[str, float]
) -> tuple[list[str], list[str]]:
    """A sentence for each limit that is broken, and for each whose measure is unknown.

    Raises ValueError for a limit on something that is not in MEASURES.
    """
    broken, unknown = [], []
    for name, most in limits.items():
        if name not in MEASURES:
            raise ValueError(
                f"{name!r} is no measure with a limit: use one of {', '.join(MEASURES)}"
            )
        m, limit = MEASURES[name], f"promote.limits.{MEASURES[name].key} {most}"
        mine, theirs = (_finite(value) for value in measures.get(name, (None, None)))
        if mine is None or theirs is None or (m.ratio and theirs <= 0):
            unknown.append(
                f"{m.name} is unknown (challenger {_text(mine)}, champion {_text(theirs)}), so "
                f"{limit} cannot be checked: set it to null to judge without it"
            )
            continue
        worse = mine / theirs if m.ratio else mine - theirs
        if worse > most + 1e-12:
            change = f"a ratio of {worse:.2f}" if m.ratio else f"a rise of {worse:.4f}"
            broken.append(f"{m.name} {mine:.4f} against {theirs:.4f}: {change}, above {limit}")
    return broken, unknown


def check_falls(
    guarded: Sequence[Guarded], *, alpha: float, widening: float
) -> tuple[Decision, list[str]]:
    """Promote where nothing falls by more than its margin, with a sentence for each fall.

    Keep where a fall is significant at `alpha` for all together (Holm 1979), else inconclusive.
    `widening` is the factor of the resamples' spread for few groups.
    """
    below = [g.change.observed < -g.margin for g in guarded]
    if not any(below):
        return "promote", []
    # if it fell by the margin and no more, how often would as large a fall be observed
    p = []
    for g in guarded:
        spread = (g.change.drawn - np.median(g.change.drawn)) * widening
        p.append(float((spread - g.margin <= g.change.observed).mean()))
    certain, left = set(), len(guarded)
    for k in np.argsort(p, kind="stable"):
        if p[k] * left > alpha:
            break
        certain.add(int(k))
        left -= 1
    reasons = [
        f"{g.name} {g.change.observed:+.4f}: it {'fell' if k in certain else 'may have fallen'} by "
        f"more than promote.limits.{g.key} {g.margin}"
        for k, g in enumerate(guarded)
        if below[k]
    ]
    return ("keep" if any(below[k] for k in certain) else "inconclusive"), reasons


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
