"""Recorded evidence of verdicts, to which every later version of the code must come again.

After a change of the rule (with a new RULE_VERSION): python -m tests.kit.golden_evidence
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.verdict.decide import RULE_VERSION
from tasks.verdict.evidence import VerdictResult, judge
from tasks.verdict.model import Policy, Resampling
from tasks.workspace import Workspace
from tests.kit.verdicts import evaluation_of, question

LABELS = ["bird", "fruit", "metal"]
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / f"evidence-rule-{RULE_VERSION}"


def one_label(home: Path) -> VerdictResult:
    """Promoted by its gain, kept by its limits: 63 rows in groups, with slices, limits and seeds."""
    rng = np.random.default_rng(1)
    true = [LABELS[k] for k in rng.choice(3, 63, p=[0.2, 0.4, 0.4])]
    wrong = {"bird": "fruit", "fruit": "metal", "metal": "fruit"}

    def rows(accuracy: float, *, bird: float) -> list[dict[str, Any]]:
        found = []
        for i, label in enumerate(true):
            right = rng.random() < (bird if label == "bird" else accuracy)
            slices = [f"label={label}"] + ["late"] * (i >= 24) + ["few"] * (i < 9)
            row = {
                "id": f"row {i}",
                "label": label,
                "predicted": label if right else wrong[label],
                "slices": slices,
            }
            found.append(row | ({"group": f"{i // 3:024x}"} if i < 54 else {}))
        return found

    challenger = evaluation_of(home, "challenger", rows(0.97, bird=0.55), read={"bundle": "a" * 64})
    opponent = evaluation_of(home, "opponent", rows(0.4, bird=1.0), read={"bundle": "b" * 64})
    seeds = [evaluation_of(home, f"seed {a}", rows(a, bird=a)) for a in (0.97, 0.9, 0.6)]
    policy = Policy(
        label_margin=0.05, slice_margin=0.02, limits={"ece": 0.05, "latency_p95_ms": 1.5}
    )
    asked = question(
        labels=LABELS,
        policy=policy,
        use=2,
        resampling=Resampling(samples=1200, seed=3),
        slices=["late", "few", "label=bird"],
        measures={"ece": (0.1, 0.02), "latency_p95_ms": (9.0, None), "bundle_mb": (9.5, 9.5)},
    )
    return judge(challenger, opponent, asked, seeds=seeds, workspace=Workspace(home))


def label_sets(home: Path) -> VerdictResult:
    """Inconclusive, with the number of rows that would decide: 60 label sets, without groups."""
    rng = np.random.default_rng(2)
    true = rng.random((60, 3)) < [0.5, 0.4, 0.3]

    def rows(accuracy: float) -> list[dict[str, Any]]:
        answers = np.where(rng.random(true.shape) < accuracy, true, ~true)
        return [
            {"id": f"row {i}", "label": _names(t), "predicted": _names(a), "slices": []}
            for i, (t, a) in enumerate(zip(true, answers, strict=True))
        ]

    challenger, opponent = (
        evaluation_of(home, name, rows(accuracy))
        for name, accuracy in (("challenger", 0.86), ("opponent", 0.8))
    )
    asked = question(
        labels=LABELS,
        policy=Policy(min_gain=0.01, confidence=0.9),
        use=10,
        resampling=Resampling(samples=700, seed=0),
    )
    return judge(challenger, opponent, asked, workspace=Workspace(home))


def _names(has: Sequence[bool]) -> list[str]:
    return [label for label, held in zip(LABELS, has, strict=True) if held]


CASES: dict[str, Callable[[Path], VerdictResult]] = {
    "one-label": one_label,
    "label-sets": label_sets,
}


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for name, make in CASES.items():
        with tempfile.TemporaryDirectory() as home:
            shutil.copytree(make(Path(home)).directory, GOLDEN / name)
    print(GOLDEN)
