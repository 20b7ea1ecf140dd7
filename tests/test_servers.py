"""The servers that a user meets, for real: both UIs, a deployment on a worker, the model over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.settings import Settings
from tests.conftest import ROOT, Command, last_json
from tests.kit import toy
from tests.kit.deployed import Run
from tests.kit.processes import BIN, free_port, get, running, wait_for
from tests.kit.promoted import Promoted

pytestmark = pytest.mark.slow


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


def test_a_deployment_on_a_worker_waits_for_a_person_and_does_as_is_said(
    tmp_path: Path, llm: Any, encoder: Path, home: Path, prefect_server: str, reseed: Command
) -> None:
    """`prefect deploy --all` of this repository's prefect.yaml, then runs of `retrain/bbc-news` with the toy project.

    A run ends its process while it waits for approval; a new process goes on from there.
    """
    approval = {"approval": "required"}
    config = toy.project(tmp_path / "project", endpoint=llm.url, encoder=encoder, promote=approval)
    api = prefect_server
    environment = {
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "RESEED_HOME": str(home),
    }

    def prefect(*arguments: str) -> None:
        ran = subprocess.run(
            [BIN / "prefect", "--no-prompt", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            cwd=ROOT,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    prefect("work-pool", "create", "reseed", "--type", "process")
    prefect("deploy", "--all")
    worker = ("worker", "start", "--pool", "reseed")
    with running(BIN / "prefect", *worker, **environment, PREFECT_WORKER_QUERY_SECONDS="1"):
        first = Run.started(api, "retrain/bbc-news", {"config": str(config)})
        first.reaches("Suspended", 200)
        assert "toy: promote?" in first.question("approve-1-none")
        assert first.resume(approve=False, by="ada", reason="too few rows") == "ACCEPT"
        first.reaches("Completed", 200)
        history = last_json(reseed("history", "toy", "--json")[1])
        assert history["champion"] is None and history["inconsistencies"] == []
        assert [(row["version"], row["kind"], row["who"]) for row in history["history"]] == [
            ("1", "refused", "ada")
        ]

        second = Run.started(api, "retrain/bbc-news", {"config": str(config), "fresh": True})
        second.reaches("Suspended", 200)
        assert "toy: promote?" in second.question("approve-2-none")
        assert second.resume(approve=True, by="bob", reason="enough rows now") == "ACCEPT"
        second.reaches("Completed", 200)

    history = last_json(reseed("history", "toy", "--json")[1])
    assert history["champion"] == "2" and history["inconsistencies"] == []
    (_, row) = history["history"]
    assert (row["kind"], row["who"]) == ("verdict", "bob")
    assert "approved by bob: enough rows now" in row["reason"]

    assert get(second.address)[1]["name"].startswith("toy 20")
    of_run = {"flow_runs": {"id": {"any_": [second.address.rpartition("/")[2]]}}}
    _, tasks = get(f"{api}/task_runs/filter", of_run)
    names = {t["name"].rsplit("-", 1)[0] for t in tasks}
    assert {"split", "curate", "train", "register", "promote"} <= names
    assert any(t["name"].startswith("synthesise 1") for t in tasks)
    _, artifacts = get(f"{api}/artifacts/filter", of_run)
    table = next(a for a in artifacts if a["key"] == "toy-retrain")
    assert "| verdict | promote" in table["data"]
    _, deployment = get(f"{api}/deployments/name/retrain/bbc-news")
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["schedules"][0]["schedule"]["cron"] == "0 3 * * 1"


def test_the_schedule_of_the_deployment_is_the_projects() -> None:
    import yaml

    from tasks.project.reader import load_project

    (deployment,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    schedule = load_project(ROOT / deployment["parameters"]["config"]).schedule
    assert deployment["schedules"] == [{"cron": schedule.cron, "timezone": schedule.timezone}]


def test_the_champion_answers_everywhere(
    tmp_path: Path, promoted: Promoted, reseed: Command
) -> None:
    """`reseed predict` from arguments, files and standard input, `reseed serve`, and `mlflow models serve` agree."""
    import random

    rng = random.Random(5)
    texts = [toy.sentence(toy.REAL[kind], rng) for kind in toy.LABELS]

    said = last_json(reseed("predict", "toy", *texts, "--json")[1])
    assert (said["model"], said["version"], said["rows"]) == ("toy", "1", 3)
    expected = [p["label"] for p in said["predictions"]]
    assert sum(e == label for e, label in zip(expected, toy.LABELS, strict=True)) >= 2
    assert all(abs(sum(p["scores"].values()) - 1) < 1e-4 for p in said["predictions"])

    source = toy.write_csv(tmp_path / "in.csv", [{"text": t, "note": "=1+1"} for t in texts])
    code, _, err = reseed("predict", "toy", "--in", source, "--out", tmp_path / "out.jsonl")
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
    uri = Settings.from_environment().tracking_uri
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
