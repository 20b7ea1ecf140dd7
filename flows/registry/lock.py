"""The registry's lock: a file beside a SQLite store, an advisory lock on PostgreSQL. It goes with its process.

Who holds it may be stopped for longer than the lock lives: the server ends the session, somebody removes the file. So
the holder gets a way to look whether the lock is still its own, and looks before every write.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from flows.settings import Settings
from flows.tracking.cleanup import workspace_id
from tasks.errors import TransientError, UserError

LOCK_SECONDS = 120
WORKSPACE = "reseed.workspace"  # of a registered model: the one that promoted last, where each has a lock of its own
Held = Callable[[], None]  # returns while the lock is held; raises LockLost otherwise

# no limit of the server's ends the session that holds the lock; a machine that is gone is noticed in two minutes
_SESSION = {
    "lock_timeout": "{seconds}s",
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
}
# by the session's own number: behind a pooler that gives each statement another session the lock is not ours
_MINE = """
SELECT 1 FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid = pg_backend_pid()
AND (classid::bigint << 32) | objid::bigint = %s
"""


class LockLost(TransientError):
    """The registry's lock is not held any more: whatever was to be written is left, and tried again later."""


@contextlib.contextmanager
def registry_lock(settings: Settings, name: str) -> Iterator[Held]:
    """Hold the registry lock of the project `name`; the body gets a function that raises LockLost once it is lost.

    Waiting longer than two minutes is a TransientError.
    """
    uri = settings.lock or settings.tracking_uri
    if uri.startswith("postgresql"):
        with _postgres_lock(uri, name) as held:
            yield held
        return
    db = settings.sqlite
    path = db.with_suffix(".lock") if db else settings.workspace.lock("registry")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _file_lock(path) as held:
        yield held


def require_single_workspace(settings: Settings, name: str, last: str) -> str:
    """What to note of this workspace at a promotion where each workspace has a lock of its own; nothing where all have one. Call it
    under the lock.

    Raises UserError where `last`, what the last promotion noted, is another workspace.
    """
    if settings.sqlite or any(
        uri.startswith("postgresql") for uri in (settings.lock, settings.tracking_uri)
    ):
        return ""
    mine = workspace_id(settings.workspace)
    if last and last.split()[0] != mine and settings.lock != "file":
        raise UserError(
            f"{name!r} was promoted last in the workspace {last.partition(' ')[2]}, and with MLflow at {settings.store} each "
            "workspace has a lock of its own, so two could promote at once: promote there, or set RESEED_LOCK in all of them to "
            "the URL of a PostgreSQL database, or here to `file` where no other workspace promotes any more"
        )
    return f"{mine} {socket.gethostname()}:{settings.workspace.home}"


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[Held]:
    until = time.monotonic() + LOCK_SECONDS
    while True:
        with path.open("a") as f:
            _wait_for(f, path, until)
            if not _is(f, path):  # it was removed while we waited: another file is the lock now
                continue

            def held() -> None:
                if not _is(f, path):
                    raise LockLost(f"the registry lock {path} was removed while it was held")

            yield held
            return


def _is(f: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(f.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _wait_for(f: Any, path: Path, until: float) -> None:
    while True:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise TransientError(
                    f"the registry lock {path} was held for {LOCK_SECONDS} s by another promotion"
                ) from None
            time.sleep(0.05)


@contextlib.contextmanager
def _postgres_lock(uri: str, name: str) -> Iterator[Held]:
    import psycopg

    scheme, _, rest = uri.partition("://")
    key = int.from_bytes(hashlib.sha256(f"reseed:{name}".encode()).digest()[:8], "big", signed=True)
    try:
        with psycopg.connect(f"{scheme.split('+')[0]}://{rest}", autocommit=True) as connection:
            for setting, value in _SESSION.items():
                with contextlib.suppress(
                    psycopg.errors.UndefinedObject
                ):  # idle_session_timeout is PostgreSQL 14's
                    connection.execute(f"SET {setting} = '{value.format(seconds=LOCK_SECONDS)}'")
            connection.execute("SELECT pg_advisory_lock(%s)", (key,))

            def held() -> None:
                try:
                    if connection.execute(_MINE, (key,)).fetchone():
                        return
                except psycopg.OperationalError:
                    pass
                raise LockLost(
                    f"the registry lock of {name!r} was lost: PostgreSQL ended the session that held it"
                )

            yield held  # the session's end frees the lock
    except psycopg.OperationalError as e:
        raise TransientError(f"PostgreSQL: {e}") from None
