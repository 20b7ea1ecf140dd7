"""What to say when MLflow's store does not answer, or refuses who asks."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException

from flows.progress import say
from flows.settings import Settings
from tasks.errors import TransientError, UserError

PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


@functools.cache
def notice_silence(settings: Settings) -> None:
    """Say, once, that nothing listens where the store should be: MLflow and SQLAlchemy try again for minutes and say little."""
    at = urlsplit(settings.tracking_uri)
    port = PORTS.get(at.scheme.partition("+")[0])
    if not (at.hostname and port):
        return  # a file, or a socket
    try:
        socket.create_connection((at.hostname, at.port or port), timeout=5).close()
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or str(e)
        say(
            f"MLflow's store {settings.store} does not answer ({why}): it is asked again for some minutes; Ctrl-C ends that"
        )


def fault(error: BaseException, settings: Settings) -> UserError | TransientError | None:
    """The sentence about a store that refused (UserError) or did not answer (TransientError); None of another error."""
    text, where = str(error), f"MLflow's store {settings.store}"
    if isinstance(error, MlflowException):
        if "error code 401" in text:
            return UserError(
                f"{where} wants to know who asks, or does not know the user and password given: set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
            )
        if "error code 403" in text or "Permission denied" in text:
            return UserError(
                f"{where} does not let this user do that: have its administrator give the permission EDIT or MANAGE"
            )
        if "Max retries exceeded" in text or "failed with exception" in text:
            return TransientError(
                f"{where} did not answer: start it, or set MLFLOW_TRACKING_URI to where it is; what was finished is kept"
            )
    if (
        type(error).__module__.startswith("sqlalchemy")
        and type(error).__name__ == "OperationalError"
    ):
        said = text.splitlines()[0][:200]
        return TransientError(
            f"{where} did not answer as it should ({said}); what was finished is kept"
        )
    return None


@contextlib.contextmanager
def explained(settings: Settings) -> Iterator[None]:
    """A fault of the store within the body, as its sentence."""
    try:
        yield
    except Exception as e:
        if said := fault(e, settings):
            raise said from e
        raise
