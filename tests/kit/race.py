"""Promoters race for one model while some are killed, stopped and cut off; then the state is checked.

    python -m tests.kit.race --rounds 50 --store sqlite       (or postgres, with Debian's binaries)

Each promoter has a version and a score. It promotes its version while its score is above the
champion's, compares again on ChampionMoved, and ends when it is champion or beaten. At random moments
a promoter (half of the time the lock's holder) gets SIGKILL, or SIGSTOP and later SIGCONT; on
PostgreSQL the session of a stopped holder may be ended meanwhile, so it continues without the lock. A
round is right when, after the reconcile of the next start:

- no intent is open, and the next process gets the lock at once;
- the history has one row per promotion: numbered without a gap, linked, each `before` the version of
  the row before, no version twice, the scores rising;
- the champion is the version of the last row, `previous` that of the row before, and one notification
  per row is pending;
- the champion's score is the highest of all that finished and all in the history. (A promoter that was
  killed before its intent was written took no part; one that was killed after it counts, because
  others carried it out.)
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import Any

from flows.registry import notifications, promotion
from flows.registry.client import Registry, Version
from flows.registry.promotion import ChampionMoved
from flows.registry.promotion_log import PromotionLog
from flows.settings import Settings, quiet_libraries
from tasks import atomic
from tasks.errors import TransientError
from tasks.model import bundle
from tasks.workspace import Workspace

NAME, SCORE = "race", "reseed.test.f1_macro"
PROMOTED, BEATEN, BROKEN = 0, 10, 11
IMPORTED = (
    "mlflow.artifacts",
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "psycopg",
)  # before the forks, which would each import them again
Pid = int


class Race:
    """Rounds on one store. This process never opens the store: connections do not survive a fork."""

    def __init__(self, settings: Settings, *, promoters: int = 20, seed: int = 0) -> None:
        for module in IMPORTED:
            importlib.import_module(module)
        self.settings, self.promoters, self.rng = settings, promoters, random.Random(seed)
        self.sources = [self._make_source(i) for i in range(promoters)]
        self.holder = mmap(-1, 8)  # the process that holds the lock, as it says itself
        self.counts: Counter[str] = Counter()

    def _make_source(self, number: int) -> Path:
        """A version's files: a bundle as far as a promotion verifies it here."""
        source = self.settings.workspace.home / "sources" / str(number)
        directory = source / "artifacts" / "bundle"
        directory.mkdir(parents=True)
        about = {"labels": {"a": "", "b": ""}, "number": number}
        atomic.write_json(directory / bundle.ABOUT, about)
        atomic.seal(directory)
        return source

    def round(self, number: int) -> list[str]:
        """What was wrong after one round."""
        name = f"{NAME}-{number}"
        scores = self.rng.sample(range(1000), self.promoters)
        assert _run_forked(lambda: self._register(name, scores)) is not None
        ready, says = os.pipe()
        waits, gate = os.pipe()
        order = sorted(range(self.promoters), key=lambda i: scores[i] + self.rng.gauss(0, 300))
        # mostly the worse ones first
        delays = {i: self.rng.random() * 0.05 * rank for rank, i in enumerate(order)}
        running: dict[Pid, str] = {}
        ended: dict[Pid, int] = {}
        for i in range(self.promoters):
            pid = os.fork()
            if not pid:
                os.close(gate)
                os._exit(self._promote(name, str(i + 1), says=says, waits=waits, delay=delays[i]))
            running[pid] = str(i + 1)
        try:
            for _ in running:
                os.read(ready, 1)
            os.close(gate)  # all start at once
            self._disturb(dict(running), ended)
        finally:
            for pid in running.keys() - ended.keys():
                os.kill(pid, signal.SIGKILL)
        for fd in (ready, says, waits):
            os.close(fd)
        codes = {running[pid]: os.waitstatus_to_exitcode(status) for pid, status in ended.items()}
        checked = _run_forked(lambda: self._check(name, codes))
        assert checked is not None, "the check itself failed"
        self.counts += Counter(checked["counts"])
        return [f"round {number}: {sentence}" for sentence in checked["wrong"]]

    def _open_registry(self) -> Registry:
        from mlflow import MlflowClient

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        promotion.smoke_test = lambda *_, **__: None  # type: ignore[assignment]
        uri = self.settings.tracking_uri
        return Registry(MlflowClient(uri, uri), self.settings)

    def _register(self, name: str, scores: list[int]) -> str:
        registry = self._open_registry()
        registry.client.create_registered_model(name)
        registry.set_notification_targets(name, {"webhook": "http://127.0.0.1:9/hook"})
        for score, source in zip(scores, self.sources, strict=True):
            digest = atomic.read_json(source / "artifacts" / "bundle" / atomic.MANIFEST)["digest"]
            tags = {"reseed.bundle": digest, SCORE: str(score)}
            registry.client.create_model_version(name, str(source), tags=tags)
        return "registered"

    def _promote(self, name: str, version: str, *, says: int, waits: int, delay: float) -> int:
        try:
            registry = self._open_registry()
            own = registry.version(name, version)
            self._report_lock_holder(registry)
            champion = registry.champion(name)
            os.write(says, b".")
            os.read(waits, 1)
            time.sleep(delay)
            while champion is None or _score(champion) < _score(own):
                try:
                    promotion.promote(
                        registry, own, expected=champion, reason="better", probes=[], labels=[]
                    )
                    return PROMOTED
                except (ChampionMoved, TransientError):
                    champion = registry.champion(name)
            return PROMOTED if champion.version == version else BEATEN
        except BaseException as e:
            sys.stderr.write(f"version {version}: {type(e).__name__}: {e}\n")
            os.write(says, b".")  # if it came no further, the others wait for it
            return BROKEN

    def _report_lock_holder(self, registry: Registry) -> None:
        """Note in the shared memory who holds the lock, so that it can be disturbed."""
        real = registry.lock

        @contextlib.contextmanager
        def lock(name: str) -> Any:
            with real(name) as held:
                self.holder[:8] = os.getpid().to_bytes(8, "little")
                yield held

        registry.lock = lock  # type: ignore[method-assign]

    def _disturb(self, running: dict[Pid, str], ended: dict[Pid, int]) -> None:
        """Kill, stop and cut off at random moments until all have ended; `ended` gets the exit
        statuses."""
        kills, stopped = self.promoters // 4, dict[Pid, float]()
        deadline = time.monotonic() + 200
        while running:
            for pid in list(running):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ended[pid] = status
                    del running[pid]
                    stopped.pop(pid, None)
            for pid, wakes in list(stopped.items()):
                if time.monotonic() > wakes:
                    os.kill(pid, signal.SIGCONT)
                    del stopped[pid]
            active = [pid for pid in running if pid not in stopped]
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(running)} promoters did not end")
            time.sleep(self.rng.random() * 0.06)
            if not active or self.rng.random() < 0.3:
                continue
            holder = int.from_bytes(self.holder[:8], "little")
            hits_holder = holder in active and self.rng.random() < 0.5
            pid = holder if hits_holder else self.rng.choice(active)
            if kills and self.rng.random() < 0.25:
                kills -= 1
                os.kill(pid, signal.SIGKILL)
                self.counts["kills"] += 1
                self.counts["kills of the holder"] += pid == holder
            elif self.rng.random() < 0.3:
                os.kill(pid, signal.SIGSTOP)
                stopped[pid] = time.monotonic() + self.rng.random() * 0.8
                self.counts["stops"] += 1
                self.counts["stops of the holder"] += pid == holder
                if pid == holder and self.rng.random() < 0.5:
                    self._cut_off()

    def _cut_off(self) -> None:
        """End the sessions that hold an advisory lock, as an administrator or a failover does."""
        if self.settings.sqlite is not None:
            return
        import psycopg

        end_sessions = (
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )
        with psycopg.connect(self.settings.tracking_uri.replace("+psycopg", "")) as connection:
            self.counts["locks cut"] += len(connection.execute(end_sessions).fetchall())

    def _check(self, name: str, codes: dict[str, int]) -> dict[str, Any]:
        """`wrong`, a sentence per condition of the module's docstring that is not met, and `counts`."""
        registry, wrong = self._open_registry(), []
        began = time.monotonic()
        with registry.lock(name):
            waited = time.monotonic() - began
        finished = promotion.reconcile(registry, name)
        log, aliases = PromotionLog.read(registry.client, name), registry.aliases(name)
        scores = {v.version: _score(v) for v in registry.versions(name)}
        rows = log.promotions
        order = [row.version for row in rows]
        counts = {
            "promotions": len(order),
            "finished by the next start": len(finished),
            "ended as champion": sum(code == PROMOTED for code in codes.values()),
            "beaten": sum(code == BEATEN for code in codes.values()),
        }
        if waited > 1:
            wrong.append(f"the lock was acquired after {waited:.1f} s")
        expected = {PROMOTED, BEATEN, -signal.SIGKILL}
        wrong += [f"version {v} ended with {c}" for v, c in codes.items() if c not in expected]
        wrong += registry.inconsistencies(name)
        wrong += [f"the promotion of {intent.new} is open" for intent in log.intents]
        if len(set(order)) != len(order):
            wrong.append(f"a version is in the history twice: {order}")
        if [row.before for row in rows] != [None, *order[:-1]][: len(order)]:
            steps = [(row.before, row.version) for row in rows]
            wrong.append(f"a row does not begin where the one before ended: {steps}")
        if [scores[v] for v in order] != sorted(scores[v] for v in order):
            wrong.append(f"a worse version was promoted: {[scores[v] for v in order]}")
        last_two = tuple([None, None, *order][:-3:-1])
        if (aliases.get("champion"), aliases.get("previous")) != last_two:
            wrong.append(f"the aliases are {aliases}, the history {order}")
        took_part = {v for v, code in codes.items() if code in {PROMOTED, BEATEN}} | set(order)
        if took_part and aliases.get("champion") != max(took_part, key=lambda v: scores[v]):
            best = f"the best of {sorted(took_part)}"
            wrong.append(f"the champion is {aliases.get('champion')}, not {best}")
        wrong += [
            f"version {v} was promoted and has no row"
            for v, code in codes.items()
            if code == PROMOTED and v not in order
        ]
        pending = [n.promotion for n in notifications.pending(self.settings)]
        notified = [(p.when, p.new) for p in pending if p.name == name]
        if notified != [(row.when, row.version) for row in rows]:
            wrong.append(f"the pending notifications are {notified}")
        return {"wrong": wrong, "counts": counts}


def _score(version: Version) -> int:
    return int(version.tags[SCORE])


def _run_forked(function: Callable[[], Any]) -> Any:
    """What `function` returns in a process of its own, through JSON; None where it failed."""
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(reads)
            with os.fdopen(writes, "w") as f:
                json.dump(function(), f)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writes)
    with os.fdopen(reads) as f:
        text = f.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if status == 0 else None


def run(
    settings: Settings, *, rounds: int, seed: int = 0, promoters: int = 20
) -> tuple[dict[str, float], list[str]]:
    """Counts of what happened in `rounds` rounds, and what was wrong after them."""
    began, wrong = time.monotonic(), []
    race = Race(settings, promoters=promoters, seed=seed)
    for number in range(rounds):
        sentences = race.round(number)
        wrong += sentences
        for sentence in sentences:
            sys.stderr.write(sentence + "\n")
    seconds = round(time.monotonic() - began, 1)
    counts = dict(sorted(race.counts.items()))
    return {"rounds": rounds, **counts, "wrong": len(wrong), "seconds": seconds}, wrong


def main() -> int:
    """1 where a round ended in a wrong state."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from tests.kit.postgres import temporary

    quiet_libraries()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the server and the promoters too

    with (
        tempfile.TemporaryDirectory(prefix="reseed-race-") as folder,
        temporary(options.store) as server,
    ):
        home = Path(folder)
        uri = server.uri if server else f"sqlite:///{home / 'mlflow.db'}"
        settings = Settings(Workspace(home), uri)
        if server is None:
            from flows.tracking.store import connect

            _run_forked(lambda: str(connect(settings)))  # MLflow's migrations
        counts, wrong = run(settings, rounds=options.rounds, seed=options.seed)
    sys.stdout.write(json.dumps({"store": options.store, **counts}) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
