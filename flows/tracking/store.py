"""The MLflow store: connect to it, read all pages of a search, and explain its faults."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.progress import say
from flows.settings import Settings
from tasks import atomic
from tasks.errors import TransientError, UserError

PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


def connect(settings: Settings) -> MlflowClient:
    """A client of the store, which is created on first use.

    MLflow fills a new SQLite file by a chain of migrations, and refuses a file whose migrations were
    interrupted. So a new file is filled under a temporary name and then renamed.
    """
    db = settings.sqlite
    if db is not None and not db.exists():
        db.parent.mkdir(parents=True, exist_ok=True)
        with atomic.exclusive_lock(db.with_suffix(".new.lock"), f"the first start of {db}"):
            if not db.exists():
                _create_sqlite(db)
    warn_if_unreachable(settings)
    mlflow.set_tracking_uri(settings.tracking_uri)
    mlflow.set_registry_uri(settings.tracking_uri)
    return MlflowClient(settings.tracking_uri, settings.tracking_uri)


def _create_sqlite(db: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for leftover in db.parent.glob(f".{db.name}.*.new*"):
        leftover.unlink()
    new = db.with_name(f".{db.name}.{os.getpid()}.new")
    SqlAlchemyStore(f"sqlite:///{new}", str(db.parent / "mlartifacts")).engine.dispose()
    new.rename(db)


def all_pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Every item of an MLflow search; `search` takes a page token and returns that page."""
    token = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


@functools.cache
def warn_if_unreachable(settings: Settings) -> None:
    """Say, once per process, that nothing listens where the store should be.

    MLflow and SQLAlchemy retry for minutes and print little meanwhile.
    """
    at = urlsplit(settings.tracking_uri)
    port = PORTS.get(at.scheme.partition("+")[0])
    if not (at.hostname and port):
        return  # a file, or a socket
    try:
        socket.create_connection((at.hostname, at.port or port), timeout=5).close()
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or str(e)
        say(
            f"MLflow's store {settings.store} does not answer ({why}): retrying for some minutes; "
            "Ctrl-C stops"
        )


def describe_fault(error: BaseException, settings: Settings) -> UserError | TransientError | None:
    """The error as a sentence: UserError where the store refused, TransientError where it did not
    answer; None for an error that is not the store's."""
    text, store = str(error), f"MLflow's store {settings.store}"
    if isinstance(error, MlflowException):
        if "error code 401" in text:
            return UserError(
                f"{store} requires a login, or rejected the user and password: set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
            )
        if "error code 403" in text or "Permission denied" in text:
            return UserError(
                f"{store} does not permit this user to do that: ask its administrator for the "
                "permission EDIT or MANAGE"
            )
        if "Max retries exceeded" in text or "failed with exception" in text:
            return TransientError(
                f"{store} did not answer: start it, or set MLFLOW_TRACKING_URI to its address; "
                "finished work is kept"
            )
    kind = type(error)
    if kind.__module__.startswith("sqlalchemy") and kind.__name__ == "OperationalError":
        reason = text.splitlines()[0][:200]
        return TransientError(f"{store} failed ({reason}): try again; finished work is kept")
    return None


@contextlib.contextmanager
def explain_faults(settings: Settings) -> Iterator[None]:
    """Raise what describe_fault makes of a fault of the store within the body."""
    try:
        yield
    except Exception as e:
        if explained := describe_fault(e, settings):
            raise explained from e
        raise
