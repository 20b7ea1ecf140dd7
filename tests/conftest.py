"""Fixtures: a tiny real encoder, a scripted LLM, a workspace, and Prefect's own test server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# before any library reads them
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="180",
    PREFECT_LOGGING_LEVEL="WARNING",
    PREFECT_RESULTS_DEFAULT_SERIALIZER="json",
    MLFLOW_DISABLE_TELEMETRY="true",
    OMP_NUM_THREADS="1",
)
# loops of Prefect's server that no test waits for: they take a tenth of a core
for service in (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
):
    os.environ[f"PREFECT_SERVER_SERVICES_{service}_ENABLED"] = "false"
for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RESEED_HOME", "OPENAI_API_KEY"):
    os.environ.pop(name, None)


# what starts a server or a browser, or trains or exports a model, takes seconds
SLOW_FIXTURES = {
    "browser",
    "fresh_process",
    "graphs",
    "postgres",
    "prefect_server",
    "tune",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use a slow fixture are slow."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        spec = getattr(item, "callspec", None)
        on_postgres = spec is not None and str(spec.params.get("store", "")) == "in_postgres"
        if used & SLOW_FIXTURES or on_postgres:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.kit.toy import tiny_encoder

    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny-bert")


@pytest.fixture
def tune(tmp_path: Path, encoder: Path) -> Callable[..., Any]:
    """A quick training of the tiny encoder on the toy task, see tests/kit/training.py."""
    from tests.kit.training import tuner

    return tuner(tmp_path, encoder)


@pytest.fixture
def llm() -> Iterator[Any]:
    from tests.kit.scripted import Server

    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """A bundle of the tiny encoder, which nobody trained."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tasks.model.bundle import save_bundle
    from tests.kit import toy

    torch.manual_seed(0)
    names = dict(enumerate(toy.LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=len(names), id2label=names
    )
    directory = tmp_path_factory.mktemp("saved") / "bundle"
    about = {"labels": toy.LABELS, "max_length": 32}
    save_bundle(model, AutoTokenizer.from_pretrained(encoder), directory, about=about)
    return directory


@pytest.fixture(scope="session")
def graphs(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Its graphs, by backend: exporting takes seconds."""
    from tasks.model.inference.export import export_graphs

    return export_graphs(
        small_bundle, tmp_path_factory.mktemp("graphs"), kinds=["onnx", "onnx-int8"]
    )


@pytest.fixture(scope="session")
def backends(small_bundle: Path, graphs: dict[str, Path]) -> dict[str, Any]:
    """Its classifiers, by backend."""
    from tasks.model.bundle import Classifier
    from tasks.model.inference.backends import Onnx

    plain = Classifier.load(small_bundle)
    made = {
        k: plain.with_backend(Onnx(p, name=k, labels=len(plain.labels), threads=2))
        for k, p in graphs.items()
    }
    return {"torch": plain, **made}


@pytest.fixture(scope="session")
def mlflow_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh MLflow store, made once: its migrations take seconds."""
    from flows.settings import Settings
    from flows.tracking.store import connect
    from tasks.workspace import Workspace

    home = tmp_path_factory.mktemp("store")
    connect(Settings(Workspace(home), f"sqlite:///{home / 'mlflow.db'}"))
    return home / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, mlflow_db: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace, named by RESEED_HOME."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(mlflow_db, home / "mlflow.db")
    monkeypatch.setenv("RESEED_HOME", str(home))
    monkeypatch.delenv(
        "MLFLOW_TRACKING_URI", raising=False
    )  # mlflow.set_tracking_uri leaves it behind
    return home


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; where there is none the tests are skipped, or fail with RESEED_REQUIRE_BROWSER=1."""
    from tests.kit.browser import headless

    with headless() as chromium:
        yield chromium


@pytest.fixture(scope="session")
def bundles(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Six bundles that differ."""
    from tests.kit.registry import bundles_of

    return bundles_of(encoder, tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    from tests.kit.postgres import Missing, started

    try:
        with started() as server:
            yield server
    except Missing as e:
        pytest.skip(str(e))


@pytest.fixture
def sqlite(home: Path) -> Any:
    """A registry on SQLite."""
    from flows.settings import Settings
    from tasks.workspace import Workspace
    from tests.kit.registry import Store

    return Store(Settings(Workspace(home), f"sqlite:///{home / 'mlflow.db'}"))


@pytest.fixture
def in_postgres(home: Path, postgres: Any) -> Any:
    """A registry on PostgreSQL."""
    from flows.settings import Settings
    from tasks.workspace import Workspace
    from tests.kit.registry import Store

    return Store(Settings(Workspace(home), postgres.emptied()))


@pytest.fixture(params=["sqlite", "in_postgres"], ids=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> Any:
    """A registry on each kind of store."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The bundles that a fresh process would have been asked to load; TestFreshProcess has the real thing."""
    from flows.registry import promotion

    asked: list[Path] = []
    monkeypatch.setattr(
        promotion, "smoke_test", lambda directory, *_, **__: asked.append(directory)
    )
    return asked


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 client with an empty bucket named `bucket`."""
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield client


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The API address of Prefect's own test server, which every flow of these tests reports to."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def first_retrain(
    tmp_path_factory: pytest.TempPathFactory, encoder: Path, mlflow_db: Path, prefect_server: str
) -> Any:
    """A toy retrain that was promoted."""
    from flows.registry import promotion
    from flows.retrain import retrain
    from tests.kit import toy
    from tests.kit.promoted import Promoted, keep_copy
    from tests.kit.scripted import Server

    folder = tmp_path_factory.mktemp("promoted")
    home = folder / "home"
    home.mkdir()
    shutil.copy(mlflow_db, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch, Server() as llm:
        patch.setenv("RESEED_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(promotion, "smoke_test", lambda *_, **__: None)
        config = toy.project(home / "project", endpoint=llm.url, encoder=encoder)
        report = retrain(config=str(config))
    keep_copy(home, folder / "copy")
    return Promoted(home, folder / "copy", report)


@pytest.fixture
def promoted(first_retrain: Any, llm: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The workspace after a first retrain of the toy project, named by RESEED_HOME."""
    first_retrain.restore(endpoint=llm.url)
    monkeypatch.setenv("RESEED_HOME", str(first_retrain.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return first_retrain


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def reseed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process: (exit status, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        from flows.cli.main import main

        monkeypatch.setattr(sys, "argv", ["reseed", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return run


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Prefect database for all processes: its migrations take seconds too."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture
def fresh_process(prefect_home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `reseed` in a process of its own; `before` is Python that runs first, to arrange a fault.

    `server` is the address of a Prefect server; without one the process starts a temporary one.
    """

    def run(
        *arguments: str | Path, home: Path, before: str = "", server: str = "", timeout: float = 200
    ) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.argv = {['reseed', *map(str, arguments)]!r}\n{before}\nfrom flows.cli.main import main; main()"
        environment = {
            **os.environ,
            "RESEED_HOME": str(home),
            "PREFECT_HOME": str(prefect_home),
            **({"PREFECT_API_URL": server} if server else {}),
        }
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            cwd=ROOT,
            check=False,
        )

    return run


def last_json(out: str) -> dict[str, Any]:
    """The last line of standard output."""
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found
