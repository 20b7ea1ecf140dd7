"""A store that refuses, or is not there: one sentence that says what to do, and no password in it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.settings import Settings
from flows.tracking import store
from tasks.errors import TransientError
from tasks.workspace import Workspace
from tests.conftest import ROOT, Command
from tests.kit.processes import free_port


@pytest.fixture
def refusing() -> Iterator[Callable[[int], str]]:
    """The address of a server that answers every request with this status, as a user's password stands in it."""
    servers = []

    def start(status: int) -> str:
        class Refusing(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"Permission denied")

            do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Refusing))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://ana:hush@127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "MLFLOW_TRACKING_PASSWORD"), (403, "EDIT or MANAGE")]
)
@pytest.mark.parametrize("verb", ["status", "history"])
def test_who_may_not_is_told_what_to_set(
    verb: str,
    status: int,
    remedy: str,
    refusing: Callable[[int], str],
    reseed: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing(status))
    code, _, err = reseed(verb, "toy")
    assert code == 2 and remedy in err and "hush" not in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err


def test_a_store_that_is_not_there_is_said_before_the_wait_and_after(
    reseed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://ana:hush@127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # minutes otherwise
    for lines in (2, 1):  # once a process
        code, _, err = reseed("status", "toy")
        said = err.strip().splitlines()
        assert code == 1 and len(said) == lines and "hush" not in err, err
        assert "did not answer: start it" in said[-1] and (
            lines == 1 or "refused): retrying" in said[0]
        )


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////nowhere/x.db",
        "postgresql+psycopg://me@/x?host=/run/pg",
        "file:///x",
        "databricks",
    ],
)
def test_a_store_without_a_port_is_not_knocked_at(
    uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store.warn_if_unreachable(Settings(Workspace(tmp_path), uri))
    assert capfd.readouterr().err == ""


def test_another_error_is_none_of_the_stores(tmp_path: Path) -> None:
    assert (
        store.describe_fault(
            ValueError("error code 401"), Settings(Workspace(tmp_path), "http://x")
        )
        is None
    )


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    import sqlalchemy

    uri = f"postgresql+psycopg://me:hush@127.0.0.1:{free_port()}/x"
    with pytest.raises(sqlalchemy.exc.OperationalError) as e:
        sqlalchemy.create_engine(uri).connect()
    said = store.describe_fault(e.value, Settings(Workspace(tmp_path), uri))
    assert isinstance(said, TransientError) and "refused" in str(said)
    assert "hush" not in str(said) and "\n" not in str(said)


@pytest.mark.slow
def test_the_command_says_it_once(
    refusing: Callable[[int], str],
    home: Path,
    fresh_process: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing(401))
    ran = fresh_process("retrain", ROOT / "configs" / "bbc-news.yaml", home=home)
    said = ran.stderr.strip().splitlines()
    assert (
        ran.returncode == 2 and len(said) == 1 and said[0].startswith("reseed: MLflow's store")
    ), ran.stderr
