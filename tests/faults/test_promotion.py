"""Promotions that are raced, killed at every line and every write, stopped, cut off from their lock, and gone on with."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.registry import client, lock, notifications, promotion, promotion_log
from flows.registry.client import Registry, Version
from flows.registry.lock import LockLost
from flows.registry.promotion import ChampionMoved
from flows.settings import Settings
from flows.tracking.store import connect
from tasks import atomic
from tasks.errors import TransientError
from tasks.model.bundle import BundleRef
from tasks.workspace import Workspace
from tests.conftest import ROOT
from tests.kit.registry import PROCESSES, TOLD, Store

ROUNDS = int(os.environ.get("RESEED_RACE_ROUNDS", "3"))
EACH = 1 if ROUNDS >= 50 else 9  # every line and every write in the long run, every ninth otherwise


def hold(settings: Settings, held: Any) -> None:
    with Registry(connect(settings), settings).lock("toy"):
        held.set()
        time.sleep(60)


def race(settings: Settings, version: str, start: Any, outcomes: Any) -> None:
    """Promote `version` until it succeeds, each time in place of the champion that was read before."""
    promotion.smoke_test = lambda *_, **__: None  # type: ignore[assignment]
    real = MlflowClient.set_registered_model_alias

    def slowly(self: MlflowClient, name: str, alias: str, number: str) -> None:
        time.sleep(0.02)  # so that whoever is not locked out falls in between
        real(self, name, alias, number)

    MlflowClient.set_registered_model_alias = slowly
    registry = Registry(connect(settings), settings)
    mine = next(v for v in registry.versions("toy") if v.version == version)
    expected = registry.champion("toy")
    start.wait(60)
    for moved in range(20):
        try:
            promotion.promote(registry, mine, expected=expected, reason="better", **TOLD)
        except ChampionMoved:
            expected = registry.champion("toy")
        else:
            outcomes.put((version, expected.version if expected else None, moved))
            return


def stop_at_line(at: int, do: int) -> None:
    """Get the signal `do` where the `at`-th new line is reached of the code that moves aliases and keeps records.

    Lines count once, from the first word of the intent on: before it nothing was meant.
    """
    watched = {str(m.__file__) for m in (client, promotion, promotion_log, notifications, atomic)}
    seen: set[tuple[str, int]] = set()
    meant = False

    def line(frame: Any, event: str, _: Any) -> Any:
        nonlocal meant
        code = frame.f_code
        if code.co_filename not in watched:
            return None
        meant = meant or (code.co_name == "begin" and code.co_filename == promotion.__file__)
        if event == "line" and meant and (code.co_filename, frame.f_lineno) not in seen:
            seen.add((code.co_filename, frame.f_lineno))
            if len(seen) == at:
                os.kill(os.getpid(), do)
        return line

    sys.settrace(line)


def promote_in_trouble(settings: Settings, version: str, at: int, do: int, go: Any = None) -> None:
    """Promote `version` and get a signal at a line; exit status 3 when the lock was lost. Where there is `go`, wait for it."""
    promotion.smoke_test = lambda *_, **__: None  # type: ignore[assignment]
    registry = Registry(connect(settings), settings)
    mine, expected = registry.version("toy", version), registry.champion("toy")
    if go is not None:
        go[0].set()
        go[1].wait(60)
    stop_at_line(at, do) if at else None
    try:
        promotion.promote(registry, mine, expected=expected, reason="better", **TOLD)
    except LockLost:
        os._exit(3)
    sys.settrace(None)
    os._exit(0)


class TestSeveralProcesses:
    @pytest.fixture
    def holder(self, store: Store) -> Iterator[Any]:
        """A process that holds the lock of `toy`."""
        held = PROCESSES.Event()
        process = PROCESSES.Process(target=hold, args=(store.settings, held))
        process.start()
        try:
            assert held.wait(60)
            yield process
        finally:
            process.kill()
            process.join()

    def test_the_lock_excludes_and_says_who_waits(
        self, store: Store, holder: Any, bundles: list[BundleRef], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lock, "LOCK_SECONDS", 1)
        began = time.monotonic()
        with pytest.raises(TransientError, match="lock"), store.registry.lock("toy"):
            pytest.fail("two processes hold the lock")
        assert 0.8 < time.monotonic() - began < 10
        with pytest.raises(TransientError):
            store.register(bundles[0])
        assert store.registry.versions_or_none("toy") == []

    def test_a_killed_holder_frees_the_lock(
        self, store: Store, holder: Any, bundles: list[BundleRef]
    ) -> None:
        holder.kill()
        holder.join()
        began = time.monotonic()
        assert store.register(bundles[0]).version == "1"
        assert time.monotonic() - began < 30

    @pytest.mark.slow
    def test_racing_promoters_leave_one_champion(
        self, store: Store, bundles: list[BundleRef]
    ) -> None:
        n = 6 if store.settings.sqlite else 4
        versions = [store.register(b).version for b in bundles[:n]]
        start, outcomes = PROCESSES.Barrier(n), PROCESSES.Queue()
        racers = [
            PROCESSES.Process(target=race, args=(store.settings, v, start, outcomes))
            for v in versions
        ]
        for r in racers:
            r.start()
        try:
            for r in racers:
                r.join(100)
            assert [r.exitcode for r in racers] == [0] * n
        finally:
            for r in racers:
                r.kill()
        won = [outcomes.get(timeout=5) for _ in racers]
        assert sum(moved for _, _, moved in won) >= n - 1, (
            "all had read that there is no champion, and one was right"
        )
        moves = store.moves()
        assert sorted((new, old) for old, new in moves) == sorted((new, old) for new, old, _ in won)
        assert [old for old, _ in moves] == [None, *(new for _, new in moves[:-1])], (
            "each took the place of the one before"
        )
        assert (
            store.aliases()["champion"] == moves[-1][1]
            and store.aliases()["previous"] == moves[-2][1]
        )


@pytest.fixture
def told(store: Store) -> Store:
    """A registry whose promotions are told to somebody who is not there, so that every letter waits."""
    store.client.create_registered_model("toy")
    store.registry.set_notification_targets("toy", {"webhook": "http://127.0.0.1:9/hook"})
    return store


def right(store: Store, *, moves: int | None = None) -> None:
    """Nothing is open, the history is whole and what the aliases say, and one letter a promotion waits."""
    found, aliases = store.journal(), store.aliases()
    assert found.intents == [] and store.registry.inconsistencies("toy") == []
    assert [row.before for row in found.rows] == [None, *(row.version for row in found.rows[:-1])]
    assert moves is None or len(found.rows) == moves, "a promotion was lost or done twice"
    assert (
        aliases["champion"] == found.rows[-1].version
        and aliases.get("previous") == found.rows[-1].before
    )
    letters = {(told["when"], told["version"]) for told in notifications.pending(store.settings)}
    assert letters == {(row.when, row.version) for row in found.rows}


def another(store: Store, versions: list[Version]) -> tuple[str, str]:
    """The champion, and a version that is not."""
    before = store.aliases()["champion"]
    return before, next(v.version for v in versions if v.version != before)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("unasked")
def test_kill_9_at_every_line_of_a_promotion(told: Store, bundles: list[BundleRef]) -> None:
    """The next start converges: one champion, as the journal and the history say, and nothing is told twice."""
    store, versions = told, [told.register(b) for b in bundles[:2]]
    store.promote(versions[0], None)
    at = 1 - EACH
    kills = finished = moved = 0
    while not finished:
        at += EACH
        before, new = another(store, versions)
        child = PROCESSES.Process(
            target=promote_in_trouble, args=(store.settings, new, at, signal.SIGKILL)
        )
        child.start()
        child.join(60)
        assert child.exitcode in {0, -signal.SIGKILL}, at
        finished = child.exitcode == 0
        kills += not finished
        promotion.reconcile(store.registry, "toy")
        now = store.aliases()["champion"]
        assert now in {before, new}, at
        moved += now == new
        right(store, moves=moved + 1)
    assert at > 40, "the sweep reaches every line"
    sys.stderr.write(
        f"{kills} kills in a promotion, {moved - 1} of them carried out by the next start\n"
    )


WRITES = ("write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "ftruncate")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("unasked")
def test_kill_9_at_every_write_to_a_file(sqlite: Store, bundles: list[BundleRef]) -> None:
    """Every system call by which SQLite and the outbox write: the store and the letters are whole, and the next start converges."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    store = sqlite
    store.client.create_registered_model("toy")
    store.registry.set_notification_targets("toy", {"webhook": "http://127.0.0.1:9/hook"})
    versions = [store.register(b) for b in bundles[:2]]
    store.promote(versions[0], None)
    kills, moved = dict.fromkeys(WRITES, 0), 0
    for call in WRITES:
        for at in itertools.count(1, EACH):
            _, new = another(store, versions)
            go = (PROCESSES.Event(), PROCESSES.Event())
            child = PROCESSES.Process(
                target=promote_in_trouble, args=(store.settings, new, 0, 0, go)
            )
            child.start()
            assert go[0].wait(60)
            inject = f"inject={call}:signal=KILL:when={at}"
            command = [
                strace,
                "-f",
                "-e",
                f"trace={call}",
                "-e",
                inject,
                "-o",
                os.devnull,
                "-p",
                str(child.pid),
            ]
            tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            if "attached" not in said:
                child.kill()
                pytest.skip(f"strace can't trace here: {said}")
            go[1].set()
            child.join(60)
            tracer.wait(20)
            assert child.exitcode in {0, -signal.SIGKILL}, (call, at)
            promotion.reconcile(store.registry, "toy")
            moved += store.aliases()["champion"] == new
            right(store, moves=moved + 1)
            if child.exitcode == 0:
                break
            kills[call] += 1
    assert kills["pwrite64"] > 20 // EACH and kills["rename"] >= 1, kills
    sys.stderr.write(f"kills by system call: {kills}; {moved} promotions carried out\n")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("unasked")
def test_a_lock_that_is_lost_at_any_line(told: Store, bundles: list[BundleRef]) -> None:
    """A holder is stopped, its session ended (on SQLite: its lock file removed), another version promoted; then it goes on.

    It must not write over the other's promotion, or must put right what it wrote: at whichever line it was stopped.
    """
    store, versions = told, [told.register(b) for b in bundles[:3]]
    store.promote(versions[0], None)
    stops = lost = 0
    for at in itertools.count(1, EACH):
        before, new = another(store, versions)
        third = next(v for v in versions if v.version not in {before, new})
        child = PROCESSES.Process(
            target=promote_in_trouble, args=(store.settings, new, at, signal.SIGSTOP)
        )
        child.start()
        if not stopped(child):
            assert child.exitcode == 0
            break
        take_the_lock_from(store)
        promote_at_last(store, third)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGCONT)
        child.join(60)
        assert child.exitcode in {0, 3}, at
        stops, lost = stops + 1, lost + (child.exitcode == 3)
        assert promotion.reconcile(store.registry, "toy") == [], (at, "something was left open")
        right(store)
        assert store.aliases()["champion"] == third.version, at
    assert stops > 40 // EACH and lost > 20 // EACH, (stops, lost)
    sys.stderr.write(f"stopped and cut off at {stops} lines, {lost} times noticed by the holder\n")


def stopped(child: Any) -> bool:
    """Whether the child has stopped; False when it has ended."""
    while child.is_alive():
        status = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if status == "T":
            return True
        time.sleep(0.01)
    child.join()
    return False


def take_the_lock_from(store: Store) -> None:
    if store.settings.sqlite is not None:
        store.settings.sqlite.with_suffix(".lock").unlink()
        return
    import psycopg

    with psycopg.connect(store.settings.tracking_uri.replace("+psycopg", "")) as connection:
        ends = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        connection.execute(ends)


def promote_at_last(store: Store, version: Version) -> None:
    for _ in range(3):
        try:
            store.promote(version, store.registry.champion("toy"))
        except ChampionMoved:
            continue
        return
    pytest.fail("the champion moved three times")


def test_a_holder_that_lost_its_lock_is_told_before_it_writes(store: Store) -> None:
    with store.registry.lock("toy") as held:
        held()
        take_the_lock_from(store)
        with (
            pytest.raises(LockLost, match=r"was removed while|ended the session"),
            store.registry.lock("toy"),
        ):
            held()


@pytest.mark.slow
@pytest.mark.timeout(120 * ROUNDS)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_twenty_promoters_in_trouble(kind: str, request: pytest.FixtureRequest) -> None:
    """RESEED_RACE_ROUNDS=50 for the long race; tests/kit/race.py says what is right."""
    if kind == "postgres":
        request.getfixturevalue("postgres")  # where it can't be started, this is skipped
    command = [sys.executable, "-m", "tests.kit.race", "--rounds", str(ROUNDS), "--store", kind]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert (
        told["wrong"] == 0 and told["promotions"] >= ROUNDS and told["kills"] and told["stops"]
    ), told
    sys.stderr.write(f"{told}\n")


def test_a_postgres_that_is_down_is_a_passing_fault(sqlite: Store, tmp_path: Path) -> None:
    settings = Settings(
        Workspace(tmp_path), f"postgresql+psycopg://postgres@/mlflow?host={tmp_path}"
    )
    with (
        pytest.raises(TransientError, match="PostgreSQL"),
        Registry(sqlite.client, settings).lock("toy"),
    ):
        pytest.fail("a lock without a server")
