"""The whole story, on a tiny real encoder, a scripted LLM, a real MLflow store and a real Prefect server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.settings import Settings
from tests.conftest import Command, last_json
from tests.kit import toy
from tests.kit.promoted import Promoted

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]


CASES = """
slots: {word: [frraa, frrab, frrac]}
tests:
  case: {kind: invariance, pairs: [["the {word} was seen", "THE {word} WAS SEEN"]]}
"""


@pytest.fixture
def config(tmp_path: Path, llm: Any, encoder: Path, home: Path) -> Path:
    return toy.project(tmp_path / "project", endpoint=llm.url, encoder=encoder)


@pytest.fixture
def everything(tmp_path: Path, llm: Any, encoder: Path, home: Path) -> Path:
    """A project that leaves nothing out."""
    return toy.project(tmp_path / "project", endpoint=llm.url, encoder=encoder, lean=False)


def client() -> MlflowClient:
    uri = Settings.from_environment().tracking_uri
    return MlflowClient(uri, uri)


def champion_version() -> str:
    return str(client().get_model_version_by_alias("toy", "champion").version)


def test_first_run_promotes_and_second_finds_everything(
    everything: Path, reseed: Command, llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = everything
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    (config.parent / "cases.yaml").write_text(CASES)
    more = ("--set", "evaluate.serving_rows=50", "--set", "evaluate.cases=cases.yaml")
    code, out, err = reseed("retrain", config, "--json", *more)
    assert code == 0, err
    first = last_json(out)
    assert first["verdict"] == "promote" and first["promoted"], first["reasons"]
    assert first["model"] == {"name": "toy", "version": "1", "bundle": first["model"]["bundle"]}
    assert (
        first["test"]["rows"] == 90
        and first["test"]["ci_low"] <= first["test"]["f1_macro"] <= first["test"]["ci_high"]
    )
    assert first["test"]["f1_macro"] > max(b["f1_macro"] for b in first["baselines"].values())
    assert first["test"]["test_set_uses"] == 6, (
        "the challenger, plain and perturbed, three baselines and the lift open the test set once"
    )
    assert first["champion"] is None and set(first["baselines"]) == {
        "majority",
        "descriptions",
        "tfidf_logistic_regression",
    }
    assert first["data"]["accepted"]["by_label"] == dict.fromkeys(sorted(toy.LABELS), 12)
    requested, accepted, rejected = (
        first["data"][k]["total"] for k in ("requested", "accepted", "rejected")
    )
    assert requested == accepted + rejected == len(llm.requests)
    assert first["tokens"]["total"] == 30 * requested
    assert {"splits", "synthesise", "curate", "train", "evaluate"} <= set(first["seconds"])

    told = client().get_run(first["mlflow_run_id"])
    assert told.info.status == "FINISHED" and told.data.tags["verdict"] == "promote"
    assert (
        told.data.params["train.learning_rate"] == "0.01"
        and told.data.params["promote.min_gain"] == "0.0"
    )
    assert told.data.metrics["test.f1_macro"] == pytest.approx(first["test"]["f1_macro"])
    each = {f"{label}{end}" for label in toy.LABELS for end in ("", ".ci_low", ".ci_high")}
    assert each == {
        k.removeprefix("test.f1.") for k in told.data.metrics if k.startswith("test.f1.")
    }
    assert told.data.metrics["test.matthews.ci_low"] <= told.data.metrics["test.matthews"]
    children = client().search_runs(
        [told.info.experiment_id], f"tags.`mlflow.parentRunId` = '{told.info.run_id}'"
    )
    stages = {c.info.run_name: c for c in children}
    assert {
        "split",
        "synthesise 1",
        "curate",
        "train",
        "evaluate challenger",
        "evaluate majority",
    } <= set(stages)
    assert all(c.info.status == "FINISHED" for c in children)
    files = {f.path for f in client().list_artifacts(stages["curate"].info.run_id)}
    assert "accepted.json" in files and ("rejected.json" in files) == bool(rejected)
    assert len(stages["curate"].inputs.dataset_inputs[0].dataset.digest) == 36
    assert "confusion.png" in {
        f.path for f in client().list_artifacts(stages["evaluate challenger"].info.run_id)
    }
    trained = stages["train"].info.run_id
    assert "curves.png" in {f.path for f in client().list_artifacts(trained)}
    for name in ("train.loss", "train.learning_rate", "train.grad_norm", "dev.f1_macro"):
        steps = [m.step for m in client().get_metric_history(trained, name)]
        assert len(set(steps)) == len(steps) >= 2, name
    assert any(k.startswith("system/cpu") for k in told.data.metrics)
    rates = first["robustness"]["perturbations"]
    assert rates["casing"]["flips"] == 0 < rates["casing"]["rows"] == 90
    assert told.data.metrics["test.flip_rate.typos"] == rates["typos"]["flip_rate"]["value"]
    assert (
        told.data.metrics["test.flip_rate.truncation"]
        == rates["truncation"]["flip_rate"]["value"]
        > 0
    )
    assert first["robustness"]["cases"]["case"]["failed"] == 0
    assert told.data.metrics["serving.latency_p50_ms"] == first["serving"]["latency_p50_ms"] > 0
    for run, table in [
        ("robustness challenger", "robustness.json"),
        ("robustness challenger", "cases.json"),
    ]:
        assert table in {f.path for f in client().list_artifacts(stages[run].info.run_id)}
    assert (
        stages["serving challenger"].data.metrics["serving.bundle_mb"]
        == first["serving"]["bundle_mb"]
    )
    version = client().get_model_version_by_alias("toy", "champion")
    assert str(version.version) == "1" and version.description.startswith("# toy, version 1")
    card = client().download_artifacts(told.info.run_id, "model_card.md")
    assert Path(card).read_text(encoding="utf-8") == version.description
    assert client().get_run(version.run_id).info.run_name in {
        "train",
        "train after self-training 1",
    }

    page = Path(first["report"]).read_text(encoding="utf-8")
    assert (
        first["report"].endswith("/reports/toy.html")
        and "Content-Security-Policy" in page
        and "now champion" in page
    )
    shown = {f.path for f in client().list_artifacts(told.info.run_id)}
    assert {"report.html", "gain.png", "funnel.png", "curve.png", "confusion.png"} <= shown
    Path(first["report"]).unlink()
    code, out, _ = reseed("report", "toy", "--json")
    assert code == 0 and last_json(out) == {
        "model": "toy",
        "report": first["report"],
        "mlflow_run_id": told.info.run_id,
    }
    assert Path(first["report"]).read_text(encoding="utf-8") == page
    assert reseed("report", "toyy")[0] == 2
    client().log_text(told.info.run_id, "<script>alert(1)</script>" + page, "report.html")
    code, _, err = reseed("report", "toy")
    assert code == 2 and "was not written by this version of Reseed" in err
    assert Path(first["report"]).read_text(encoding="utf-8") == page

    code, out, err = reseed("retrain", config, "--json", *more)
    second = last_json(out)
    assert code == 0 and second["verdict"] == "keep" and not second["promoted"]
    assert second["model"]["version"] == "1" and second["mlflow_run_id"] == first["mlflow_run_id"]
    assert (second["robustness"], second["serving"]) == (first["robustness"], first["serving"])
    assert second["test"] == first["test"] and set(second["seconds"].values()) == {0.0}
    assert len(llm.requests) == requested, "a finished stage asked the LLM again"
    again = client().get_run(first["mlflow_run_id"])
    assert again.data.tags["verdict"] == "promote", "the run that promoted it says so still"
    assert again.data.tags["mlflow.note.content"] == told.data.tags["mlflow.note.content"]
    assert again.info.run_name == told.info.run_name
    assert client().get_model_version("toy", "1").description == version.description
    assert [str(v.version) for v in client().search_model_versions("name='toy'")] == ["1"]

    code, out, _ = reseed("retrain", config, *more)
    assert code == 0
    for words in (
        "under typos etc.",
        "of answers flip on 90 rows",
        "0 of 3 fail",
        "texts/s, ",
        "rows requested",
        "accepted",
        "F1 of toy 1",
        "F1 of majority",
        "verdict",
        "report",
        "reseed ui",
        "reseed predict toy",
    ):
        assert words in out


def test_the_llm_on_some_rows_stands_beside_and_is_no_opponent(
    config: Path, reseed: Command, llm: Any
) -> None:
    from tests.kit import scripted

    def knows(h: scripted.Handler) -> None:
        """The label of each test text, or a text to train on."""
        asked = h.body["messages"][-1]["content"].partition("Text:\n")[2].casefold()
        kind = max(toy.LABELS, key=lambda k: asked.count(k[:2] + "r"))
        h.send(200, scripted.completion(kind if asked else scripted.answer(h.body)))

    llm.always = knows
    code, out, err = reseed("retrain", config, "--json", "--set", "evaluate.llm_rows=6")
    assert code == 0, err
    told = last_json(out)
    own = told["baselines"]["llm"]
    assert (
        own["f1_macro"] == 1.0
        and own["sample"]
        and own["rows"] == 6
        and own["llm"]["unparsed"] == 0
    )
    assert 0 < own["challenger"]["value"] <= 1 and "llm" not in told["gain"]["opponent"]
    assert told["verdict"] == "promote", (
        "it has fewer rows than the test set, so it is not the one to beat"
    )
    page = Path(told["report"]).read_text(encoding="utf-8")
    assert "on 6 rows alone; the challenger on these" in page and "The LLM asked directly" in page
    children = client().search_runs(
        [client().get_experiment_by_name("toy").experiment_id],
        "tags.`reseed.stage` = 'evaluate llm'",
    )
    assert (
        children[0].data.metrics["llm.unparsed_share"] == 0.0
        and children[0].data.metrics["test.f1_macro"] == 1.0
    )


def test_what_is_worse_or_equal_is_kept_out_and_the_champion_is_scored_again(
    promoted: Promoted, reseed: Command
) -> None:
    config = promoted.config
    code, out, _ = reseed("retrain", config, "--fresh", "--json")
    equal = last_json(out)
    assert code == 0 and equal["verdict"] in {"keep", "inconclusive"}, equal["reasons"]
    assert equal["generation"] == 1 and equal["champion"]["version"] == "1"

    code, out, _ = reseed(
        "retrain", config, "--fresh", "--json", "--set", "train.learning_rate=1e-9"
    )
    worse = last_json(out)
    assert code == 0 and worse["verdict"] == "keep", worse["reasons"]
    assert (
        worse["test"]["f1_macro"] < worse["champion"]["score"]["f1_macro"]
        and worse["model"]["version"] != "1"
    )
    assert champion_version() == "1"

    toy.write_csv(
        config.parent / "rows.csv", toy.real_rows(50, seed=7)
    )  # other real rows: another test set
    code, out, _err = reseed("retrain", config, "--json", "--set", "train.learning_rate=1e-9")
    moved = last_json(out)
    assert code == 0 and moved["verdict"] == "keep"
    assert moved["test"]["test_set_uses"] == 5, (
        "challenger, champion and three baselines open the new test set once"
    )
    runs = client().search_runs(
        [client().get_experiment_by_name("toy").experiment_id],
        "tags.`reseed.stage` = 'evaluate champion 1'",
    )
    assert len({r.data.tags["reseed.stage_key"] for r in runs}) >= 2
    model_id = client().get_model_version("toy", "1").tags["reseed.model"]
    runs = [client().get_run(r.info.run_id) for r in runs]  # a search leaves out the models
    assert all([m.model_id for m in r.inputs.model_inputs] == [model_id] for r in runs)
    told = {
        m.run_id: m for m in client().get_logged_model(model_id).metrics if m.key == "test.f1_macro"
    }
    assert {r.info.run_id for r in runs} < set(told), (
        "the champion's page has what it was scored at again"
    )
    for r in runs:
        (data,) = [d.dataset for d in r.inputs.dataset_inputs]
        assert (data.name, data.digest) == ("test", told[r.info.run_id].dataset_digest)

    code, out, _ = reseed("status", "toy", "--json")
    state = last_json(out)["projects"]["toy"]
    assert state["champion"]["version"] == "1" and state["previous"] is None
    assert {v["verdict"] for v in state["verdicts"]} <= {"promote", "keep", "inconclusive"}


def test_a_better_challenger_replaces_the_champion_which_becomes_previous(
    config: Path, reseed: Command
) -> None:
    robust = ("--set", "evaluate.robustness_rows=100")
    weak = last_json(
        reseed("retrain", config, "--json", "--set", "train.learning_rate=6e-4", *robust)[1]
    )
    assert weak["verdict"] == "promote", weak["reasons"]
    code, out, _err = reseed(
        "retrain", config, "--fresh", "--json", "--set", "evaluate.serving_rows=50", *robust
    )
    strong = last_json(out)
    assert code == 0 and strong["verdict"] == "promote", strong["reasons"]
    assert (
        strong["champion"]["version"] == "1"
        and strong["champion"]["score"]["f1_macro"] == weak["test"]["f1_macro"]
    )
    measures = strong["champion"]["measures"]
    assert set(measures) == {"latency_p95_ms", "bundle_mb", "flip_rate"}
    assert measures["flip_rate"] == [
        m["robustness"]["flip_rate"]["value"] for m in (strong, strong["champion"])
    ]
    assert measures["bundle_mb"][1] == strong["champion"]["serving"]["bundle_mb"]
    aliases = {
        a: str(client().get_model_version_by_alias("toy", a).version)
        for a in ("champion", "previous", "challenger")
    }
    assert aliases == {"champion": "2", "previous": "1", "challenger": "2"}


def test_a_person_approves_looks_back_verifies_and_rolls_back(
    config: Path, reseed: Command
) -> None:
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
    assert code == 0 and "version 1 is the champion, in place of version 2" in out
    assert last_json(reseed("predict", "toy", text, "--json")[1])["predictions"] == before

    told = last_json(reseed("history", "toy", "--json")[1])
    assert [(h["version"], h["kind"]) for h in told["history"]] == [
        ("1", "by hand"),
        ("2", "by hand"),
        ("1", "rollback"),
    ]
    assert (
        told["inconsistencies"] == []
        and told["history"][0]["evidence"]
        and told["history"][0]["who"] == "ada"
    )

    code, out, _ = reseed("verify", "toy", "--json")
    assert code == 0 and last_json(out)["same"] and last_json(out)["verdict"] == "promote"
    run_id = client().get_model_version("toy", "1").tags["reseed.evidence_run"]
    client().log_text(run_id, "{}", "verdict.json")  # somebody edits it in the store
    code, out, _ = reseed("verify", "toy")
    assert code == 1 and "the evidence is not the recorded one" in out


def test_a_tampered_champion_is_not_scored_and_not_replaced(
    promoted: Promoted, reseed: Command
) -> None:
    config, home = promoted.config, promoted.home
    for weights in [
        *home.glob("mlartifacts/**/model.safetensors"),
        *home.glob("serving/**/model.safetensors"),
    ]:
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    code, _, err = reseed("predict", "toy", "some text")
    assert code == 1 and "differs from its manifest" in err
    code, out, _ = reseed("retrain", config, "--fresh", "--json")
    assert code == 0 and last_json(out)["verdict"] == "inconclusive"
    assert champion_version() == "1"


def test_slices_groups_and_what_to_label_first(config: Path, reseed: Command) -> None:
    rows = toy.real_rows(50)
    toy.write_csv(
        config.parent / "rows.csv",
        [
            {**row, "who": f"author {i // 2}", "country": "uk" if i % 3 else "fr"}
            for i, row in enumerate(rows)
        ],
    )
    more = [
        "data.group_column=who",
        "data.keep_columns=[country]",
        "evaluate.slices.mine={max_words: 99}",
    ]
    told = [part for key in more for part in ("--set", key)]
    code, out, err = reseed("retrain", config, "--json", *told, "--set", "promote.min_gain=0.99")
    assert code == 0, err
    kept = last_json(out)
    assert kept["verdict"] == "keep" and kept["label_first"] is None
    groups = len({row["who"] for row in files_of_test_rows(kept)})
    assert f"over {groups} groups" in kept["reasons"][0]

    between = round(kept["gain"]["value"], 6)
    code, out, err = reseed(
        "retrain", config, "--json", *told, "--set", f"promote.min_gain={between}"
    )
    unsure = last_json(out)
    assert code == 0 and unsure["verdict"] == "inconclusive", (unsure["reasons"], err)
    first = unsure["label_first"]
    assert (
        first["rows"] == len(Path(first["path"]).read_text().splitlines()) > 0
        and first["differ"] == 0
    )

    run = client().get_run(unsure["mlflow_run_id"])
    assert {"test.f1_macro.mine", "test.f1_macro.country_uk", "test.f1_macro.length_short"} <= set(
        run.data.metrics
    )
    assert run.data.metrics["test.f1_macro.mine"] == pytest.approx(unsure["test"]["f1_macro"])
    found = client().search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    )
    stages = {
        c.info.run_name: {f.path for f in client().list_artifacts(c.info.run_id)} for c in found
    }
    assert (
        "slices.json" in stages["evaluate challenger"]
        and "label_first.json" in stages["label first"]
    )
    code, out, _ = reseed("retrain", config, *told, "--set", f"promote.min_gain={between}")
    assert code == 0 and "label first" in out and "unlabelled rows" in out
    assert last_json(reseed("verify", "toy", "1", "--json")[1])["same"]


def files_of_test_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers that the verdict of this run rests on, with each row's group."""
    run = client().get_run(report["mlflow_run_id"])
    found = client().search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    )
    verdict = next(c for c in found if c.info.run_name == "verdict")
    path = client().download_artifacts(verdict.info.run_id, "challenger.jsonl")
    return [{"who": json.loads(line)["group"]} for line in Path(path).read_text().splitlines()]
