"""The whole story, on a tiny real encoder, a scripted LLM, a real MLflow store and a real Prefect server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.settings import Settings
from tests.conftest import Command, last_json
from tests.kit import toy

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]


@pytest.fixture
def config(tmp_path: Path, llm: Any, encoder: Path, home: Path) -> Path:
    return toy.project(tmp_path / "project", endpoint=llm.url, encoder=encoder)


def client() -> MlflowClient:
    uri = Settings.from_environment().tracking_uri
    return MlflowClient(uri, uri)


def champion_version() -> str:
    return str(client().get_model_version_by_alias("toy", "champion").version)


def test_first_run_promotes_and_second_finds_everything(
    config: Path, reseed: Command, llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    code, out, err = reseed("retrain", config, "--json")
    assert code == 0, err
    first = last_json(out)
    assert first["verdict"] == "promote" and first["promoted"], first["reasons"]
    assert first["model"] == {"name": "toy", "version": "1", "bundle": first["model"]["bundle"]}
    assert (
        first["test"]["rows"] == 90 and first["test"]["ci_low"] <= first["test"]["f1_macro"] <= first["test"]["ci_high"]
    )
    assert first["test"]["f1_macro"] > max(b["f1_macro"] for b in first["baselines"].values())
    assert first["champion"] is None and set(first["baselines"]) == {
        "majority",
        "descriptions",
        "tfidf_logistic_regression",
    }
    assert first["data"]["accepted"]["by_label"] == dict.fromkeys(sorted(toy.LABELS), 12)
    requested, accepted, rejected = (first["data"][k]["total"] for k in ("requested", "accepted", "rejected"))
    assert requested == accepted + rejected == len(llm.requests)
    assert first["tokens"]["total"] == 30 * requested
    assert {"prepare", "synthesise", "curate", "train", "evaluate"} <= set(first["seconds"])

    told = client().get_run(first["mlflow_run_id"])
    assert told.info.status == "FINISHED" and told.data.tags["verdict"] == "promote"
    assert told.data.params["train.learning_rate"] == "0.01" and told.data.params["promote.min_gain"] == "0.0"
    assert told.data.metrics["test.f1_macro"] == pytest.approx(first["test"]["f1_macro"])
    assert set(toy.LABELS) == {k.removeprefix("test.f1.") for k in told.data.metrics if k.startswith("test.f1.")}
    children = client().search_runs([told.info.experiment_id], f"tags.`mlflow.parentRunId` = '{told.info.run_id}'")
    stages = {c.info.run_name: c for c in children}
    assert {"prepare", "synthesise 1", "curate", "train", "evaluate challenger", "evaluate majority"} <= set(stages)
    assert all(c.info.status == "FINISHED" for c in children)
    files = {f.path for f in client().list_artifacts(stages["curate"].info.run_id)}
    assert "accepted.json" in files and ("rejected.json" in files) == bool(rejected)
    assert len(stages["curate"].inputs.dataset_inputs[0].dataset.digest) == 36
    assert "confusion.png" in {f.path for f in client().list_artifacts(stages["evaluate challenger"].info.run_id)}
    trained = stages["train"].info.run_id
    assert "curves.png" in {f.path for f in client().list_artifacts(trained)}
    for name in ("train.loss", "train.learning_rate", "train.grad_norm", "dev.f1_macro"):
        steps = [m.step for m in client().get_metric_history(trained, name)]
        assert len(set(steps)) == len(steps) >= 2, name
    assert any(k.startswith("system/cpu") for k in told.data.metrics)
    version = client().get_model_version_by_alias("toy", "champion")
    assert str(version.version) == "1" and version.description.startswith("# toy, version 1")
    card = client().download_artifacts(told.info.run_id, "model_card.md")
    assert Path(card).read_text(encoding="utf-8") == version.description
    assert client().get_run(version.run_id).info.run_name in {"train", "train after harvest 1"}

    code, out, err = reseed("retrain", config, "--json")
    second = last_json(out)
    assert code == 0 and second["verdict"] == "keep" and not second["promoted"]
    assert second["model"]["version"] == "1" and second["mlflow_run_id"] == first["mlflow_run_id"]
    assert second["test"] == first["test"] and set(second["seconds"].values()) == {0.0}
    assert len(llm.requests) == requested, "a finished stage asked the LLM again"
    again = client().get_run(first["mlflow_run_id"])
    assert again.data.tags["verdict"] == "promote", "the run that promoted it says so still"
    assert again.data.tags["mlflow.note.content"] == told.data.tags["mlflow.note.content"]
    assert again.info.run_name == told.info.run_name
    assert client().get_model_version("toy", "1").description == version.description
    assert [str(v.version) for v in client().search_model_versions("name='toy'")] == ["1"]

    code, out, _ = reseed("retrain", config)
    assert code == 0
    for words in (
        "rows asked for",
        "accepted",
        "F1 of toy 1",
        "F1 of majority",
        "verdict",
        "reseed ui",
        "reseed predict toy",
    ):
        assert words in out


def test_what_is_worse_or_equal_is_kept_out_and_the_champion_is_scored_again(config: Path, reseed: Command) -> None:
    assert last_json(reseed("retrain", config, "--json")[1])["verdict"] == "promote"

    code, out, _ = reseed("retrain", config, "--fresh", "--json")
    equal = last_json(out)
    assert code == 0 and equal["verdict"] in {"keep", "inconclusive"}, equal["reasons"]
    assert equal["generation"] == 1 and equal["champion"]["version"] == "1"

    code, out, _ = reseed("retrain", config, "--fresh", "--json", "--set", "train.learning_rate=1e-9")
    worse = last_json(out)
    assert code == 0 and worse["verdict"] == "keep", worse["reasons"]
    assert worse["test"]["f1_macro"] < worse["champion"]["f1_macro"] and worse["model"]["version"] != "1"
    assert champion_version() == "1"

    toy.write_csv(config.parent / "rows.csv", toy.real_rows(50, seed=7))  # other real rows: another test set
    code, out, _err = reseed("retrain", config, "--json", "--set", "train.learning_rate=1e-9")
    moved = last_json(out)
    assert code == 0 and moved["verdict"] == "keep"
    assert moved["test"]["openings"] == 6, (
        "challenger, champion, three baselines and the lift each open the new test set once"
    )
    runs = client().search_runs(
        [client().get_experiment_by_name("toy").experiment_id], "tags.`reseed.stage` = 'evaluate champion 1'"
    )
    assert len({r.data.tags["reseed.stage_key"] for r in runs}) >= 2

    code, out, _ = reseed("status", "toy", "--json")
    state = last_json(out)["projects"]["toy"]
    assert state["champion"]["version"] == "1" and state["previous"] is None
    assert {v["verdict"] for v in state["verdicts"]} <= {"promote", "keep", "inconclusive"}


def test_a_better_challenger_replaces_the_champion_which_becomes_previous(config: Path, reseed: Command) -> None:
    weak = last_json(reseed("retrain", config, "--json", "--set", "train.learning_rate=6e-4")[1])
    assert weak["verdict"] == "promote", weak["reasons"]
    code, out, _err = reseed("retrain", config, "--fresh", "--json")
    strong = last_json(out)
    assert code == 0 and strong["verdict"] == "promote", strong["reasons"]
    assert strong["champion"]["version"] == "1" and strong["champion"]["f1_macro"] == weak["test"]["f1_macro"]
    aliases = {
        a: str(client().get_model_version_by_alias("toy", a).version) for a in ("champion", "previous", "challenger")
    }
    assert aliases == {"champion": "2", "previous": "1", "challenger": "2"}


def test_a_person_approves_looks_back_verifies_and_rolls_back(config: Path, reseed: Command) -> None:
    waits = ("--set", "promote.approval=required")
    first = last_json(reseed("retrain", config, "--json", *waits)[1])
    assert first["verdict"] == "promote" and not first["promoted"]
    assert "reseed promote toy 1 --reason" in first["reasons"][-1]
    assert reseed("predict", "toy", "x")[0] == 2, "there is no champion yet"

    assert reseed("promote", "toy", "1", "--reason", "seen", "--by", "ada", "--json")[0] == 0
    text = " ".join(toy.REAL["fruit"][:9])
    before = last_json(reseed("predict", "toy", text, "--json")[1])["predictions"]
    assert reseed("retrain", config, "--fresh", "--json", *waits)[0] == 0
    assert reseed("promote", "toy", "2", "--reason", "trying")[0] == 0
    code, out, _ = reseed("rollback", "toy", "--reason", "it was only a try", "--by", "ada")
    assert code == 0 and "version 1 is the champion again, in place of version 2" in out
    assert last_json(reseed("predict", "toy", text, "--json")[1])["predictions"] == before

    told = last_json(reseed("history", "toy", "--json")[1])
    assert [(h["version"], h["kind"]) for h in told["history"]] == [
        ("1", "by hand"),
        ("2", "by hand"),
        ("1", "rollback"),
    ]
    assert told["odd"] == [] and told["history"][0]["evidence"] and told["history"][0]["who"] == "ada"

    code, out, _ = reseed("verify", "toy", "--json")
    assert code == 0 and last_json(out)["same"] and last_json(out)["verdict"] == "promote"
    run_id = client().get_model_version("toy", "1").tags["reseed.evidence_run"]
    client().log_text(run_id, "{}", "verdict.json")  # somebody edits it in the store
    code, out, _ = reseed("verify", "toy")
    assert code == 1 and "the evidence is not what was recorded" in out


def test_a_tampered_champion_is_not_scored_and_not_replaced(config: Path, reseed: Command, home: Path) -> None:
    assert last_json(reseed("retrain", config, "--json")[1])["verdict"] == "promote"
    for weights in [*home.glob("mlartifacts/**/model.safetensors"), *home.glob("serving/**/model.safetensors")]:
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    code, _, err = reseed("predict", "toy", "some text")
    assert code == 1 and "differs from its manifest" in err
    code, out, _ = reseed("retrain", config, "--fresh", "--json")
    assert code == 0 and last_json(out)["verdict"] == "inconclusive"
    assert champion_version() == "1"
