"""What a verdict is decided from, and the verdict itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from tasks.figures import Figures
from tasks.records import Label

Decision = Literal["promote", "keep", "inconclusive"]
Rule = Literal["bounds", "point"]
MeasurePair = tuple[float | None, float | None]  # the challenger's and the opponent's figure


class RecipeGain(Figures):
    """The mean gain of one model per seed, with bounds that include the choice of the seed."""

    gain: float
    lower: float
    upper: float
    seeds: int


class Verdict(Figures):
    """The decision with every number that led to it.

    `gain` is challenger minus opponent in macro-F1, `lower` and `upper` its bounds; `use` counts
    verdicts on this test set, `alpha` is the chance of a wrong promotion that this one may spend.
    `won` and `lost` are the rows that one model alone has right, `mcnemar_p` the p-value of McNemar's
    exact test, `permutation_p` that of the permutation test. `labels` is each label's gain in F1,
    `slices` that of the judged slices in macro-F1, `measures` both models' figures, challenger first.
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
    measures: dict[str, MeasurePair] | None = None
    recipe: RecipeGain | None = None
    permutation_p: float | None = None

    def but(self, **changes: object) -> Verdict:
        """This verdict with some fields replaced."""
        return self.model_copy(update=changes)


def inconclusive(reason: str, opponent: str, rows: int = 0) -> Verdict:
    """A verdict without numbers."""
    return Verdict(decision="inconclusive", reasons=(reason,), opponent=opponent, rows=rows)


class Policy(Figures):
    """What a challenger must do to be promoted: the section `promote` of a project file.

    `label_margin` and `slice_margin` are the tolerated falls in F1 (None: any); `limits` is the limit
    of each measure in tasks/verdict/guardrails.py.
    """

    min_gain: float = 0.0
    confidence: float = 0.95
    rule: Rule = "bounds"
    label_margin: float | None = None
    slice_margin: float | None = None
    limits: Mapping[str, float] = Field(default_factory=dict)


class Resampling(Figures):
    """The number of bootstrap resamples, and the seed of everything that is drawn."""

    samples: int = 5000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models' answers to the same test rows: labels, or label sets.

    `groups` is the group of each row or None; `slices` is the rows of each judged slice, by position;
    `measures` is both models' figures, challenger first; `seeds` is the answers of the challenger's
    recipe, trained with each of several seeds.
    """

    labels: list[str]
    true: Sequence[Label]
    challenger: Sequence[Label]
    opponent: Sequence[Label]
    opponent_name: str
    groups: Sequence[str | None] = ()
    slices: Mapping[str, Sequence[int]] = field(default_factory=dict)
    measures: Mapping[str, MeasurePair] = field(default_factory=dict)
    seeds: Sequence[Sequence[Label]] = ()
