"""Several seeds beside the verdict: what the challenger's recipe gains, whichever seed it is trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.judging import LABELS, answers
from tasks.verdict.model import Verdict
from tests.kit.verdicts import verdict_on


def said(rng: np.random.Generator, true: np.ndarray, accuracy: float) -> list[str]:
    return answers(rng, true, accuracy, rng.random(len(true)))


def asked(
    rows: int, challenger: float, opponent: float, seeds: list[float], **options: Any
) -> tuple[Verdict, Verdict]:
    """The verdicts with and without the seeds' answers, of models with these accuracies."""
    rng = np.random.default_rng(1)
    true = rng.integers(0, len(LABELS), rows)
    names = [LABELS[k] for k in true]
    both = said(rng, true, challenger), said(rng, true, opponent)
    of_seeds = [said(rng, true, accuracy) for accuracy in seeds]
    options = {"labels": LABELS, "samples": 1000, **options}
    return verdict_on(names, *both, seeds=of_seeds, **options), verdict_on(names, *both, **options)


def test_the_verdict_is_on_the_model_and_seeds_stand_beside_it() -> None:
    beside, alone = asked(1000, 0.9, 0.8, [0.9, 0.82, 0.78, 0.74])
    assert beside.recipe is not None and alone.recipe is None
    assert beside.decision == alone.decision == "promote"
    assert (beside.gain, beside.lower, beside.upper, beside.labels) == (
        alone.gain,
        alone.lower,
        alone.upper,
        alone.labels,
    )
    assert beside.recipe.seeds == 4 and beside.recipe.lower < 0 < beside.recipe.upper
    assert (
        "over 4 seeds" in beside.reasons[-1]
        and "the next one trained the same way may not be" in beside.reasons[-1]
    )
    assert Verdict.model_validate_json(beside.model_dump_json()) == beside


def test_a_recipe_that_is_better_with_every_seed_is_said_to_be() -> None:
    v, _ = asked(1000, 0.9, 0.8, [0.9, 0.905, 0.895])
    assert v.recipe is not None and 0 < v.recipe.lower < v.recipe.gain < v.recipe.upper
    assert "may not be" not in v.reasons[-1]


def test_seeds_that_answer_alike_have_the_models_own_bounds() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, len(LABELS), 400)
    names, mine, theirs = [LABELS[k] for k in true], said(rng, true, 0.9), said(rng, true, 0.8)
    v = verdict_on(names, mine, theirs, labels=LABELS, seeds=[mine] * 3, samples=4000)
    assert v.recipe is not None and v.recipe.gain == pytest.approx(v.gain)
    assert v.recipe.lower == pytest.approx(v.lower, abs=0.005)
    assert v.recipe.upper == pytest.approx(v.upper, abs=0.005)


def test_one_seed_is_no_recipe_and_the_plain_rule_has_no_bounds() -> None:
    assert asked(300, 0.9, 0.8, [0.9])[0].recipe is None
    v, _ = asked(300, 0.9, 0.8, [0.9, 0.8], rule="point")
    assert v.recipe is not None and v.recipe.lower == v.recipe.gain == v.recipe.upper
    assert "bounds" not in v.reasons[-1]


def test_seeds_that_answered_other_rows_are_unsure() -> None:
    true = LABELS * 20
    v = verdict_on(true, true, true[::-1], labels=LABELS, seeds=[true, true[1:]])
    assert v.decision == "inconclusive" and "59 answers" in v.reasons[0]
