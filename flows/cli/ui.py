"""The MLflow and Prefect UIs on this machine, side by side, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from flows.serving.api import bind_port
from flows.settings import Settings
from flows.tracking.store import connect
from tasks.errors import TransientError

START_SECONDS = 120
HINTS = {"mlflow": "  (choose Model training at the top left, then a project)"}


def mlflow_command(settings: Settings, port: int) -> list[str]:
    """The MLflow server over the workspace's store, on loopback."""
    store = [
        "--backend-store-uri",
        settings.tracking_uri,
        "--artifacts-destination",
        str(settings.workspace.mlflow_artifacts),
    ]
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *store,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]


def prefect_command(port: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]


def run_servers(
    settings: Settings, *, mlflow_port: int, prefect_port: int, announce: Callable[..., None]
) -> None:
    """Start what is not served elsewhere already, wait until both answer, announce, and stay.

    Raises UserError when a port is taken, TransientError when a server ends or does not answer within two minutes.
    """
    addresses: dict[str, str] = {}
    wanted: dict[str, tuple[list[str], int, str]] = {}
    if settings.tracking_uri.startswith("http"):
        addresses["mlflow"] = settings.tracking_uri
    else:
        connect(settings)
        wanted["mlflow"] = (mlflow_command(settings, mlflow_port), mlflow_port, "/health")
    if os.environ.get("PREFECT_API_URL"):
        addresses["prefect"] = os.environ["PREFECT_API_URL"].removesuffix("/api")
    else:
        wanted["prefect"] = (prefect_command(prefect_port), prefect_port, "/api/health")
    for name, (_, port, _) in wanted.items():
        bind_port("127.0.0.1", port, f"give --{name}-port another").close()
    logs = settings.workspace.logs
    logs.mkdir(parents=True, exist_ok=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for name, (command, port, _) in wanted.items():
            running[name] = start_server(command, logs / f"{name}.log")
            addresses[name] = f"http://127.0.0.1:{port}"
        for name, (_, _, health) in wanted.items():
            wait_until_healthy(running[name], addresses[name] + health, logs / f"{name}.log")
        announce(addresses, lambda: _show(addresses))
        while True:
            for name, process in running.items():
                if process.poll() is not None:
                    raise TransientError(
                        f"the {name} server ended with {process.returncode}: see {logs / f'{name}.log'}"
                    )
            if not running:
                return
            time.sleep(1)
    except KeyboardInterrupt:
        return
    finally:
        for process in running.values():
            stop_server(process)


def start_server(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The server in a process group of its own, with job processes off and its output in `log`."""
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as f:
        return subprocess.Popen(
            command, stdout=f, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise TransientError(f"{url}: the server ended with {process.returncode}: see {log}")
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310  (loopback)
            return
        time.sleep(0.5)
    raise TransientError(f"{url} did not answer within {START_SECONDS} s: see {log}")


def stop_server(process: subprocess.Popen[bytes]) -> None:
    """End the server's whole process group, by force after ten seconds."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _show(addresses: dict[str, Any]) -> None:
    for name in ("mlflow", "prefect"):
        click.echo(f"{name:<8} {addresses[name]}{HINTS.get(name, '')}")
    click.echo("Ctrl-C ends both")
