"""What crosses a stage's wall: directories that are whole or not there, lines that are not lost, one holder of a lock."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.errors import UserError
from tasks.records import Rejected, read_records, read_rejected, write_records
from tasks.stage import StageResult, run_stage
from tasks.workspace import Workspace
from tests.kit.rows import record

ROOT = Path(__file__).resolve().parent.parent
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python that says a word and then waits; the fixture has read the word."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: Any) -> subprocess.Popen[str]:
        p = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        started.append(p)
        assert p.stdout is not None and p.stdout.readline() == "ready\n"
        return p

    yield start
    for p in started:
        p.kill()
        p.communicate()


def kill(p: subprocess.Popen[str]) -> None:
    p.kill()
    assert p.wait() == -9


class Demo(StageResult):
    files: int
    batches: int = 0
    f1: float = 0.0


def make(home: Path, build: Callable[[Path, Path], Demo], **params: Any) -> Demo:
    return run_stage(
        Demo, "demo", workspace=Workspace(home), version=1, params=params, inputs={}, build=build
    )


def write_two(out: Path, scratch: Path) -> Demo:
    atomic.write_bytes(out / "a.txt", b"one")
    atomic.write_bytes(out / "sub" / "b.txt", b"two")
    return Demo(files=2)


def below(home: Path) -> list[str]:
    """Every file under the workspace."""
    return sorted(p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file())


def test_a_stage_is_built_once_and_then_found(tmp_path: Path) -> None:
    built = make(tmp_path, write_two)
    assert (
        not built.published.found
        and built.files == 2
        and built.directory.name == built.published.key
    )
    assert sorted(below(built.directory)) == ["a.txt", "manifest.json", "sub/b.txt"]
    found = make(tmp_path, lambda out, scratch: pytest.fail("built again"))
    assert found.published == replace(built.published, found=True) and found.digest == built.digest
    assert found.model_dump() == built.model_dump() and found == Demo.load(built.directory)


def test_the_key_is_of_everything_that_goes_in(tmp_path: Path) -> None:
    def key(name: str = "demo", version: int = 1, **given: Any) -> str:
        params = {"params": {"a": 1, "b": 2}, "inputs": {"rows": "x"}, **given}
        made = run_stage(
            Demo, name, workspace=Workspace(tmp_path), version=version, build=write_two, **params
        )
        return made.published.key

    others = [key("other"), key(version=2), key(params={"a": 1, "b": 3}), key(inputs={"rows": "y"})]
    assert len({key(), *others}) == 5 and key(params={"b": 2, "a": 1}) == key()


def test_the_digest_is_of_the_files_alone(tmp_path: Path) -> None:
    assert make(tmp_path, write_two, a=1).digest == make(tmp_path, write_two, a=2).digest
    assert (
        make(tmp_path, lambda out, scratch: write_two(out / "deeper", scratch), a=3).digest
        != make(tmp_path, write_two, a=1).digest
    )


def test_a_build_that_fails_leaves_nothing_and_a_retry_works(tmp_path: Path) -> None:
    def fails(out: Path, scratch: Path) -> Demo:
        write_two(out, scratch)
        atomic.write_bytes(scratch / "batch-1.json", b"1")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        make(tmp_path, fails)
    key = next((tmp_path / "scratch" / "demo").iterdir()).name
    assert below(tmp_path) == [f"scratch/demo/{key}/batch-1.json"]
    assert list((tmp_path / "stages" / "demo").iterdir()) == []

    def resumes(out: Path, scratch: Path) -> Demo:
        write_two(out, scratch)
        return Demo(files=2, batches=len(list(scratch.glob("batch-1.json"))))

    built = make(tmp_path, resumes)
    assert (
        built.published.key == key
        and built.batches == 1
        and not (tmp_path / "scratch" / "demo" / key).exists()
    )
    atomic.verify(built.directory)


def test_figures_that_json_can_not_hold_publish_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        make(tmp_path, lambda out, scratch: Demo(files=0, f1=math.nan))
    assert below(tmp_path) == []


def _manifest(directory: Path, **changes: Any) -> None:
    about = atomic.read_json(directory / "manifest.json")
    atomic.write_json(directory / "manifest.json", {**about, **changes})


@pytest.mark.parametrize("figures", [{}, {"files": "2"}, {"files": 2, "more": 1}, None], ids=str)
def test_figures_of_another_kind_are_rebuilt(tmp_path: Path, figures: Any) -> None:
    built = make(tmp_path, write_two)
    _manifest(built.directory, figures=figures)
    with pytest.raises(CorruptDirectory, match=r"holds no Demo: "):
        Demo.load(built.directory)
    again = make(tmp_path, write_two)
    assert not again.published.found and again.files == 2 and again.digest == built.digest


def change(d: Path) -> None:
    (d / "sub" / "b.txt").write_bytes(b"twO")


def truncate(d: Path) -> None:
    (d / "a.txt").write_bytes(b"on")


def empty(d: Path) -> None:
    (d / "a.txt").write_bytes(b"")


def remove(d: Path) -> None:
    (d / "a.txt").unlink()


def add(d: Path) -> None:
    (d / "sub" / "c.txt").touch()


def link(d: Path) -> None:
    (d / "a.txt").rename(d.parent / "elsewhere")
    (d / "a.txt").symlink_to(d.parent / "elsewhere")


def no_manifest(d: Path) -> None:
    (d / "manifest.json").unlink()


def torn_manifest(d: Path) -> None:
    (d / "manifest.json").write_bytes((d / "manifest.json").read_bytes()[:-20])


def other_digest(d: Path) -> None:
    _manifest(d, digest="0" * 64)


DAMAGE: dict[Callable[[Path], None], str] = {
    change: "b.txt differs",
    truncate: "a.txt differs",
    empty: "a.txt differs",
    remove: "a.txt is missing",
    add: "sub/c.txt is not in the manifest",
    link: "a.txt differs",
    no_manifest: "no readable manifest.json",
    torn_manifest: "no readable manifest.json",
    other_digest: "digest differs",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_damage_is_found_named_and_rebuilt(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    built = make(tmp_path, write_two)
    assert atomic.verify(built.directory)["digest"] == built.digest
    damage(built.directory)
    with pytest.raises(CorruptDirectory, match=DAMAGE[damage]):
        atomic.verify(built.directory)
    again = make(tmp_path, write_two)
    assert (
        not again.published.found
        and again.digest == built.digest == atomic.verify(again.directory)["digest"]
    )
    kept = [p.name for p in again.directory.parent.iterdir() if "corrupt" in p.name]
    assert len(kept) == 1 and kept[0].startswith(built.published.key)
    assert list(Workspace(tmp_path).published("demo")) == [again.directory]


BUILD = """
import sys
from pathlib import Path
from tasks import atomic
from tests.test_atomic import make

def build(out, scratch):
    (out / "half.txt").write_text("half")
    atomic.append_line(scratch / "done.jsonl", {"batch": 1})
    print("ready", flush=True)
    sys.stdin.read()

make(Path(sys.argv[1]), build)
"""


def test_a_kill_during_a_build_costs_only_the_batch_in_flight(tmp_path: Path, start: Start) -> None:
    kill(start(BUILD, tmp_path))
    left = [p.name for p in (tmp_path / "stages" / "demo").iterdir()]
    assert len(left) == 1 and left[0].startswith(".")

    def resumes(out: Path, scratch: Path) -> Demo:
        assert not (out / "half.txt").exists()
        write_two(out, scratch)
        return Demo(files=2, batches=len(atomic.read_lines(scratch / "done.jsonl")))

    built = make(tmp_path, resumes)
    assert (built.files, built.batches) == (2, 1)
    assert [p.name for p in (tmp_path / "stages" / "demo").iterdir()] == [built.published.key]
    atomic.verify(built.directory)


def test_what_a_dead_process_of_the_same_number_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container every start has the same process id."""
    key = make(tmp_path / "elsewhere", write_two).published.key
    left = tmp_path / "stages" / "demo" / f".{key}.{os.getpid()}.tmp"
    atomic.write_bytes(left / "half.txt", b"half")
    assert "half.txt" not in below(make(tmp_path, write_two).directory) and not left.exists()


def test_what_a_living_writer_of_the_same_key_has_written_stays(
    tmp_path: Path, start: Start
) -> None:
    other = start(BUILD, tmp_path)
    make(tmp_path, write_two)
    halves = list((tmp_path / "stages" / "demo").glob(".*/half.txt"))
    assert len(halves) == 1 and str(other.pid) in halves[0].parent.name


def test_who_publishes_second_finds_the_first(tmp_path: Path) -> None:
    target = tmp_path / "x"
    code = """
import sys
from pathlib import Path
from tasks import atomic
with atomic.publish(Path(sys.argv[1]), {"by": "other"}) as d:
    (d / "a").touch()
"""
    with atomic.publish(target, {"by": "this"}) as d:
        (d / "a").touch()
        subprocess.run([sys.executable, "-c", code, str(target)], check=True, cwd=ROOT)
    assert atomic.verify(target)["by"] == "other" and [p.name for p in tmp_path.iterdir()] == ["x"]
    with pytest.raises(CorruptDirectory), atomic.publish(target, {}):
        (target / "a").unlink()  # and does not take what is there for whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    atomic.write_json(path, {"ü": 1})
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(path, {"ü": math.inf})
    assert atomic.read_json(path) == {"ü": 1} and below(tmp_path) == ["deep/a.json"]
    blocked = tmp_path / "folder"
    (blocked / "in the way").mkdir(parents=True)
    with pytest.raises(OSError):
        atomic.write_bytes(blocked, b"x")
    assert below(tmp_path) == ["deep/a.json"]


def test_lines_after_a_torn_one_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "uses.jsonl"
    assert atomic.read_lines(path) == []
    atomic.append_line(path, {"n": 1})
    for torn in (b'{"n": ', b"\xff\xfe", b'{"n": 9}'):
        with path.open("ab") as f:
            f.write(torn)
        before = len(atomic.read_lines(path))
        atomic.append_line(path, {"n": "ü\n"})
        assert atomic.read_lines(path)[-1] == {"n": "ü\n"} and len(atomic.read_lines(path)) > before
    assert [line["n"] for line in atomic.read_lines(path) if line["n"] != 9] == [
        1,
        "ü\n",
        "ü\n",
        "ü\n",
    ]


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [
        record("one\u2028two\n\x85three", "ü", "seed", place="a, line 1"),
        record("x", None, "unlabelled"),
    ]
    write_records(tmp_path / "rows.jsonl", rows)
    assert read_records(tmp_path / "rows.jsonl") == rows
    out = [Rejected(r, "leak", "why", 0.5, "other") for r in rows]
    write_records(tmp_path / "rejected.jsonl", out)
    assert read_rejected(tmp_path / "rejected.jsonl") == out


HOLD = """
import sys
from pathlib import Path
from tasks import atomic

with atomic.exclusive_lock(Path(sys.argv[1]), "it"):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path, start: Start) -> None:
    lock = tmp_path / "locks" / "a.lock"
    other = start(HOLD, lock)
    with pytest.raises(UserError) as e, atomic.exclusive_lock(lock, "the retraining of toy"):
        pytest.fail("two at once")
    assert f"the retraining of toy is already running (process {other.pid}, lock {lock})" in str(
        e.value
    )
    kill(other)
    with atomic.exclusive_lock(lock, "the retraining of toy"):
        assert lock.read_text() == str(os.getpid())
        with (
            pytest.raises(UserError, match=f"process {os.getpid()}"),
            atomic.exclusive_lock(lock, "it"),
        ):
            pytest.fail("two at once")
    with atomic.exclusive_lock(lock, "it"):
        pass


def test_a_lock_is_free_after_its_body_failed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic.exclusive_lock(tmp_path / "a.lock", "it"):
        raise KeyError
    with atomic.exclusive_lock(tmp_path / "a.lock", "it"):
        pass
