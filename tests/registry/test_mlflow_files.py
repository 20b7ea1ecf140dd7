"""The files for a shared MLflow server name what MLflow reads."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import mlflow.environment_variables as known
import pytest

from tests.conftest import ROOT

# read by the command line of MLflow itself, not through its list of variables
OPTIONS = {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"}


def test_every_variable_of_the_example_is_one_that_mlflow_reads() -> None:
    text = (ROOT / "mlflow" / "server.env.example").read_text()
    names = set(re.findall(r"^#?(MLFLOW_\w+)=", text, re.M))
    assert len(names) >= 10
    assert {n for n in names - OPTIONS if not hasattr(known, n)} <= {"MLFLOW_DISABLE_TELEMETRY"}


def test_the_users_file_is_read_and_holds_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(ROOT / "mlflow" / "basic_auth.ini.example"))
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    # by its path: the package around it needs mlflow[auth], which is not installed
    path = Path(known.__file__).parent / "server" / "auth" / "config.py"
    spec = importlib.util.spec_from_file_location("auth_config", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    told = module.read_auth_config()
    assert (
        told.default_permission == "READ"
        and told.admin_username == "admin"
        and told.admin_password is None
    )
    assert told.database_uri.startswith("postgresql") and told.auth_cache_ttl_seconds == 60
