"""The challenger of a retrain, by its generation.

Generation 0 is the first; `--fresh` starts the next one, with other seeds. A generation without a verdict
is continued with or without `--fresh`, so the same command resumes after a kill. A Prefect flow run that
is executed again continues the generation that it had the first time.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from tasks import atomic
from tasks.errors import UserError
from tasks.figures import Figures
from tasks.workspace import Workspace

MOST_RUNS = 200  # flow runs whose generation is remembered


class _State(Figures):
    generation: int
    judged: bool
    flow_runs: dict[str, int]


@dataclass(frozen=True, slots=True)
class Challenger:
    """The number of a challenger, and whether another flow run judged it before."""

    generation: int
    judged_before: bool

    @classmethod
    def begin(
        cls, workspace: Workspace, project: str, *, fresh: bool, flow_run: str = ""
    ) -> Challenger:
        """The challenger that this retrain continues or starts; the choice is recorded."""
        state = _read(workspace, project)
        if flow_run in state.flow_runs:
            return cls(state.flow_runs[flow_run], judged_before=False)
        generation, judged = state.generation, state.judged
        if fresh and judged:
            generation, judged = generation + 1, False
        runs = list(state.flow_runs.items())
        runs += [(flow_run, generation)] if flow_run else []
        _write(
            workspace,
            project,
            _State(generation=generation, judged=judged, flow_runs=dict(runs[-MOST_RUNS:])),
        )
        return cls(generation, judged)

    def mark_judged(self, workspace: Workspace, project: str) -> None:
        """Record that this challenger has its verdict."""
        state = _read(workspace, project)
        if self.generation == state.generation:
            _write(workspace, project, state.model_copy(update={"judged": True}))


def _read(workspace: Workspace, project: str) -> _State:
    path = workspace.challenger(project)
    if not path.exists():
        return _State(generation=0, judged=False, flow_runs={})
    try:
        return _State.model_validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(
            f"{path} is damaged: delete it; the next retrain then starts again from challenger 0"
        ) from None


def _write(workspace: Workspace, project: str, state: _State) -> None:
    atomic.write_json(workspace.challenger(project), state.model_dump())
