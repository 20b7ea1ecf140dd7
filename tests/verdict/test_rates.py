"""What the judge promises of chance, on few simulated trials; bench/judging.py has the full rates."""

from __future__ import annotations

import pytest

from bench.judging import SCARCE, group_rate, promotion_rates, recipe_rates
from tasks.verdict.decide import alpha_spent

pytestmark = pytest.mark.slow


def most(allowed: float, trials: int) -> float:
    """Three standard errors above the rate that is allowed."""
    return float(allowed + 3 * (allowed * (1 - allowed) / trials) ** 0.5)


def test_without_a_difference_it_promotes_no_more_often_than_allowed() -> None:
    assert promotion_rates(400, rows=300)[0] <= most(alpha_spent(0.05, 1), 400)


@pytest.mark.parametrize(("rows", "accuracy", "use"), SCARCE)
def test_nor_with_few_rows_rare_labels_or_few_errors(
    rows: tuple[int, ...], accuracy: float, use: int
) -> None:
    rate, _ = promotion_rates(100, rows=rows, accuracy=accuracy, use=use)
    assert rate <= most(alpha_spent(0.05, use), 100)


def test_five_points_are_found_in_a_thousand_rows() -> None:
    assert promotion_rates(100, rows=1000, better=0.05)[0] >= 0.85


@pytest.mark.parametrize("seeds", [3, 8])
def test_a_recipe_without_a_gain_is_rarely_said_to_gain(seeds: int) -> None:
    nested, alone = recipe_rates(100, seeds=seeds)
    assert nested <= most(0.025, 100) and nested < alone


@pytest.mark.parametrize("groups", [12, 40])
def test_declared_groups_keep_the_rate_and_undeclared_ones_do_not(groups: int) -> None:
    allowed = alpha_spent(0.05, 1)
    assert group_rate(150, groups=groups, declared=True) <= most(allowed, 150)
    assert group_rate(150, groups=groups, declared=False) > 2 * allowed
