"""How often the judge promotes by chance, and how often it misses a real gain: simulated models with known accuracies.

    python bench/judging.py                # the rates in docs/judging.md and the README; about 5 minutes
    python bench/judging.py --share 0.1    # a tenth of the trials

One JSON object per line: the case, its rate, its trials, and `allowed`, the rate that the judge promises not to exceed at
that use of the test set. Two models find the same rows hard: half of each row's difficulty is shared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tasks.verdict.decide import alpha_spent, decide  # noqa: E402
from tasks.verdict.model import Comparison, Policy, Resampling, Verdict  # noqa: E402

LABELS = ["a", "b", "c"]
SCARCE = [  # (rows by label, accuracy of both models, use of the test set)
    ((1, 1, 1), 0.8, 1),
    ((2, 2, 2), 0.8, 1),
    ((100, 100, 1), 0.9, 1),
    ((10, 10, 10), 0.95, 1),
    ((20, 20, 20), 0.97, 1),
    ((50, 50, 50), 0.98, 1),
    ((20, 20, 20), 0.97, 5),
]


def answers(
    rng: np.random.Generator, true: np.ndarray, accuracy: float, shared: np.ndarray
) -> list[str]:
    """A model's answers, right with the chance `accuracy`; `shared` (rows,) is the difficulty both models meet.

    Difficulty is the mean of two uniform variables, so its quantiles are those of a triangular distribution.
    """
    difficulty = 0.5 * shared + 0.5 * rng.random(len(true))
    cut = 1 - np.sqrt((1 - accuracy) / 2) if accuracy >= 0.5 else np.sqrt(accuracy / 2)
    wrong = (true + rng.integers(1, len(LABELS), len(true))) % len(LABELS)
    return names(np.where(difficulty < cut, true, wrong))


def names(codes: np.ndarray) -> list[str]:
    """The labels of these codes."""
    return [LABELS[k] for k in codes]


def verdict(
    true: np.ndarray,
    challenger: list[str],
    opponent: list[str],
    *,
    seed: int,
    use: int = 1,
    samples: int = 400,
    **options: Any,
) -> Verdict:
    """The judge's verdict; `options` are further fields of Comparison."""
    comparison = Comparison(
        labels=LABELS,
        true=names(true),
        challenger=challenger,
        opponent=opponent,
        opponent_name="champion",
        **options,
    )
    return decide(comparison, Policy(), use=use, resampling=Resampling(samples=samples, seed=seed))


def promotion_rates(
    trials: int,
    *,
    rows: int | Sequence[int],
    accuracy: float = 0.8,
    better: float = 0.0,
    use: int = 1,
) -> tuple[float, float]:
    """How often a challenger is promoted whose accuracy is `better` above `accuracy`: (by the judge, by its bounds alone).

    `rows` is the size of the test set, with random labels, or its rows by label.
    """
    rng, promoted, bounds = np.random.default_rng(0), 0, 0
    for i in range(trials):
        if isinstance(rows, int):
            true = rng.integers(0, len(LABELS), rows)
        else:
            true = np.repeat(np.arange(len(rows)), rows)
        shared = rng.random(len(true))
        challenger = answers(rng, true, accuracy + better, shared)
        opponent = answers(rng, true, accuracy, shared)
        verdict_ = verdict(true, challenger, opponent, seed=i, use=use)
        promoted += verdict_.decision == "promote"
        bounds += verdict_.lower is not None and verdict_.lower > 0
    return promoted / trials, bounds / trials


def recipe_rates(trials: int, *, seeds: int) -> tuple[float, float]:
    """How often a recipe without a gain is said to gain: (with seeds nested, by the bounds of one seed's model).

    The models of different seeds differ by 3 points of accuracy (standard deviation) on 500 rows.
    """
    rng, nested, alone = np.random.default_rng(seeds), 0, 0
    for i in range(trials):
        true, shared = rng.integers(0, len(LABELS), 500), rng.random(500)
        models = [answers(rng, true, float(a), shared) for a in rng.normal(0.8, 0.03, seeds)]
        opponent = answers(rng, true, 0.8, shared)
        verdict_ = verdict(true, models[0], opponent, seed=i, seeds=models)
        assert verdict_.recipe is not None and verdict_.lower is not None
        nested += verdict_.recipe.lower > 0
        alone += verdict_.lower > 0
    return nested / trials, alone / trials


def group_rate(trials: int, *, groups: int, declared: bool, rows: int = 320) -> float:
    """The promotion rate without a difference, where each model is good at some groups and bad at others."""
    rng, promoted = np.random.default_rng(groups), 0
    group = np.repeat(np.arange(groups), rows // groups)
    for i in range(trials):
        true = rng.integers(0, len(LABELS), len(group))
        both = []
        for _ in range(2):
            accuracy = np.clip(0.8 + 0.25 * rng.standard_normal(groups), 0.05, 1)[group]
            wrong = (true + rng.integers(1, len(LABELS), len(group))) % len(LABELS)
            both.append(names(np.where(rng.random(len(group)) < accuracy, true, wrong)))
        declared_groups = [str(g) for g in group] if declared else []
        verdict_ = verdict(true, both[0], both[1], seed=i, samples=300, groups=declared_groups)
        promoted += verdict_.decision == "promote"
    return promoted / trials


def main() -> None:
    """Print every rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the trials, 0 to 1")
    share = parser.parse_args().share

    def trials(full: int) -> int:
        return max(10, round(full * share))

    def show(case: str, rate: float, n: int, **more: float) -> None:
        print(json.dumps({"case": case, "rate": round(rate, 4), "trials": n, **more}), flush=True)

    first = alpha_spent(0.05, 1)
    n = trials(2000)
    show("no difference, 300 rows", promotion_rates(n, rows=300)[0], n, allowed=first)
    n = trials(400)
    show("5 points better, 1,000 rows", promotion_rates(n, rows=1000, better=0.05)[0], n)
    for rows, accuracy, use in SCARCE:
        n = trials(300)
        rate, bounds = promotion_rates(n, rows=rows, accuracy=accuracy, use=use)
        case = f"no difference, {rows} rows by label, accuracy {accuracy}, use {use}"
        show(case, rate, n, allowed=alpha_spent(0.05, use), bounds_alone=bounds)
    for seeds in (3, 8):
        n = trials(1000)
        nested, alone = recipe_rates(n, seeds=seeds)
        show(f"no gain, {seeds} seeds", nested, n, allowed=first, one_seed_alone=alone)
    for groups in (12, 40):
        n = trials(400)
        declared, blind = (group_rate(n, groups=groups, declared=known) for known in (True, False))
        show(f"no difference, {groups} groups", declared, n, allowed=first, not_declared=blind)


if __name__ == "__main__":
    main()
