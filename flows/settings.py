"""Settings that are read from the environment."""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import UserError
from tasks.workspace import Workspace

# what Prefect, MLflow and other libraries read from the environment when they are imported
LIBRARY_DEFAULTS = {
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 is too few on a busy machine
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "8",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the workspace, the MLflow store and the registry's lock are.

    `workspace` is RESEED_HOME, by default `.reseed` in the current folder. `tracking_uri` is
    MLFLOW_TRACKING_URI, by default a SQLite file in the workspace. `lock` is RESEED_LOCK: the URL of
    a PostgreSQL database, or `file` for a lock in this workspace; by default the lock is with the
    store.
    """

    workspace: Workspace
    tracking_uri: str
    lock: str = ""

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings of this process. Raises UserError for a RESEED_LOCK of another kind."""
        home = Path(os.environ.get("RESEED_HOME") or ".reseed").absolute()
        lock = os.environ.get("RESEED_LOCK", "")
        if lock not in {"", "file"} and not lock.startswith("postgresql"):
            scheme = lock.partition(":")[0][:20]  # the rest may hold a password
            raise UserError(
                f"RESEED_LOCK begins with {scheme!r}: set it to postgresql://USER@HOST/DATABASE, "
                "or to `file`"
            )
        workspace = Workspace(home)
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.mlflow_database}"
        return cls(workspace, store, lock)

    @property
    def sqlite(self) -> Path | None:
        """The store's file, where the store is SQLite."""
        path = self.tracking_uri.removeprefix("sqlite:///")
        return Path(path) if path != self.tracking_uri else None

    @property
    def store(self) -> str:
        """The store's address without user and password, for messages."""
        return re.sub(r"//[^/@]*@", "//", self.tracking_uri)


def current_user() -> str:
    """This machine's user; `unknown` where there is no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def quiet_libraries() -> None:
    """Set LIBRARY_DEFAULTS in the environment; call it before the libraries are imported.

    Variables that the user set are kept.
    """
    for name, value in LIBRARY_DEFAULTS.items():
        os.environ.setdefault(name, value)
