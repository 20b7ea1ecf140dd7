"""Promoters race for one name while some are killed, stopped and cut off, and what is left is checked against the history.

    python -m tests.kit.race --rounds 50 --store sqlite       (or postgres, where Debian's binaries are installed)

Each promoter has a version and a score. It promotes its version while its score is above the champion's, compares again on
ChampionMoved, and ends when it is champion or beaten. At random moments a promoter (half of the time the one that holds the lock)
gets SIGKILL, or SIGSTOP and later SIGCONT; on PostgreSQL the session of a stopped holder may be ended meanwhile, so that it
goes on without the lock. A round is right when, after the next start's reconcile:

- no intent is open, and the next process has the lock at once;
- the history has one row a promotion: numbered without a gap, linked, each `before` the version of the row before, no version
  twice, the scores rising;
- the champion is the version of the last row, `previous` that of the row before, and one letter a row waits;
- the champion's score is the highest of all that finished and all that stand in the history. (Who was killed before its intent
  was written took no part; one that was killed after it counts, because others carried it out.)
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
from tasks.model.bundle import ABOUT
from tasks.workspace import Workspace

NAME, SCORE = "race", "reseed.test.f1_macro"
PROMOTED, BEATEN, BROKEN = 0, 10, 11
Pid = int


def imported() -> None:
    """Import what a promoter needs, so that a fork has it."""
    stores = [
        "artifact.local_artifact_repo",
        "model_registry.sqlalchemy_store",
        "tracking.sqlalchemy_store",
    ]
    for name in ("mlflow.artifacts", *(f"mlflow.store.{s}" for s in stores), "psycopg"):
        importlib.import_module(name)


class Race:
    """Rounds on one store. This process never opens the store: connections do not survive a fork."""

    def __init__(self, settings: Settings, *, promoters: int = 20, seed: int = 0) -> None:
        imported()
        self.settings, self.promoters, self.rng = settings, promoters, random.Random(seed)
        self.sources = [self._source(i) for i in range(promoters)]
        self.holder = mmap(-1, 8)  # the process that holds the lock, as far as it says so itself
        self.done: Counter[str] = Counter()

    def _source(self, number: int) -> Path:
        """A version's files: a bundle as far as it is verified, which is what a promotion asks here."""
        source = self.settings.workspace.home / "sources" / str(number)
        directory = source / "artifacts" / "bundle"
        directory.mkdir(parents=True)
        atomic.write_json(directory / ABOUT, {"labels": {"a": "", "b": ""}, "number": number})
        atomic.seal(directory)
        return source

    def round(self, number: int) -> list[str]:
        """What was wrong after one round; nothing, it is hoped."""
        name = f"{NAME}-{number}"
        scores = self.rng.sample(range(1000), self.promoters)
        assert _forked(lambda: self._registered(name, scores)) is not None
        ready, says = os.pipe()
        waits, gate = os.pipe()
        ranks = sorted(range(self.promoters), key=lambda i: scores[i] + self.rng.gauss(0, 300))
        seeds = {
            i: self.rng.random() * 0.05 * at for at, i in enumerate(ranks)
        }  # mostly the worse ones first
        running: dict[Pid, str] = {}
        ended: dict[Pid, int] = {}
        for i in range(self.promoters):
            pid = os.fork()
            if not pid:
                os.close(gate)
                os._exit(self._promoter(name, str(i + 1), says=says, waits=waits, delay=seeds[i]))
            running[pid] = str(i + 1)
        try:
            for _ in running:
                os.read(ready, 1)
            os.close(gate)  # all at once
            self._trouble(dict(running), ended)
        finally:
            for pid in running.keys() - ended.keys():
                os.kill(pid, signal.SIGKILL)
        for fd in (ready, says, waits):
            os.close(fd)
        codes = {running[pid]: os.waitstatus_to_exitcode(status) for pid, status in ended.items()}
        found = _forked(lambda: self._wrong(name, codes))
        assert found is not None, "the check itself failed"
        self.done += Counter({k: v for k, v in found["counts"].items()})
        return [f"round {number}: {sentence}" for sentence in found["wrong"]]

    def _registry(self) -> Registry:
        from mlflow import MlflowClient

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        promotion.smoke_test = lambda *_, **__: None  # type: ignore[assignment]
        uri = self.settings.tracking_uri
        return Registry(MlflowClient(uri, uri), self.settings)

    def _registered(self, name: str, scores: list[int]) -> str:
        registry = self._registry()
        registry.client.create_registered_model(name)
        registry.set_notification_targets(name, {"webhook": "http://127.0.0.1:9/hook"})
        for score, source in zip(scores, self.sources, strict=True):
            digest = atomic.read_json(source / "artifacts" / "bundle" / atomic.MANIFEST)["digest"]
            tags = {"reseed.bundle": digest, SCORE: str(score)}
            registry.client.create_model_version(name, str(source), tags=tags)
        return "made"

    def _promoter(self, name: str, version: str, *, says: int, waits: int, delay: float) -> int:
        try:
            registry = self._registry()
            mine = registry.version(name, version)
            self._told_of_the_lock(registry)
            champion = registry.champion(name)
            os.write(says, b".")
            os.read(waits, 1)
            time.sleep(delay)
            while champion is None or score(champion) < score(mine):
                try:
                    promotion.promote(
                        registry, mine, expected=champion, reason="better", probes=[], labels=[]
                    )
                    return PROMOTED
                except (ChampionMoved, TransientError):
                    champion = registry.champion(name)
            return PROMOTED if champion.version == version else BEATEN
        except BaseException as e:
            sys.stderr.write(f"version {version}: {type(e).__name__}: {e}\n")
            os.write(says, b".")  # where it did not come so far, the others wait for it
            return BROKEN

    def _told_of_the_lock(self, registry: Registry) -> None:
        """Note in the shared memory who holds the lock, so that trouble finds it."""
        real = registry.lock

        @contextlib.contextmanager
        def lock(name: str) -> Any:
            with real(name) as held:
                self.holder[:8] = os.getpid().to_bytes(8, "little")
                yield held

        registry.lock = lock  # type: ignore[method-assign]

    def _trouble(self, running: dict[Pid, str], ended: dict[Pid, int]) -> None:
        """Kill, stop and cut off at random moments until all have ended, with their exit statuses in `ended`."""
        kills, stopped = self.promoters // 4, {}
        until = time.monotonic() + 200
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
            left = [pid for pid in running if pid not in stopped]
            if time.monotonic() > until:
                raise TimeoutError(f"{len(running)} promoters did not end")
            time.sleep(self.rng.random() * 0.06)
            if not left or self.rng.random() < 0.3:
                continue
            holder = int.from_bytes(self.holder[:8], "little")
            pid = holder if holder in left and self.rng.random() < 0.5 else self.rng.choice(left)
            if kills and self.rng.random() < 0.25:
                kills -= 1
                os.kill(pid, signal.SIGKILL)
                self.done["kills"] += 1
                self.done["kills of the holder"] += pid == holder
            elif self.rng.random() < 0.3:
                os.kill(pid, signal.SIGSTOP)
                stopped[pid] = time.monotonic() + self.rng.random() * 0.8
                self.done["stops"] += 1
                self.done["stops of the holder"] += pid == holder
                if pid == holder and self.rng.random() < 0.5:
                    self._cut()

    def _cut(self) -> None:
        """End the sessions that hold an advisory lock, as an administrator or a failover does."""
        if self.settings.sqlite is not None:
            return
        import psycopg

        ends = (
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )
        with psycopg.connect(self.settings.tracking_uri.replace("+psycopg", "")) as connection:
            self.done["locks cut"] += len(connection.execute(ends).fetchall())

    def _wrong(self, name: str, codes: dict[str, int]) -> dict[str, Any]:
        """What the states of the class's docstring are not."""
        registry, wrong = self._registry(), []
        began = time.monotonic()
        with registry.lock(name):
            waited = time.monotonic() - began
        finished = promotion.reconcile(registry, name)
        found, aliases = PromotionLog.read(registry.client, name), registry.aliases(name)
        scores = {v.version: score(v) for v in registry.versions(name)}
        order = [row.version for row in found.rows]
        counts = {
            "promotions": len(order),
            "finished by the next start": len(finished),
            "ended as champion": sum(code == PROMOTED for code in codes.values()),
            "beaten": sum(code == BEATEN for code in codes.values()),
        }
        if waited > 1:
            wrong.append(f"the lock was had after {waited:.1f} s")
        wrong += [
            f"version {v} ended with {c}"
            for v, c in codes.items()
            if c not in {PROMOTED, BEATEN, -9}
        ]
        wrong += [
            *registry.inconsistencies(name),
            *(f"the promotion of {i.new} is open" for i in found.intents),
        ]
        if len(set(order)) != len(order):
            wrong.append(f"a version stands twice in the history: {order}")
        if [row.before for row in found.rows] != [None, *order[:-1]][: len(order)]:
            wrong.append(
                f"a row does not begin where the one before ended: {[(r.before, r.version) for r in found.rows]}"
            )
        if [scores[v] for v in order] != sorted(scores[v] for v in order):
            wrong.append(f"something worse was promoted: {[scores[v] for v in order]}")
        if (aliases.get("champion"), aliases.get("previous")) != tuple(
            ([None, None, *order])[:-3:-1]
        ):
            wrong.append(f"the aliases are {aliases}, the history {order}")
        part = {v for v, code in codes.items() if code in {PROMOTED, BEATEN}} | set(order)
        if part and aliases.get("champion") != max(part, key=lambda v: scores[v]):
            wrong.append(
                f"the champion is {aliases.get('champion')}, not the best of {sorted(part)}"
            )
        wrong += [
            f"version {v} was promoted and has no row"
            for v, c in codes.items()
            if c == PROMOTED and v not in order
        ]
        told = [
            (t["when"], t["version"])
            for t in notifications.pending(self.settings)
            if t["model"] == name
        ]
        if told != [(row.when, row.version) for row in found.rows]:
            wrong.append(f"the letters are {told}")
        return {"wrong": wrong, "counts": counts}


def score(version: Version) -> int:
    return int(version.tags[SCORE])


def _forked(do: Callable[[], Any]) -> Any:
    """What `do` returns in a process of its own, through JSON; None when it failed."""
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(reads)
            with os.fdopen(writes, "w") as f:
                json.dump(do(), f)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writes)
    with os.fdopen(reads) as f:
        said = f.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(said) if status == 0 else None


def run(
    settings: Settings, *, rounds: int, seed: int = 0, promoters: int = 20
) -> tuple[dict[str, float], list[str]]:
    """What happened in `rounds` rounds, counted, and what was wrong after them."""
    began, wrong = time.monotonic(), []
    race = Race(settings, promoters=promoters, seed=seed)
    for number in range(rounds):
        found = race.round(number)
        wrong += found
        for sentence in found:
            sys.stderr.write(sentence + "\n")
    seconds = round(time.monotonic() - began, 1)
    return {
        "rounds": rounds,
        **dict(sorted(race.done.items())),
        "wrong": len(wrong),
        "seconds": seconds,
    }, wrong


def main() -> int:
    """1 when a round ended in a wrong state."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from tests.kit.postgres import temporary

    quiet_libraries()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(1)
    )  # so that the server and the promoters are ended

    with (
        tempfile.TemporaryDirectory(prefix="reseed-race-") as folder,
        temporary(options.store) as server,
    ):
        home = Path(folder)
        settings = Settings(
            Workspace(home), server.uri if server else f"sqlite:///{home / 'mlflow.db'}"
        )
        if server is None:
            from flows.tracking.store import connect

            _forked(lambda: str(connect(settings)))  # MLflow's migrations
        told, wrong = run(settings, rounds=options.rounds, seed=options.seed)
    sys.stdout.write(json.dumps({"store": options.store, **told}) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
