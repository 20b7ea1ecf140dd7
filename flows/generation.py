"""Which challenger a retrain is about.

Generation 0 is the first; `--fresh` begins the next one, with other seeds. A generation that was begun and not judged is
gone on with, `--fresh` or not: that is what makes the same command resume after a kill.
"""

from __future__ import annotations

from pathlib import Path

from tasks import files


def begin(home: Path, name: str, *, fresh: bool) -> tuple[int, bool]:
    """(generation, whether it was judged before)."""
    path = _path(home, name)
    state = files.read_json(path) if path.exists() else {"generation": 0, "judged": False}
    generation, judged = int(state["generation"]), bool(state["judged"])
    if fresh and judged:
        generation, judged = generation + 1, False
    files.write_json(path, {"generation": generation, "judged": judged})
    return generation, judged


def judged(home: Path, name: str, generation: int) -> None:
    """Note that this generation has its verdict, and its promotion where there was one."""
    files.write_json(_path(home, name), {"generation": generation, "judged": True})


def _path(home: Path, name: str) -> Path:
    return home / "projects" / f"{name}.json"
