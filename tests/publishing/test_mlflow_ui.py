"""MLflow as people use it: three retrains in a real store, its own UI in a real browser, and what stands on the pages."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from docs.screenshots import Ui, mlflow_served
from flows.settings import Settings
from tests.kit import toy
from tests.kit.browser import headless
from tests.kit.scripted import Server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mlflow-ui")]
KEY = "sk-nobody-may-see-this"
RUNS: tuple[list[str], ...] = (  # weak, strong, useless
    ["train.learning_rate=6e-4"],
    [],
    ["train.learning_rate=1e-9", "self_training.rounds=0"],
)


@dataclass
class Store:
    """A workspace in which the project was retrained three times, and the reports."""

    settings: Settings
    client: MlflowClient
    config: Path
    reports: list[dict[str, Any]]

    @property
    def experiment(self) -> Any:
        return self.client.get_experiment_by_name("toy")

    def run(self, number: int) -> Any:
        return self.client.get_run(self.reports[number]["mlflow_run_id"])


def again(store: Store) -> dict[str, Any]:
    """The last retrain once more: every stage is found."""
    from flows.retrain import retrain

    report: dict[str, Any] = retrain(config=str(store.config), overrides=RUNS[-1])
    return report


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, encoder: Path, mlflow_db: Path, prefect_server: None
) -> Iterator[Store]:
    from flows.registry import promotion
    from flows.retrain import retrain

    mlflow.tracing.reset()  # an earlier test of this process may have sent its traces to another store
    home = tmp_path_factory.mktemp("ui")
    (home / "mlflow.db").write_bytes(mlflow_db.read_bytes())
    usd = {"input": 0.15, "output": 0.6}
    with pytest.MonkeyPatch.context() as patch, Server() as llm:
        patch.setenv("RESEED_HOME", str(home))
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        # a fresh process that loads the model takes seconds; tests/registry/test_registry.py has it
        patch.setattr(promotion, "smoke_test", lambda *_, **__: None)
        config = toy.project(
            home / "project",
            endpoint=llm.url,
            encoder=encoder,
            generate={"price": usd, "traces": 5},
            evaluate={"bootstrap_samples": 200},
        )
        reports = []
        for set_ in RUNS:
            random.seed(0)  # what a training with the same seed leaves behind
            reports.append(retrain(config=str(config), overrides=set_, fresh=True))
        settings = Settings.from_environment()
        yield Store(
            settings, MlflowClient(settings.tracking_uri, settings.tracking_uri), config, reports
        )


# --- what is in the store


def test_a_run_is_named_by_date_data_and_model_and_its_page_reads_as_a_story(store: Store) -> None:
    for number, report in enumerate(store.reports):
        run = store.run(number)
        rows = int(run.data.metrics["data.training.rows"])
        assert re.fullmatch(
            rf"\d{{4}}-\d\d-\d\d toy 3 labels, {rows} rows, tiny-bert", run.info.run_name
        )
        note = run.data.tags["mlflow.note.content"]
        assert note.startswith(f"**{report['verdict'].upper()}**")
        assert (
            f"{report['test']['f1_macro']:.3f}" in note and "| tfidf logistic regression | " in note
        )
        assert "one\\-sided" in note or "one-sided bounds" in note
        assert run.data.tags["mlflow.source.name"] == "reseed retrain"
    assert [r["verdict"] for r in store.reports] == ["promote", "promote", "keep"]


def test_the_columns_that_compare_retrains_are_on_their_runs(store: Store) -> None:
    for number, report in enumerate(store.reports):
        metrics, data = store.run(number).data.metrics, report["data"]
        assert metrics["test.f1_macro"] == pytest.approx(report["test"]["f1_macro"])
        assert metrics["verdict.gain"] == pytest.approx(report["gain"]["value"])
        assert (
            metrics["cost.usd"] == pytest.approx(report["cost"]["usd"]) and metrics["cost.usd"] > 0
        )
        assert metrics["data.synthetic.rows"] == data["accepted"]["total"] == 36
        assert (
            metrics["data.harvested.rows"] == data["self_trained"]["total"]
            and metrics["data.seed.rows"] == 0
        )
        assert store.run(number).data.tags["verdict"] == report["verdict"]
    found = store.client.search_runs(
        [store.experiment.experiment_id],
        "metrics.\"test.f1_macro\" > 0.9 and tags.verdict = 'promote'",
    )
    assert [r.info.run_id for r in found] == [store.reports[1]["mlflow_run_id"]], (
        "the search that the docs give"
    )


def test_each_score_is_about_a_model_and_a_dataset(store: Store) -> None:
    for number, report in enumerate(store.reports):
        run = store.run(number)
        version = store.client.get_model_version("toy", report["model"]["version"])
        model = store.client.get_logged_model(version.tags["reseed.model"])
        scores = {m.key: m for m in model.metrics}
        assert scores["test.f1_macro"].value == run.data.metrics["test.f1_macro"]
        datasets = {d.dataset.name: d.dataset for d in run.inputs.dataset_inputs}
        assert set(datasets) == {"training", "dev", "test"}
        for name, metric in {"test": "test.f1_macro", "dev": "dev.f1_macro"}.items():
            assert (
                scores[metric].dataset_digest == datasets[name].digest
                and scores[metric].dataset_name == name
            )
        assert datasets["test"].profile == '{"num_rows": 90}' and datasets["test"].schema is None
        assert [m.model_id for m in run.outputs.model_outputs] == [model.model_id]
        assert json.loads(model.tags["mlflow.modelVersions"]) == [
            {"name": "toy", "version": str(version.version)}
        ]
    assert KEY.encode() not in store.settings.workspace.mlflow_database.read_bytes()


def test_pictures_of_the_stages_that_tell_the_story_are_on_the_run(store: Store) -> None:
    there = {f.path for f in store.client.list_artifacts(store.reports[1]["mlflow_run_id"])}
    assert {
        "confusion.png",
        "reliability.png",
        "curves.png",
        "data_report.html",
        "model_card.md",
        "verdict.json",
    } <= there


def test_a_version_tells_where_it_comes_from(store: Store) -> None:
    version = store.client.get_model_version("toy", "2")
    tags = version.tags
    assert (
        tags["reseed.verdict"] == "promote"
        and tags["reseed.run"] == store.reports[1]["mlflow_run_id"]
    )
    lineage = json.loads(tags["reseed.lineage"])
    assert lineage["prompt"] == "toy-generate/1" and lineage["generators"] == ["scripted"]
    assert tags["reseed.base"] == "tiny-bert, licence: not stated"
    assert len(set(lineage["data"].values())) == 3 and set(lineage["data"]) == {
        "training",
        "dev",
        "test",
    }
    for said in ("tiny-bert (not stated)", "toy-generate/1", lineage["data"]["test"][:12]):
        assert said in version.description
    assert "metal" in store.client.get_registered_model("toy").description


def test_what_is_done_again_is_logged_once(store: Store) -> None:
    """A retrain whose every stage is found adds no trace, no score of the model, no picture."""

    def seen() -> tuple[int, int, int]:
        traces = store.client.search_traces(
            locations=[store.experiment.experiment_id], max_results=500
        )
        model = store.client.get_model_version("toy", "3").tags["reseed.model"]
        runs = store.client.search_runs([store.experiment.experiment_id], max_results=1000)
        return len(traces), len(store.client.get_logged_model(model).metrics), len(runs)

    before = seen()
    assert before[0] == 15
    assert again(store)["verdict"] == "keep" and seen() == before


def test_a_trace_is_a_request_as_it_was_sent(store: Store) -> None:
    run_id = store.reports[0]["mlflow_run_id"]
    traces = store.client.search_traces(
        locations=[store.experiment.experiment_id],
        filter_string=f"metadata.`mlflow.sourceRun` = '{run_id}'",
    )
    assert len(traces) == 5
    for trace in traces:
        span = trace.data.spans[0]
        assert span.span_type == "CHAT_MODEL" and span.inputs["model"] == "scripted"
        assert span.inputs["messages"][0]["content"].startswith("Write a short text about topic")
        assert span.outputs["choices"][0]["message"]["content"]
        assert trace.info.token_usage == {
            "input_tokens": 10,
            "output_tokens": 20,
            "total_tokens": 30,
        }
        assert trace.info.cost["total_cost"] == pytest.approx((10 * 0.15 + 20 * 0.6) / 1e6)
        assert trace.info.tags["label"] in toy.LABELS and trace.info.tags["curation"] in {
            "accepted",
            "surplus",
        }
        assert 0 < trace.info.execution_duration < 5000 and KEY not in str(trace.to_dict())


# --- what a person sees


@pytest.fixture(scope="module")
def address(store: Store) -> Iterator[str]:
    with mlflow_served(store.settings) as address:
        yield address


@pytest.fixture(scope="module")
def pages(store: Store, address: str) -> Iterator[Ui]:
    with headless() as browser:
        ui = Ui(browser, address, store.experiment.experiment_id)
        yield ui
        assert ui.hosts <= {address.removeprefix("http://"), ""}, "the UI needs no network"


def test_the_list_of_runs_has_the_columns_and_folds_the_stages(store: Store, pages: Ui) -> None:
    text = pages.runs("promote")
    for column in ("verdict", "test.f1_macro", "verdict.gain"):
        assert column in text, column
    for number in range(3):
        run = store.run(number)
        value = run.data.metrics["test.f1_macro"]
        assert run.info.run_name in text and f"\n{'1' if value == 1 else value}\n" in text
    assert "evaluate challenger" not in text, "stages are folded"
    assert "evaluate challenger" in pages.unfold("evaluate challenger")


def test_three_runs_compare(store: Store, pages: Ui) -> None:
    pages.runs("promote")
    text = pages.compare(3)
    assert "Comparing 3 Runs" in text
    for number in range(3):
        assert store.run(number).info.run_name in text
    scores = [
        store.run(number).data.metrics["test.f1_macro"] for number in (2, 1, 0)
    ]  # the newest stands first
    assert [float(v) for v in pages.compared("test.f1_macro")] == [
        pytest.approx(v, abs=6e-4) for v in scores
    ]


def test_a_run_tells_its_verdict_first(store: Store, pages: Ui) -> None:
    report = store.reports[1]
    text = pages.run(report["mlflow_run_id"], "macro-F1")
    assert "PROMOTE, now champion: macro-F1 " in text and "tfidf logistic regression" in text
    assert text.index("PROMOTE") < text.index("Metrics (")
    assert "against champion version 1" in text
    assert "Write a short text about topic" in pages.run(
        report["mlflow_run_id"], "Tokens", tab="/traces"
    )
    assert "curves.png" in pages.run(report["mlflow_run_id"], "curves.png", tab="/artifacts")


def test_a_stages_table_is_read_in_the_ui(store: Store, pages: Ui) -> None:
    children = store.client.search_runs(
        [store.experiment.experiment_id],
        f"tags.`mlflow.parentRunId` = '{store.reports[1]['mlflow_run_id']}'",
    )
    curated = next(c for c in children if c.info.run_name == "curate")
    text = pages.run(
        curated.info.run_id, "View as table", "synthetic", tab="/artifacts/accepted.json"
    )
    table = store.client.download_artifacts(curated.info.run_id, "accepted.json")
    rows = json.loads(Path(table).read_text(encoding="utf-8"))
    assert rows["columns"] == ["id", "label", "source", "topic", "text"] and len(rows["data"]) == 36
    for said in ("label", "topic", *rows["data"][0][:4]):
        assert said in text


def test_the_registry_shows_who_answers(store: Store, pages: Ui) -> None:
    text = pages.open("models/toy", "Versions", "champion")
    for alias in ("@ champion", "@ previous", "@ challenger"):
        assert alias in text, alias
    text = pages.open("models/toy/versions/2", "Intended use")
    assert (
        "@ champion" in text
        and "toy, version 2" in text
        and "Scores" in text
        and "(not stated)" in text
    )


def test_traces_show_the_request_its_tokens_and_its_cost(pages: Ui) -> None:
    assert "Write a short text about topic" in pages.traces("Write a short text")
    text = pages.trace("Write a short text")
    assert "30 tokens" in text and "$0.000014" in text and "scripted" in text
