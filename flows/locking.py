"""The registry's lock: a file beside a SQLite store, an advisory lock on PostgreSQL. It goes with its process."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.settings import Settings
from tasks.errors import TransientError

LOCK_SECONDS = 120


@contextlib.contextmanager
def registry_lock(settings: Settings, name: str) -> Iterator[None]:
    """Hold the registry lock of the project `name`. Waiting longer than two minutes is a TransientError."""
    uri = settings.tracking_uri
    if uri.startswith("postgresql"):
        with _postgres_lock(uri, name):
            yield
        return
    db = settings.sqlite
    path = db.with_suffix(".lock") if db else settings.home / "locks" / "registry.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as f:
        _wait_for(f, path)
        yield


def _wait_for(f: Any, path: Path) -> None:
    until = time.monotonic() + LOCK_SECONDS
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
def _postgres_lock(uri: str, name: str) -> Iterator[None]:
    import psycopg

    scheme, _, rest = uri.partition("://")
    key = int.from_bytes(hashlib.sha256(f"reseed:{name}".encode()).digest()[:8], "big", signed=True)
    try:
        with psycopg.connect(f"{scheme.split('+')[0]}://{rest}", autocommit=True) as connection:
            connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
            connection.execute("SELECT pg_advisory_lock(%s)", (key,))
            yield  # the session's end frees the lock
    except psycopg.OperationalError as e:
        raise TransientError(f"PostgreSQL: {e}") from None
