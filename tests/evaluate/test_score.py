"""A score is of the sealed rows, is found again, and is written whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.dataset.sealed import count_test_set_uses
from tasks.dataset.split import sealed_test_set, split_dataset
from tasks.evaluate.baselines.score import score_baseline
from tasks.evaluate.result import METRICS, ScoreResult
from tasks.workspace import Workspace
from tests.kit.rows import project, record, rows, write
from tests.kit.stages import curated_of


def test_a_baseline_is_scored_once_on_the_sealed_rows(tmp_path: Path) -> None:
    write(tmp_path / "pool.csv", rows(fruit=9, metal=9))
    data = {"pool": "pool.csv", "split": {"dev": 1, "test": 4}}
    p = project(data, evaluate={"bootstrap_samples": 100}).in_folder(tmp_path)
    workspace = Workspace(tmp_path / "home")
    splits, sealed = split_dataset(p, workspace=workspace), sealed_test_set(p, workspace=workspace)
    curated = curated_of(workspace.home, [record("metal it is", "metal")])
    for found in (False, True):
        scored = score_baseline(
            p, "majority", curated=curated, splits=splits, sealed=sealed, workspace=workspace
        )
        assert scored.published.found is found
        assert count_test_set_uses(sealed, workspace=workspace) == 1
    answers = scored.read()
    assert [a.label for a in answers] == ["fruit"] * 4 + ["metal"] * 4
    assert {a.predicted for a in answers} == {"metal"} and len({a.id for a in answers}) == 8
    assert scored.model == "majority" and scored.known.f1_macro.value == pytest.approx(1 / 3)
    written = ScoreResult.model_validate_json((scored.directory / METRICS).read_bytes())
    assert written.model_dump() == scored.model_dump()
    assert written.known.confusion == [[0, 4], [0, 4]]
