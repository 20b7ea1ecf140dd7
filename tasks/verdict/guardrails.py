"""What a better macro-F1 does not excuse: a label or a slice that falls, and a measure that gets worse than a limit allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.evaluate.score import ScoreResult
from tasks.project import Limits

Decision = Literal["promote", "keep", "inconclusive"]
Pairs = Mapping[
    str, Sequence[float | None]
]  # a measure's name: what the challenger has, and what the champion has


@dataclass(frozen=True, slots=True)
class Figure:
    """One F1 that may not fall by more than `margin` (None: it may): the difference `seen`, and in each resample, shape
    (samples,)."""

    name: str
    key: str
    margin: float | None
    seen: float
    drawn: np.ndarray


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure with a limit: `key` of promote.limits, and whether the limit is a number of times or a rise. Less is better."""

    key: str
    name: str
    times: bool


MEASURES = {
    "ece": Measure("ece", "expected calibration error", times=False),
    "latency_p95_ms": Measure("latency", "95th percentile of latency in ms", times=True),
    "bundle_mb": Measure("size", "size of the bundle in MB", times=True),
    "flip_rate": Measure("robustness", "share of answers that small changes flip", times=False),
}


def measures(
    challenger: ScoreResult, champion: ScoreResult
) -> dict[str, tuple[float | None, float | None]]:
    """What two evaluations say of each of MEASURES, challenger first; None where one has no finite figure."""

    def ece(scored: ScoreResult) -> float | None:
        return _finite(scored.calibration.ece) if scored.calibration else None

    return {"ece": (ece(challenger), ece(champion))}


def limits_of(limits: Limits) -> dict[str, float]:
    """The limits of MEASURES that the project sets, by the measures' names."""
    given = {name: getattr(limits, m.key) for name, m in MEASURES.items()}
    return {name: float(value) for name, value in given.items() if value is not None}


def over_limits(
    pairs: Pairs, limits: Mapping[str, float]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A sentence for each limit that is broken, and one for each whose measure is not known: unsure is not yes.

    Raises ValueError for a limit on something that is none of MEASURES.
    """
    broken, unknown = [], []
    for name, most in limits.items():
        if name not in MEASURES:
            raise ValueError(
                f"{name!r} is no measure with a limit: use one of {', '.join(MEASURES)}"
            )
        m = MEASURES[name]
        limit = f"promote.limits.{m.key} {most}"
        mine, theirs = (_finite(v) for v in pairs.get(name) or (None, None))
        if mine is None or theirs is None or (m.times and theirs <= 0):
            had = f"challenger {_said(mine)}, champion {_said(theirs)}"
            unknown.append(
                f"{m.name} is unknown ({had}), so {limit} cannot be checked: set it to null to "
                f"judge without it"
            )
            continue
        worse = mine / theirs if m.times else mine - theirs
        if worse > most + 1e-12:
            change = f"a ratio of {worse:.2f}" if m.times else f"a rise of {worse:.4f}"
            broken.append(f"{m.name} {mine:.4f} against {theirs:.4f}: {change}, above {limit}")
    return tuple(broken), tuple(unknown)


def none_falls(
    figures: Sequence[Figure], *, alpha: float, stretch: float = 1.0
) -> tuple[Decision, tuple[str, ...]]:
    """Promote where no figure falls by more than its margin; keep where one surely does, at `alpha` for all figures together (Holm
    1979); inconclusive where one seems to. `stretch` widens what the resamples spread."""
    judged = [(f, f.margin) for f in figures if f.margin is not None]
    below = [f.seen < -margin for f, margin in judged]
    if not any(below):
        return "promote", ()
    # under "it falls by the margin, no more", how often would it be seen to fall as far as it did
    p = [
        float(((f.drawn - np.median(f.drawn)) * stretch - margin <= f.seen).mean())
        for f, margin in judged
    ]
    sure, left = set(), len(judged)
    for k in np.argsort(p, kind="stable"):
        if p[k] * left > alpha:
            break
        sure.add(int(k))
        left -= 1
    reasons = tuple(
        f"{f.name} {f.seen:+.4f}: it {'fell' if k in sure else 'may have fallen'} by more than "
        f"promote.limits.{f.key} {margin}"
        for k, (f, margin) in enumerate(judged)
        if below[k]
    )
    return ("keep" if any(below[k] for k in sure) else "inconclusive"), reasons


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _said(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
