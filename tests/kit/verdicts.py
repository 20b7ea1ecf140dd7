"""Evaluations whose answers a test chose, and the question that is asked about two of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.evaluate.result import PREDICTIONS, ScoreResult
from tasks.records import Label
from tasks.stage import run_stage
from tasks.verdict.decide import decide
from tasks.verdict.evidence import Question
from tasks.verdict.model import Comparison, Policy, Resampling, Verdict
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.stages import filled

LABELS = list(toy.LABELS)
TRUE = [LABELS[i % 3] for i in range(120)]


def evaluation_of(
    home: Path,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    read: Mapping[str, str] | None = None,
) -> ScoreResult:
    """A published evaluation with these answers; `read` has the digests of its inputs."""

    def build(out: Path, scratch: Path) -> ScoreResult:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (out / PREDICTIONS).write_text(lines, encoding="utf-8")
        return filled(ScoreResult, model=name)

    return run_stage(
        ScoreResult,
        "evaluate",
        workspace=Workspace(home),
        version=1,
        params={"name": name, "rows": list(rows)},
        inputs=read or {},
        build=build,
    )


def answered(
    home: Path,
    name: str,
    *,
    wrong: int,
    true: Sequence[str] = TRUE,
    read: Mapping[str, str] | None = None,
    **columns: Callable[[int], Any],
) -> ScoreResult:
    """An evaluation whose first `wrong` answers are wrong.

    `read` has the digests of its inputs; `columns` are further fields of an answer, computed from
    the row's number.
    """
    rows: list[dict[str, Any]] = []
    for i, label in enumerate(true):
        predicted = LABELS[(LABELS.index(label) + 1) % 3] if i < wrong else label
        row = {"id": f"row {i}", "label": label, "predicted": predicted, "slices": []}
        rows.append(row | {key: make(i) for key, make in columns.items()})
    return evaluation_of(home, name, rows, read=read)


def question(**changes: Any) -> Question:
    """What is asked about two evaluations of the rows above; `changes` are other fields of the question."""
    asked: dict[str, Any] = {
        "labels": LABELS,
        "opponent_name": "champion version 1",
        "policy": Policy(min_gain=0.0, confidence=0.95),
        "resampling": Resampling(samples=400, seed=0),
        "slices": [],
        "measures": {},
    }
    return Question(**asked | changes)


def verdict_on(
    true: Sequence[Label],
    challenger: Sequence[Label],
    opponent: Sequence[Label],
    *,
    labels: list[str],
    use: int = 1,
    **options: Any,
) -> Verdict:
    """The verdict of `decide`; `options` are fields of Comparison, Policy and Resampling."""
    policy, resampling = (
        model(**{name: options.pop(name) for name in model.model_fields if name in options})
        for model in (Policy, Resampling)
    )
    answers = {"true": true, "challenger": challenger, "opponent": opponent}
    comparison = Comparison(**{"labels": labels, "opponent_name": "champion"} | answers | options)
    return decide(comparison, policy, use=use, resampling=resampling)
