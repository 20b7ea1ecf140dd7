"""Which challenger a retrain is about, and that a flow run keeps to its own."""

from __future__ import annotations

from pathlib import Path

from flows.retraining.challenger import begin, judged


def test_one_that_was_not_judged_is_gone_on_with(tmp_path: Path) -> None:
    assert begin(tmp_path, "toy", fresh=False, flow_run="a") == (0, False)
    assert begin(tmp_path, "toy", fresh=True, flow_run="b") == (0, False)
    judged(tmp_path, "toy", 0)
    assert begin(tmp_path, "toy", fresh=False, flow_run="c") == (0, True)
    assert begin(tmp_path, "toy", fresh=True, flow_run="d") == (1, False)


def test_a_flow_run_that_is_executed_again_keeps_to_its_own(tmp_path: Path) -> None:
    assert begin(tmp_path, "toy", fresh=True, flow_run="a") == (0, False)
    judged(tmp_path, "toy", 0)
    assert begin(tmp_path, "toy", fresh=True, flow_run="a") == (0, False), "as if it had been resumed"
    assert begin(tmp_path, "toy", fresh=True, flow_run="b") == (1, False)
    assert begin(tmp_path, "toy", fresh=True, flow_run="a") == (0, False)
    judged(tmp_path, "toy", 0)
    assert begin(tmp_path, "toy", fresh=True, flow_run="c") == (1, False), "1 has no verdict yet"


def test_a_state_from_before_flow_runs_were_noted(tmp_path: Path) -> None:
    (tmp_path / "projects").mkdir()
    (tmp_path / "projects" / "toy.json").write_text('{"generation": 3, "judged": true}')
    assert begin(tmp_path, "toy", fresh=True, flow_run="a") == (4, False)
    assert begin(tmp_path, "toy", fresh=True) == (4, False)
