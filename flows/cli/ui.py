"""The MLflow and Prefect servers on this machine, side by side, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

from flows.serving.api import bind_port
from flows.settings import Settings
from flows.tracking.store import connect
from tasks.errors import TransientError
from tasks.figures import Figures

START_SECONDS = 120


class UiAddresses(Figures):
    """The addresses of both UIs."""

    mlflow: str
    prefect: str


@dataclass
class Server:
    """A server on loopback, with its output in `log`; it has no jobs of MLflow's judges."""

    name: str
    command: list[str]
    port: int
    health: str
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def address(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server in a process group of its own."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        arguments = ["--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise TransientError where the process has ended."""
        if self.process is not None and self.process.poll() is not None:
            raise TransientError(
                f"the {self.name} server ended with {self.process.returncode}: see {self.log}"
            )

    def wait_until_healthy(self) -> None:
        """Return when the server answers. Raises TransientError after two minutes."""
        deadline, url = time.monotonic() + START_SECONDS, self.address + self.health
        while time.monotonic() < deadline:
            self.check()
            with suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310
                return
            time.sleep(0.5)
        raise TransientError(f"{url} did not answer within {START_SECONDS} s: see {self.log}")

    def stop(self) -> None:
        """End the process group, by force after ten seconds."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)


def mlflow_server(settings: Settings, port: int) -> Server:
    """MLflow's server over the workspace's store."""
    command = ["mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", settings.tracking_uri]
    command += ["--artifacts-destination", str(settings.workspace.mlflow_artifacts)]
    return Server("mlflow", command, port, "/health", settings.workspace.logs / "mlflow.log")


def run_servers(
    settings: Settings,
    *,
    mlflow_port: int,
    prefect_port: int,
    ready: Callable[[UiAddresses], None],
) -> None:
    """Start the servers that do not run elsewhere, call `ready` when they answer, and stay.

    Raises UserError where a port is taken, TransientError where a server ends or does not answer.
    """
    addresses, servers = {}, []
    if settings.tracking_uri.startswith("http"):
        addresses["mlflow"] = settings.tracking_uri
    else:
        connect(settings)
        servers.append(mlflow_server(settings, mlflow_port))
    if url := os.environ.get("PREFECT_API_URL"):
        addresses["prefect"] = url.removesuffix("/api")
    else:
        log, command = settings.workspace.logs / "prefect.log", ["prefect", "server", "start"]
        servers.append(Server("prefect", command, prefect_port, "/api/health", log))
    for server in servers:
        bind_port("127.0.0.1", server.port, f"give --{server.name}-port another").close()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_until_healthy()
            addresses[server.name] = server.address
        ready(UiAddresses(**addresses))
        while servers:
            time.sleep(1)
            for server in servers:
                server.check()
    except KeyboardInterrupt:
        return
    finally:
        for server in servers:
            server.stop()


def show_ui_addresses(addresses: UiAddresses) -> None:
    """Print both addresses."""
    click.echo(
        f"mlflow   {addresses.mlflow}  (choose Model training at the top left, then a project)"
    )
    click.echo(f"prefect  {addresses.prefect}")
    click.echo("Ctrl-C ends both")
