"""Where things are, read once from the environment."""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import UserError
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Settings:
    """`workspace` is RESEED_HOME (RESEED_HOME, otherwise .reseed here); `tracking_uri` is MLflow's store
    (MLFLOW_TRACKING_URI, otherwise a SQLite file in the workspace); `lock` is where the registry's lock is (RESEED_LOCK: a
    PostgreSQL URL, or `file` for one in this workspace; otherwise beside the store)."""

    workspace: Workspace
    tracking_uri: str
    lock: str = ""

    @classmethod
    def from_environment(cls) -> Settings:
        home = Path(os.environ.get("RESEED_HOME") or ".reseed").absolute()
        lock = os.environ.get("RESEED_LOCK", "")
        if lock not in {"", "file"} and not lock.startswith("postgresql"):
            scheme = lock.partition(":")[0][:20]  # no more of it: it may hold a password
            raise UserError(
                f"RESEED_LOCK begins with {scheme!r}: give postgresql://USER@HOST/DATABASE, or `file`"
            )
        workspace = Workspace(home)
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.mlflow_database}"
        return cls(workspace, store, lock)

    @property
    def sqlite(self) -> Path | None:
        """The store's file, where the store is SQLite."""
        return (
            Path(self.tracking_uri.removeprefix("sqlite:///"))
            if self.tracking_uri.startswith("sqlite:///")
            else None
        )

    @property
    def store(self) -> str:
        """The store's address for a person to read: without a user and password."""
        return re.sub(r"//[^/@]*@", "//", self.tracking_uri)


def current_user() -> str:
    """This machine's user, or `unknown`: a container's may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def quiet_libraries() -> None:
    """Set what Prefect and MLflow read from the environment when they are imported. What the user set stays."""
    os.environ.setdefault("PREFECT_RESULTS_DEFAULT_SERIALIZER", "json")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault(
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180"
    )  # 20 is too few on a busy machine
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("AWS_RETRY_MODE", "standard")
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "8")
