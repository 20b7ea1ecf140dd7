"""kill -9 at every line of the code that publishes a data set: it is there whole or not at all, and the next run has it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = '''
import json, os, shutil, signal, sys
from pathlib import Path
from tasks import atomic, stage
from tasks.stage import StageResult, run_stage
from tasks.workspace import Workspace
from tasks.records import Record, Rejected, read_records, write_records

WATCHED = {atomic.__file__, stage.__file__}

ROWS = [Record.create(f"text number {i}", "a", "synthetic", request=i) for i in range(40)]

class Rows(StageResult):
    rows: int

def build(out, scratch):
    write_records(out / "kept.jsonl", ROWS)
    write_records(out / "rejected.jsonl", [Rejected(ROWS[0], "length", "too short")])
    return Rows(rows=len(ROWS))

def publish(home):
    return run_stage(
        Rows, "curate", workspace=Workspace(home), version=1, params={"a": 1}, inputs={"rows": "d"}, build=build
    )

def killed_at(n, home):
    """Whether a child that publishes was killed when it came to the n-th line of tasks/atomic.py and tasks/stage.py."""
    child = os.fork()
    if not child:
        seen = 0
        def line(frame, event, arg):
            nonlocal seen
            if event == "line" and frame.f_code.co_filename in WATCHED:
                seen += 1
                if seen == n:
                    os.kill(os.getpid(), signal.SIGKILL)
            return line
        sys.settrace(line)
        publish(home)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

root = Path(sys.argv[1])
whole = publish(root / "reference").digest
n, there = 0, 0
while True:
    n += 1
    home = root / str(n)
    if not killed_at(n, home):
        break
    found = [p for p in (home / "stages" / "curate").glob("*") if not p.name.startswith(".")]
    assert len(found) <= 1, (n, found)
    for p in found:
        there += 1
        assert atomic.verify(p)["digest"] == whole, n
    again = publish(home)
    assert again.digest == whole and again.published.found == bool(found) and again.rows == len(ROWS), n
    assert read_records(again.directory / "kept.jsonl") == ROWS, n
    assert [p.name for p in (home / "stages" / "curate").iterdir()] == [again.published.key], n
    shutil.rmtree(home)
print(json.dumps({"kill_points": n - 1, "published_before_the_kill": there}))
'''


@pytest.mark.slow
def test_a_killed_publish_is_whole_or_absent(tmp_path: Path) -> None:
    p = subprocess.run(
        [sys.executable, "-c", SWEEP, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert p.returncode == 0, p.stderr[-2000:]
    told = json.loads(p.stdout)
    print(told)
    assert told["kill_points"] > 100, "the sweep reaches every line"
    assert 0 < told["published_before_the_kill"] < told["kill_points"]
