"""Which challenger a retrain is about.

Generation 0 is the first; `--fresh` begins the next one, with other seeds. A generation that was begun and not judged is
gone on with, `--fresh` or not: that is what makes the same command resume after a kill. A flow run of Prefect's that is
executed once more, as a retry or by hand, is about the challenger that it was about the first time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks import atomic

MOST_RUNS = 200  # flow runs whose generation is remembered


def begin(home: Path, name: str, *, fresh: bool, flow_run: str = "") -> tuple[int, bool]:
    """(generation, whether it was judged before, by another flow run)."""
    path = _path(home, name)
    state: dict[str, Any] = {"generation": 0, "judged": False, "flow_runs": {}}
    state |= atomic.read_json(path) if path.exists() else {}
    runs: dict[str, int] = state["flow_runs"]
    if flow_run in runs:
        return runs[flow_run], False
    if fresh and state["judged"]:
        state |= {"generation": int(state["generation"]) + 1, "judged": False}
    if flow_run:
        state["flow_runs"] = dict([*runs.items(), (flow_run, state["generation"])][-MOST_RUNS:])
    atomic.write_json(path, state)
    return int(state["generation"]), bool(state["judged"])


def judged(home: Path, name: str, generation: int) -> None:
    """Note that this generation has its verdict, and its promotion where there was one."""
    state = atomic.read_json(_path(home, name))
    if generation == state["generation"]:
        atomic.write_json(_path(home, name), {**state, "judged": True})


def _path(home: Path, name: str) -> Path:
    return home / "projects" / f"{name}.json"
