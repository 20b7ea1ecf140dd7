"""Answers that a test scores."""

from __future__ import annotations

import random

LABELS = ["fruit", "metal", "bird"]


def random_answers(
    n: int, right: float, labels: list[str] = LABELS, *, seed: int = 0
) -> tuple[list[str], list[str]]:
    """`n` rows per label, and answers that are right for this share; some are no label at all."""
    rng = random.Random(seed)
    true = [label for label in labels for _ in range(n)]
    return true, [t if rng.random() < right else rng.choice([*labels, "other"]) for t in true]
