"""kill -9 at the worst moments, then the same command again: it finishes, buys nothing twice, leaves one champion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.train.stage import TrainResult
from tasks.workspace import Workspace
from tests.conftest import last_json
from tests.kit import toy

pytestmark = pytest.mark.slow

KILL = "import os, signal\ndef die(): os.kill(os.getpid(), signal.SIGKILL)\n"

AT = {
    # when the LLM sends its 20th answer
    "synthesise": KILL
    + """
from tasks.llm import wire
real, sent = wire.send_chat, []
async def send(api, body):
    sent.append(body)
    if len(sent) == 20: die()
    return await real(api, body)
wire.send_chat = send
""",
    # when the second checkpoint is being written: its files are there, its manifest is not
    "train": KILL
    + """
from tasks import atomic
real, sealed = atomic.seal, []
def seal(directory, about=None):
    if directory.name.startswith("checkpoint-"):
        sealed.append(directory)
        if len(sealed) == 2: die()
    return real(directory, about)
atomic.seal = seal
""",
    # when the registry has `previous` but not yet `champion`, the journal open
    "promote": KILL
    + """
from mlflow import MlflowClient
real = MlflowClient.set_registered_model_alias
def alias(self, name, alias, version):
    if alias == "champion": die()
    return real(self, name, alias, version)
MlflowClient.set_registered_model_alias = alias
""",
    # when the version is made but nothing else is known of it
    "register": KILL
    + """
from mlflow import MlflowClient
real = MlflowClient.create_model_version
def create(self, *a, **k):
    real(self, *a, **k)
    die()
MlflowClient.create_model_version = create
""",
}


def test_killed_four_times_and_run_again(
    tmp_path: Path,
    llm: Any,
    encoder: Path,
    home: Path,
    fresh_process: Callable[..., Any],
    prefect_server: str,
) -> None:
    """Each run goes on from where the one before was killed; the last one finishes."""
    config = toy.project(tmp_path / "project", endpoint=llm.url, encoder=encoder)

    def repeated() -> int:
        """How many requests were sent again."""
        times = Counter(str(sorted(request.items(), key=str)) for request in llm.requests)
        return sum(n - 1 for n in times.values())

    def killed(moment: str, server: str = prefect_server) -> None:
        how = {"home": home, "before": AT[moment], "server": server}
        run = fresh_process("retrain", config, "--json", **how)
        assert run.returncode == -9, (moment, run.stderr[-2000:])

    killed("synthesise")
    assert list((home / "cache" / "llm").rglob("[!.]*.json")), "what was bought must be kept"
    killed("train")
    cut_off = repeated()
    assert cut_off <= 4, "only what was in flight (4 at once) may be asked for again"
    killed("register")
    assert any(trained.resumed_from for trained in trainings(home)), (
        "training began anew instead of going on from the whole checkpoint"
    )
    killed("promote", server="")  # and with it the temporary server that it started

    last = fresh_process("retrain", config, "--json", home=home)
    assert last.returncode == 0, last.stderr[-3000:]
    report = last_json(last.stdout)
    assert report["verdict"] == "promote", report["reasons"]
    assert repeated() == cut_off, "a finished request was repeated"
    assert len(llm.requests) - cut_off == report["data"]["requested"]["total"]

    from flows.registry.client import Registry
    from flows.settings import Settings
    from flows.tracking.store import connect

    settings = Settings(Workspace(home), f"sqlite:///{home / 'mlflow.db'}")
    registry = Registry(connect(settings), settings)
    champion = registry.champion("toy")
    assert champion is not None and champion.version == report["model"]["version"] == "1"
    assert len(registry.versions("toy")) == 1
    assert len(registry.history("toy")) == 1 and registry.inconsistencies("toy") == []
    assert not list(home.rglob("*.tmp")), "a torn write was left behind"
    assert not servers_of(home), "Prefect's temporary server outlived the process that was killed"


def servers_of(home: Path) -> list[int]:
    """Processes that carry this workspace in their environment, ten seconds on."""
    import time

    import psutil

    def alive() -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.environ().get("RESEED_HOME") == str(home)
                    and process.status() != "zombie"
                ):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    until = time.monotonic() + 10
    while alive() and time.monotonic() < until:
        time.sleep(0.2)
    return alive()


def trainings(home: Path) -> list[TrainResult]:
    return [TrainResult.load(directory) for directory in Workspace(home).published("train")]
