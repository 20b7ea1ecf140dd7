"""Promotions that are raced, killed at every line and every write, stopped and cut off from the lock."""

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
from tests.kit.registry import PROBE, PROCESSES, Store

ROUNDS = int(os.environ.get("RESEED_RACE_ROUNDS", "3"))
EACH = 1 if ROUNDS >= 50 else 9  # every line and every write in the long run, every ninth otherwise


def hold_lock(settings: Settings, held: Any) -> None:
    with Registry(connect(settings), settings).lock("toy"):
        held.set()
        time.sleep(60)


def race(settings: Settings, version: str, start: Any, outcomes: Any) -> None:
    """Promote `version` until it succeeds, each time in place of the champion that was read before."""
    promotion.smoke_test = lambda *_, **__: None  # type: ignore[assignment]
    real = MlflowClient.set_registered_model_alias

    def slowly(self: MlflowClient, name: str, alias: str, number: str) -> None:
        time.sleep(0.02)  # so that a promoter that is not locked out interferes
        real(self, name, alias, number)

    MlflowClient.set_registered_model_alias = slowly
    registry = Registry(connect(settings), settings)
    own = next(v for v in registry.versions("toy") if v.version == version)
    expected = registry.champion("toy")
    start.wait(60)
    for moved in range(20):
        try:
            promotion.promote(registry, own, expected=expected, reason="better", **PROBE)
        except ChampionMoved:
            expected = registry.champion("toy")
        else:
            outcomes.put((version, expected.version if expected else None, moved))
            return


def signal_at_line(at: int, signal_number: int) -> None:
    """Send this process a signal at the `at`-th new line of the code that moves aliases and records it.

    A line counts once, and lines before the intent do not count: nothing is written there.
    """
    watched = {str(m.__file__) for m in (client, promotion, promotion_log, notifications, atomic)}
    seen: set[tuple[str, int]] = set()
    begun = False

    def line(frame: Any, event: str, _: Any) -> Any:
        nonlocal begun
        code = frame.f_code
        if code.co_filename not in watched:
            return None
        begun = begun or (code.co_name == "begin" and code.co_filename == promotion.__file__)
        if event == "line" and begun and (code.co_filename, frame.f_lineno) not in seen:
            seen.add((code.co_filename, frame.f_lineno))
            if len(seen) == at:
                os.kill(os.getpid(), signal_number)
        return line

    sys.settrace(line)


def promote_in_trouble(
    settings: Settings, version: str, at: int, signal_number: int, go: Any = None
) -> None:
    """Promote `version`, with a signal at a line; the exit status is 3 where the lock was lost.

    `go` is a pair of events: one that says that it is ready, and one that it waits for.
    """
    promotion.smoke_test = lambda *_, **__: None  # type: ignore[assignment]
    registry = Registry(connect(settings), settings)
    own, expected = registry.version("toy", version), registry.champion("toy")
    if go is not None:
        go[0].set()
        go[1].wait(60)
    if at:
        signal_at_line(at, signal_number)
    try:
        promotion.promote(registry, own, expected=expected, reason="better", **PROBE)
    except LockLost:
        os._exit(3)
    sys.settrace(None)
    os._exit(0)


class TestSeveralProcesses:
    @pytest.fixture
    def holder(self, store: Store) -> Iterator[Any]:
        """A process that holds the lock of `toy`."""
        held = PROCESSES.Event()
        process = PROCESSES.Process(target=hold_lock, args=(store.settings, held))
        process.start()
        try:
            assert held.wait(60)
            yield process
        finally:
            process.kill()
            process.join()

    def test_the_lock_excludes_others(
        self, store: Store, holder: Any, bundles: list[BundleRef], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lock, "LOCK_SECONDS", 1)
        began = time.monotonic()
        with pytest.raises(TransientError, match="lock"), store.registry.lock("toy"):
            pytest.fail("two processes hold the lock")
        assert 0.8 < time.monotonic() - began < 10
        with pytest.raises(TransientError):
            store.register(bundles[0])
        assert store.registry.versions("toy") == []

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
            "all but one had compared with no champion"
        )
        moves = store.moves()
        assert sorted((new, old) for old, new in moves) == sorted((new, old) for new, old, _ in won)
        assert [old for old, _ in moves] == [None, *(new for _, new in moves[:-1])], (
            "each replaced the one before"
        )
        assert (
            store.aliases()["champion"] == moves[-1][1]
            and store.aliases()["previous"] == moves[-2][1]
        )


@pytest.fixture
def notified(store: Store) -> Store:
    """A registry whose promotions are notified to a missing receiver, so every one is pending."""
    store.client.create_registered_model("toy")
    store.registry.set_notification_targets("toy", {"webhook": "http://127.0.0.1:9/hook"})
    return store


def check(store: Store, *, moves: int | None = None) -> None:
    """No intent is open, the aliases are as the history says, and one notification per row is pending."""
    log, aliases = store.log(), store.aliases()
    rows = log.promotions
    assert log.intents == [] and store.registry.inconsistencies("toy") == []
    assert [row.before for row in rows] == [None, *(row.version for row in rows[:-1])]
    assert moves is None or len(rows) == moves, "a promotion was lost or carried out twice"
    assert aliases["champion"] == rows[-1].version
    assert aliases.get("previous") == rows[-1].before
    pending = {(n.promotion.when, n.promotion.new) for n in notifications.pending(store.settings)}
    assert pending == {(row.when, row.version) for row in rows}


def another(store: Store, versions: list[Version]) -> tuple[str, str]:
    """The champion, and a version that is not."""
    before = store.aliases()["champion"]
    return before, next(v.version for v in versions if v.version != before)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("unasked")
def test_kill_9_at_every_line_of_a_promotion(notified: Store, bundles: list[BundleRef]) -> None:
    """The next start converges: one champion, as the history says, and no notification twice."""
    store, versions = notified, [notified.register(b) for b in bundles[:2]]
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
        check(store, moves=moved + 1)
    assert at > 40, "the sweep reaches every line"
    sys.stderr.write(
        f"{kills} kills in a promotion, {moved - 1} of them carried out by the next start\n"
    )


WRITES = ("write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "ftruncate")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("unasked")
def test_kill_9_at_every_write_to_a_file(sqlite: Store, bundles: list[BundleRef]) -> None:
    """At every system call that writes the store or a notification, after which the next start
    converges."""
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
            options = ["-f", "-e", f"trace={call}", "-e", inject, "-o", os.devnull]
            command = [strace, *options, "-p", str(child.pid)]
            tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert tracer.stderr is not None
            message = tracer.stderr.readline()
            if "attached" not in message:
                child.kill()
                pytest.skip(f"strace cannot trace here: {message}")
            go[1].set()
            child.join(60)
            tracer.wait(20)
            assert child.exitcode in {0, -signal.SIGKILL}, (call, at)
            promotion.reconcile(store.registry, "toy")
            moved += store.aliases()["champion"] == new
            check(store, moves=moved + 1)
            if child.exitcode == 0:
                break
            kills[call] += 1
    assert kills["pwrite64"] > 20 // EACH and kills["rename"] >= 1, kills
    sys.stderr.write(f"kills by system call: {kills}; {moved} promotions carried out\n")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("unasked")
def test_a_lock_that_is_lost_at_any_line(notified: Store, bundles: list[BundleRef]) -> None:
    """A holder is stopped, loses the lock (its session, or its lock file), another version is promoted,
    and it continues: it must not overwrite the other promotion, or must repair it."""
    store, versions = notified, [notified.register(b) for b in bundles[:3]]
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
        take_lock_away(store)
        promote_until_done(store, third)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGCONT)
        child.join(60)
        assert child.exitcode in {0, 3}, at
        stops, lost = stops + 1, lost + (child.exitcode == 3)
        assert promotion.reconcile(store.registry, "toy") == [], (at, "an intent was left open")
        check(store)
        assert store.aliases()["champion"] == third.version, at
    assert stops > 40 // EACH and lost > 20 // EACH, (stops, lost)
    sys.stderr.write(f"stopped and cut off at {stops} lines; the holder noticed {lost} times\n")


def stopped(child: Any) -> bool:
    """Whether the child has stopped; False when it has ended."""
    while child.is_alive():
        status = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if status == "T":
            return True
        time.sleep(0.01)
    child.join()
    return False


def take_lock_away(store: Store) -> None:
    if store.settings.sqlite is not None:
        store.settings.sqlite.with_suffix(".lock").unlink()
        return
    import psycopg

    with psycopg.connect(store.settings.tracking_uri.replace("+psycopg", "")) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks "
            "WHERE locktype = 'advisory' AND granted"
        )


def promote_until_done(store: Store, version: Version) -> None:
    for _ in range(3):
        try:
            store.promote(version, store.registry.champion("toy"))
        except ChampionMoved:
            continue
        return
    pytest.fail("the champion moved three times")


def test_a_holder_that_lost_its_lock_notices_before_it_writes(store: Store) -> None:
    with store.registry.lock("toy") as held:
        held()
        take_lock_away(store)
        with (
            pytest.raises(LockLost, match=r"was removed while|ended its session"),
            store.registry.lock("toy"),
        ):
            held()


@pytest.mark.slow
@pytest.mark.timeout(120 * ROUNDS)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_twenty_promoters_in_trouble(kind: str, request: pytest.FixtureRequest) -> None:
    """See tests/kit/race.py; RESEED_RACE_ROUNDS=50 is the long race."""
    if kind == "postgres":
        request.getfixturevalue("postgres")  # skips the test where it cannot be started
    command = [sys.executable, "-m", "tests.kit.race", "--rounds", str(ROUNDS), "--store", kind]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    counts = json.loads(ran.stdout.splitlines()[-1])
    assert counts["wrong"] == 0 and counts["promotions"] >= ROUNDS, counts
    assert counts["kills"] and counts["stops"], counts
    sys.stderr.write(f"{counts}\n")


def test_a_postgres_that_is_down_is_a_passing_fault(sqlite: Store, tmp_path: Path) -> None:
    settings = Settings(
        Workspace(tmp_path), f"postgresql+psycopg://postgres@/mlflow?host={tmp_path}"
    )
    with (
        pytest.raises(TransientError, match="PostgreSQL"),
        Registry(sqlite.client, settings).lock("toy"),
    ):
        pytest.fail("a lock without a server")
