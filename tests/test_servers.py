"""The servers that a user meets, for real: both UIs, a deployment on a worker, the model over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Command, last_json
from tests.kit import toy

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def get(url: str, body: Any = None, timeout: float = 60) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as r:
            status, text = r.status, r.read().decode()
    except urllib.error.HTTPError as e:
        status, text = e.code, e.read().decode()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen within {seconds} s")


@contextmanager
def running(*command: str | Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, ended with all its children."""
    process = subprocess.Popen(
        [str(c) for c in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for force in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, force)
                process.wait(20)


def test_both_uis_boot_from_the_lock_and_go_with_the_command(
    home: Path, prefect_home: Path
) -> None:
    ports = {"mlflow": free_port(), "prefect": free_port()}
    command = [
        BIN / "reseed",
        "ui",
        "--json",
        "--mlflow-port",
        ports["mlflow"],
        "--prefect-port",
        ports["prefect"],
    ]
    with running(*map(str, command), RESEED_HOME=str(home), PREFECT_HOME=str(prefect_home)) as ui:
        assert ui.stdout is not None
        addresses = json.loads(ui.stdout.readline())
        assert addresses == {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        assert get(addresses["mlflow"] + "/health")[0] == 200
        assert get(addresses["prefect"] + "/api/health") == (200, True)
        assert "<html" in get(addresses["mlflow"])[1] and "<html" in get(addresses["prefect"])[1]
        assert (
            get(addresses["mlflow"] + "/api/2.0/mlflow/experiments/search", {"max_results": 5})[0]
            == 200
        )
        ui.send_signal(signal.SIGTERM)
        assert ui.wait(30) == 0
    for port in ports.values():
        wait_for(lambda p=port: _closed(p), f"port {port} to be free", 20)


def _closed(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != 0


def test_the_deployment_completes_on_a_worker(
    tmp_path: Path, llm: Any, encoder: Path, home: Path
) -> None:
    """`prefect deploy --all` of this repository's prefect.yaml, then a run of `retrain/bbc-news` with the toy project."""
    config = toy.project(tmp_path / "project", endpoint=llm.url, encoder=encoder)
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    environment = {
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "RESEED_HOME": str(home),
    }
    prefect = str(BIN / "prefect")

    def run(*arguments: str) -> str:
        command = [prefect, "--no-prompt", *arguments]
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            cwd=ROOT,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    with running(
        prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port), **environment
    ):
        wait_for(lambda: get(f"{api}/health")[0] == 200, "the Prefect server")
        run("work-pool", "create", "reseed", "--type", "process")
        run("deploy", "--all")
        with running(prefect, "worker", "start", "--pool", "reseed", **environment):
            run("deployment", "run", "retrain/bbc-news", "--param", f"config={config}")

            def ended() -> Any:
                _, runs = get(f"{api}/flow_runs/filter", {"sort": "START_TIME_DESC"})
                done = [r for r in runs if r["state"]["type"] in {"COMPLETED", "FAILED", "CRASHED"}]
                return done[0] if done else None

            flow_run = wait_for(ended, "the end of the flow run", 200)
        assert flow_run["state"]["type"] == "COMPLETED", flow_run["state"]["message"]
        assert flow_run["name"].startswith("toy 20")
        _, tasks = get(f"{api}/task_runs/filter", {"task_runs": {}})
        names = {t["name"].rsplit("-", 1)[0] for t in tasks}
        assert {"split", "curate", "train", "register", "promote"} <= names
        assert any(t["name"].startswith("synthesise 1") for t in tasks)
        _, artifacts = get(f"{api}/artifacts/filter", {})
        table = next(a for a in artifacts if a["key"] == "toy-retrain")
        assert "| verdict | promote" in table["data"]
        _, deployment = get(f"{api}/deployments/name/retrain/bbc-news")
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["schedules"][0]["schedule"]["cron"] == "0 3 * * 1"

    from flows.registry.client import Registry
    from flows.settings import Settings
    from flows.tracking.store import connect
    from tasks.workspace import Workspace

    settings = Settings(Workspace(home), f"sqlite:///{home / 'mlflow.db'}")
    assert Registry(connect(settings), settings).champion("toy") is not None


def test_the_schedule_of_the_deployment_is_the_projects() -> None:
    import yaml

    from tasks.project.reader import load_project

    (deployment,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    schedule = load_project(ROOT / deployment["parameters"]["config"]).schedule
    assert deployment["schedules"] == [{"cron": schedule.cron, "timezone": schedule.timezone}]


@pytest.mark.usefixtures("prefect_server")
def test_the_champion_answers_everywhere(
    tmp_path: Path, llm: Any, encoder: Path, home: Path, reseed: Command
) -> None:
    """`reseed predict` from arguments, files and standard input, `reseed serve`, and `mlflow models serve` agree."""
    import random

    config = toy.project(tmp_path / "project", endpoint=llm.url, encoder=encoder)
    code, out, err = reseed("retrain", config, "--json")
    assert code == 0 and last_json(out)["promoted"], err
    rng = random.Random(5)
    texts = [toy.sentence(toy.REAL[kind], rng) for kind in toy.LABELS]

    said = last_json(reseed("predict", "toy", *texts, "--json")[1])
    assert (said["model"], said["version"], said["rows"]) == ("toy", "1", 3)
    expected = [p["label"] for p in said["predictions"]]
    assert sum(e == label for e, label in zip(expected, toy.LABELS, strict=True)) >= 2
    assert all(abs(sum(p["scores"].values()) - 1) < 1e-4 for p in said["predictions"])

    source = toy.write_csv(tmp_path / "in.csv", [{"text": t, "note": "=1+1"} for t in texts])
    code, out, err = reseed("predict", "toy", "--in", source, "--out", tmp_path / "out.jsonl")
    assert code == 0, err
    assert [
        json.loads(line)["label"] for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ] == expected
    assert (
        reseed("predict", "toy", "--in", tmp_path / "out.jsonl", "--out", tmp_path / "out.csv")[0]
        == 0
    )
    assert [line.split(",")[1] for line in (tmp_path / "out.csv").read_text().splitlines()] == [
        "label",
        *expected,
    ]
    assert reseed("predict", "toy", "--in", source, "--out", tmp_path / "out.csv")[0] == 2, (
        "an output is not overwritten"
    )

    piped = subprocess.run(
        [BIN / "reseed", "predict", "toy"],
        input="\n".join(texts),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert piped.returncode == 0, piped.stderr
    assert [line.split("\t")[0] for line in piped.stdout.splitlines()] == expected

    with running(BIN / "reseed", "serve", "toy", "--port", "0", "--json") as server:
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["address"]
        wait_for(lambda: get(f"{address}/ready")[0] == 200, "the model to be ready")
        assert get(f"{address}/health") == (200, {"status": "ok"})
        status, body = get(f"{address}/predict", {"texts": texts})
        assert status == 200 and body["version"] == "1"
        assert [p["label"] for p in body["predictions"]] == expected
        for bad in (
            {"texts": []},
            {"texts": [" "]},
            {"text": "x"},
            {"texts": ["x"] * 257},
            {"texts": ["x" * 100_001]},
            {"texts": [1]},
        ):
            assert get(f"{address}/predict", bad)[0] == 422, str(bad)[:60]

    port = free_port()
    uri = os.environ["MLFLOW_TRACKING_URI"]
    command = [
        "models",
        "serve",
        "-m",
        "models:/toy@champion",
        "--env-manager",
        "local",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    activated = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": uri,
    }  # it looks for uvicorn there
    with running(BIN / "mlflow", *command, **activated):
        wait_for(lambda: get(f"http://127.0.0.1:{port}/ping")[0] == 200, "mlflow models serve")
        status, body = get(
            f"http://127.0.0.1:{port}/invocations",
            {"dataframe_records": [{"text": t} for t in texts]},
        )
        assert status == 200 and [p["label"] for p in body["predictions"]] == expected
