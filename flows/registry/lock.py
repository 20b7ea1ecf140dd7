"""The registry's lock: a file next to a SQLite store, an advisory lock on PostgreSQL.

It is released when its process ends. A process that is stopped for long can lose it: the server ends
the session, or somebody removes the file. So the holder gets a function that checks whether it still
holds the lock, and calls it before every write.
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
from typing import IO

from flows.settings import Settings
from flows.tracking.cleanup import workspace_id
from tasks.errors import TransientError, UserError

LOCK_SECONDS = 120
WORKSPACE = "reseed.workspace"  # tag of a model: the last workspace to promote with its own lock
Held = Callable[[], None]  # returns while the lock is held, raises LockLost otherwise

# no limit of the server may end the holder's session; a machine that is gone is noticed in 2 minutes
_SESSION = {
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
}
# with the session's own pid: behind a pooler the next statement may be in another session
_HELD = """
SELECT 1 FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid = pg_backend_pid()
AND (classid::bigint << 32) | objid::bigint = %s
"""


class LockLost(TransientError):
    """The registry's lock is not held any more: nothing more may be written."""


@contextlib.contextmanager
def registry_lock(settings: Settings, name: str) -> Iterator[Held]:
    """Hold the registry's lock of the model `name`; the body gets a function that raises LockLost.

    Raises TransientError after two minutes of waiting.
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
    """The tag by which a promotion notes its workspace, where each workspace has its own lock; empty
    where all share one. Call it while holding the lock.

    Raises UserError where `last`, the tag of the last promotion, is another workspace's.
    """
    uris = (settings.lock, settings.tracking_uri)
    if settings.sqlite or any(uri.startswith("postgresql") for uri in uris):
        return ""
    here = workspace_id(settings.workspace)
    if last and last.split()[0] != here and settings.lock != "file":
        raise UserError(
            f"{name!r} was promoted last in the workspace {last.partition(' ')[2]}, and with MLflow "
            f"at {settings.store} each workspace has its own lock, so two could promote at once: "
            "promote there, or set RESEED_LOCK in all workspaces to the URL of a PostgreSQL "
            "database, or here to `file` if no other workspace promotes any more"
        )
    return f"{here} {socket.gethostname()}:{settings.workspace.home}"


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[Held]:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        with path.open("a") as file:
            _acquire(file, path, deadline)
            if not _is_open_at(file, path):  # removed while we waited: a new file is the lock now
                continue

            def held() -> None:
                if not _is_open_at(file, path):
                    raise LockLost(f"the registry lock {path} was removed while it was held")

            yield held
            return


def _is_open_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _acquire(file: IO[str], path: Path, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"the registry lock {path} was held for {LOCK_SECONDS} s by another promotion: "
                    "try again later"
                ) from None
            time.sleep(0.05)


@contextlib.contextmanager
def _postgres_lock(uri: str, name: str) -> Iterator[Held]:
    import psycopg

    scheme, _, rest = uri.partition("://")
    key = int.from_bytes(hashlib.sha256(f"reseed:{name}".encode()).digest()[:8], "big", signed=True)
    try:
        with psycopg.connect(f"{scheme.split('+')[0]}://{rest}", autocommit=True) as connection:
            for setting, value in {"lock_timeout": f"{LOCK_SECONDS}s", **_SESSION}.items():
                with contextlib.suppress(psycopg.errors.UndefinedObject):  # before PostgreSQL 14
                    connection.execute(f"SET {setting} = '{value}'")
            connection.execute("SELECT pg_advisory_lock(%s)", (key,))

            def held() -> None:
                with contextlib.suppress(psycopg.OperationalError):
                    if connection.execute(_HELD, (key,)).fetchone():
                        return
                raise LockLost(
                    f"the registry lock of {name!r} was lost: PostgreSQL ended its session"
                )

            yield held  # the end of the session releases the lock
    except psycopg.OperationalError as e:
        raise TransientError(f"PostgreSQL: {e}") from None
