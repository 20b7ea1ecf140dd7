"""Which challenger a retrain is about, and that a flow run keeps to its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.retraining.challenger import Challenger
from tasks.errors import UserError
from tasks.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def begin(workspace: Workspace, *, fresh: bool, flow_run: str = "") -> Challenger:
    return Challenger.begin(workspace, "toy", fresh=fresh, flow_run=flow_run)


def test_one_that_was_not_judged_is_gone_on_with(workspace: Workspace) -> None:
    assert begin(workspace, fresh=False, flow_run="a") == Challenger(0, judged_before=False)
    first = begin(workspace, fresh=True, flow_run="b")
    assert first == Challenger(0, judged_before=False)
    first.mark_judged(workspace, "toy")
    assert begin(workspace, fresh=False, flow_run="c") == Challenger(0, judged_before=True)
    assert begin(workspace, fresh=True, flow_run="d") == Challenger(1, judged_before=False)


def test_a_flow_run_that_is_executed_again_keeps_to_its_own(workspace: Workspace) -> None:
    first = begin(workspace, fresh=True, flow_run="a")
    first.mark_judged(workspace, "toy")
    assert begin(workspace, fresh=True, flow_run="a") == first, "as if it had been resumed"
    assert begin(workspace, fresh=True, flow_run="b") == Challenger(1, judged_before=False)
    assert begin(workspace, fresh=True, flow_run="a") == first == Challenger(0, judged_before=False)
    first.mark_judged(workspace, "toy")
    assert begin(workspace, fresh=True, flow_run="c") == Challenger(1, judged_before=False), (
        "1 has no verdict yet"
    )


def test_a_state_that_no_retrain_wrote_is_one_sentence(workspace: Workspace) -> None:
    path = workspace.challenger("toy")
    path.parent.mkdir()
    for text in (
        '{"generation": 3, "judged": true}',
        "{",
        '{"generation": "3", "judged": true, "flow_runs": {}}',
    ):
        path.write_text(text)
        with pytest.raises(
            UserError,
            match=r"toy\.json is damaged: delete it; the next retrain then starts again",
        ):
            begin(workspace, fresh=True)
