"""What a user can get wrong: one clear sentence, the right exit status, no traceback, nothing lost."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import steps
from tasks import atomic
from tasks.dataset.split import split_dataset
from tasks.synthesise.stage import synthesise
from tests.conftest import Command, last_json
from tests.kit import scripted, toy


@pytest.fixture
def config(tmp_path: Path, llm: Any, encoder: Path, home: Path) -> Path:
    # one request at a time, no second tries: faults show at once
    impatient = {"retries": 0, "timeout_seconds": 20, "concurrency": 1}
    return toy.project(tmp_path / "project", endpoint=llm.url, encoder=encoder, generate=impatient)


@pytest.fixture(autouse=True)
def no_task_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (split_dataset, synthesise):
        monkeypatch.setitem(steps.POLICIES, stage, replace(steps.POLICIES[stage], retries=0))


def one_sentence(err: str, *words: str) -> None:
    said = [line for line in err.splitlines() if line.startswith("reseed: ")]
    assert len(said) == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in said[0], f"{word!r} is missing from: {said[0]}"


def test_misspelt_key(config: Path, reseed: Command) -> None:
    config.write_text(config.read_text().replace("learning_rate:", "lerning_rate:"))
    code, _, err = reseed("retrain", config)
    assert code == 2
    one_sentence(err, str(config), "train.lerning_rate", "0.01", "learning_rate")


def test_no_such_project_file(reseed: Command, home: Path) -> None:
    code, _, err = reseed("retrain", "nowhere.yaml")
    assert code == 2
    one_sentence(err, "nowhere.yaml", "reseed init")


@pytest.mark.usefixtures("prefect_server")
class TestData:
    """Faults in the data stop before anything is asked of the LLM."""

    def stop(self, config: Path, reseed: Command, llm: Any, *words: str) -> None:
        code, _, err = reseed("retrain", config)
        assert code == 2, err
        one_sentence(err, *words)
        assert not llm.requests

    def test_unknown_label(self, config: Path, reseed: Command, llm: Any) -> None:
        rows = [*toy.real_rows(40), {"text": "a heavy thing", "label": "metall"}]
        toy.write_csv(config.parent / "rows.csv", rows)
        self.stop(
            config,
            reseed,
            llm,
            "rows.csv",
            "'metall'",
            "did you mean 'metal'",
            "line 122",
            "data.ignore_labels",
        )

    def test_duplicate_ids(self, config: Path, reseed: Command, llm: Any) -> None:
        rows = [{"id": str(i), **r} for i, r in enumerate(toy.real_rows(40))]
        rows[7]["id"] = "3"
        toy.write_csv(config.parent / "rows.csv", rows)
        config.write_text(
            config.read_text().replace("pool: rows.csv", "pool: rows.csv\n  id_column: id")
        )
        self.stop(config, reseed, llm, "'3'", "line 5", "line 9", "data.id_column")

    def test_class_missing_from_test(self, config: Path, reseed: Command, llm: Any) -> None:
        rows = toy.real_rows(40)
        toy.write_csv(config.parent / "dev.csv", rows[:10] + rows[40:50] + rows[80:90])
        toy.write_csv(config.parent / "test.csv", rows[10:40] + rows[50:80])
        text = config.read_text().replace("pool: rows.csv", "dev: dev.csv\n  test: test.csv")
        config.write_text(text)
        self.stop(config, reseed, llm, "test.csv", "'bird'", "add rows")

    def test_not_utf8(self, config: Path, reseed: Command, llm: Any) -> None:
        path = config.parent / "rows.csv"
        path.write_bytes(path.read_bytes() + "café au lait,metal\n".encode("latin-1"))
        self.stop(config, reseed, llm, "rows.csv", "0xe9", "line 152", "data.encoding")

    def test_no_such_encoder(self, config: Path, reseed: Command, llm: Any) -> None:
        code, _, err = reseed("retrain", config, "--set", "train.model=models/none")
        assert code == 2
        one_sentence(err, "models/none", "does not exist")

    def test_no_rows_to_train_on(self, config: Path, reseed: Command, llm: Any) -> None:
        code, _, err = reseed("retrain", config, "--set", "generate.per_label=0")
        assert code == 2
        one_sentence(err, "no row to train on: of 0 requested and 0 real", "generate.per_label")


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_empty_text_and_two_labels_are_set_aside_and_counted(config: Path, reseed: Command) -> None:
    rows = toy.real_rows(40)
    rows += [{"text": "  ", "label": "metal"}, {"text": rows[0]["text"], "label": "fruit"}]
    toy.write_csv(config.parent / "rows.csv", rows)
    code, out, err = reseed("retrain", config, "--json")
    assert code == 0, err
    assert last_json(out)["data"]["real_rejected"]["by_reason"] == {"two_labels": 2, "empty": 1}
    assert "first at rows.csv, line 122: empty text" in err
    assert "'fruit' and 'metal', at rows.csv, line 2 and rows.csv, line 123" in err
    code, _, err = reseed("retrain", config, "--set", "data.bad_rows=stop")
    assert code == 2
    one_sentence(err, "line 122", "data.bad_rows")


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (scripted.status(401), 2, ["401", "generate.api_key_env"]),
        (scripted.status(404), 2, ["404", "'scripted'", "/v1"]),
        (scripted.status(400), 2, ["400", "scripted 400"]),
        (scripted.status(429, retry_after="0"), 1, ["429", "generate.concurrency"]),
        (scripted.status(500), 1, ["500", "kept"]),
        (scripted.html, 1, ["not JSON", "/v1"]),
        (scripted.raw('{"hello": 1}'), 1, ["not a chat completion"]),
        (scripted.hang, 1, ["1 s", "generate.timeout_seconds"]),
        (scripted.drop, 1, ["cannot be reached"]),
    ],
    ids=["401", "404", "400", "429", "500", "html", "other-json", "never", "dropped"],
)
def test_endpoint_faults(
    fault: Any, code: int, words: list[str], config: Path, reseed: Command, llm: Any, home: Path
) -> None:
    llm.faults = [None] * 6  # six good answers first
    llm.always = fault
    # a good answer that a busy machine brings too late would be lost: few seconds only where they are waited for
    hurry = ["--set", "generate.timeout_seconds=1"] if fault is scripted.hang else []
    got, _, err = reseed("retrain", config, *hurry)
    assert got == code, err
    one_sentence(err, llm.url, *words)
    assert len(list((home / "cache" / "llm").rglob("*.json"))) == 6, "what was bought must be kept"


@pytest.mark.usefixtures("prefect_server")
def test_unreachable_endpoint(config: Path, reseed: Command) -> None:
    code, _, err = reseed("retrain", config, "--set", "generate.endpoint=http://127.0.0.1:9/v1")
    assert code == 1
    one_sentence(err, "127.0.0.1:9", "cannot be reached")


@pytest.mark.usefixtures("prefect_server")
def test_second_retrain_while_one_runs(config: Path, home: Path, reseed: Command) -> None:
    hold = f"""
import time
from pathlib import Path
from tasks.atomic import exclusive_lock
with exclusive_lock(Path({str(home)!r}) / "locks" / "retrain-toy.lock", "a retrain of 'toy'"):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        code, _, err = reseed("retrain", config)
        assert code == 2, err
        one_sentence(err, "a retrain of 'toy' is already running", str(holder.pid))
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_full_disk(
    config: Path, reseed: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills while the answers of the LLM are kept; with room again, the same command finishes."""
    import errno
    import os

    real, kept = atomic.write_bytes, []

    def full(path: Path, data: bytes) -> None:
        if path.is_relative_to(home / "cache" / "llm"):
            kept.append(path)
            if len(kept) > 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    with monkeypatch.context() as m:
        m.setattr(atomic, "write_bytes", full)
        code, _, err = reseed("retrain", config)
    assert code == 1
    one_sentence(err, "the disk is full", "RESEED_HOME")
    code, _, err = reseed("retrain", config, "--json")
    assert code == 0, err


@pytest.mark.parametrize("command", [["status"], ["predict", "toy", "text"]])
def test_a_workspace_that_is_no_folder(
    command: list[str], tmp_path: Path, reseed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "file"
    place.touch()
    monkeypatch.setenv("RESEED_HOME", str(place))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, _, err = reseed(*command)
    assert code == 2
    one_sentence(err, str(place), "cannot be written to", "RESEED_HOME")


class TestAsking:
    def test_no_such_model(self, reseed: Command, home: Path) -> None:
        for verb in (["predict", "nothing", "text"], ["serve", "nothing"], ["status", "nothing"]):
            code, _, err = reseed(*verb)
            assert code == 2
            one_sentence(err, "no model 'nothing'", "reseed retrain")

    def test_port_taken(self, reseed: Command, home: Path) -> None:
        import socket

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            code, _, err = reseed("serve", "toy", "--port", str(port))
            assert code == 2
            one_sentence(err, str(port), "--port")
            code, _, err = reseed("ui", "--mlflow-port", str(port))
            assert code == 2
            one_sentence(err, str(port), "--mlflow-port")

    def test_unknown_option_and_verb(self, reseed: Command) -> None:
        assert reseed("retrian", "x")[0] == 2
        assert reseed("retrain", "x", "--frsh")[0] == 2


def test_a_slow_endpoint_is_given_up_in_time(
    config: Path, llm: Any, home: Path, reseed: Command, prefect_server: None
) -> None:
    llm.always = scripted.hang
    began = time.monotonic()
    assert reseed("retrain", config, "--set", "generate.timeout_seconds=0.5")[0] == 1
    assert time.monotonic() - began < 25, "five requests of 0.5 s each, and no more"
