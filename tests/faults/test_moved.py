"""What moves between a verdict and its promotion, or is deleted in MLflow by hand; and a flow run that is executed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.context import RunContext
from flows.registry import admin, promotion
from flows.registry.client import Registry
from flows.settings import Settings
from flows.tracking.store import connect
from tasks.evaluate.result import ScoreResult
from tasks.model import bundle
from tests.conftest import Command, last_json
from tests.kit import toy
from tests.kit.promoted import Promoted

pytestmark = [pytest.mark.usefixtures("prefect_server", "unasked"), pytest.mark.slow]


@pytest.fixture
def config(tmp_path: Path, llm: Any, encoder: Path, home: Path) -> Path:
    return toy.project(tmp_path / "project", endpoint=llm.url, encoder=encoder)


@pytest.fixture
def registry(request: pytest.FixtureRequest) -> Registry:
    """The registry of the test's workspace."""
    request.getfixturevalue("promoted" if "promoted" in request.fixturenames else "home")
    settings = Settings.from_environment()
    return Registry(connect(settings), settings)


def champion(registry: Registry) -> str | None:
    found = registry.champion("toy")
    return found.version if found else None


def verdicts(client: MlflowClient, run_id: str) -> list[Any]:
    """The recorded comparisons of a retrain, oldest first."""
    parent = client.get_run(run_id)
    query = f"tags.`mlflow.parentRunId` = '{run_id}' and tags.`reseed.stage` = 'verdict'"
    return client.search_runs(
        [parent.info.experiment_id], query, order_by=["attributes.start_time"]
    )


def test_a_champion_that_moved_is_compared_with_again(
    promoted: Promoted,
    reseed: Command,
    registry: Registry,
    small_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Version 3 beats the champion of the moment, a bad one; before it is promoted, a good one is champion again."""
    config = promoted.config
    digest = bundle.atomic.verify(small_bundle)["digest"]
    run_id = registry.versions("toy")[0].run_id
    told = {"run_id": run_id, "labels": list(toy.LABELS), "description": "nobody trained it"}
    bad = registry.register("toy", small_bundle, digest=digest, **told)
    admin.promote_by_hand(registry.settings, "toy", bad.version, reason="a mistake")
    real, calls = promotion.promote, []

    def promote(registry: Registry, version: Any, *, expected: Any, **told: Any) -> None:
        calls.append((version.version, expected.version))
        monkeypatch.setattr(promotion, "promote", real)
        admin.roll_back(registry.settings, "toy", reason="it was a mistake")
        real(registry, version, expected=expected, **told)

    monkeypatch.setattr(promotion, "promote", promote)
    code, out, err = reseed("retrain", config, "--fresh", "--json")
    report = last_json(out)
    assert code == 0 and calls == [("3", "2")] and "comparing again" in err, err
    assert report["verdict"] in {"keep", "inconclusive"} and not report["promoted"], report[
        "reasons"
    ]
    assert (
        report["gain"]["opponent"]
        == "champion version 1"
        == report["reasons"][0].split(" against ")[1].split(",")[0]
    )
    assert champion(registry) == "1"
    assert [(r.version, r.kind) for r in registry.history("toy")] == [
        ("1", "verdict"),
        ("2", "by hand"),
        ("1", "rollback"),
    ]
    tags = registry.version("toy", "3").tags
    assert (
        tags["reseed.verdict"] == report["verdict"]
        and "champion version 1" in tags["reseed.reasons"]
    )
    both = verdicts(registry.client, report["mlflow_run_id"])
    assert len(both) == 2 and tags["reseed.evidence_run"] == both[1].info.run_id, (
        "both comparisons are recorded"
    )
    tags = registry.client.get_registered_model("toy").tags
    (seen,) = [v for k, v in tags.items() if k.startswith("reseed.test_set_uses.")]
    assert len(seen.split()) == 2, (
        "a challenger that is compared twice is one verdict on the test set"
    )
    assert last_json(reseed("verify", "toy", "3", "--json")[1])["same"]


def test_what_a_person_took_back_is_not_promoted_by_the_same_retrain_again(
    config: Path, reseed: Command, registry: Registry, small_bundle: Path
) -> None:
    artifacts = str(registry.settings.workspace.mlflow_artifacts / "toy")
    experiment = registry.client.create_experiment("toy", artifact_location=artifacts)
    run_id = registry.client.create_run(experiment).info.run_id
    told = {"run_id": run_id, "labels": list(toy.LABELS), "description": "nobody trained it"}
    bad = registry.register(
        "toy", small_bundle, digest=bundle.atomic.verify(small_bundle)["digest"], **told
    )
    admin.promote_by_hand(registry.settings, "toy", bad.version, reason="to begin with")
    first = last_json(reseed("retrain", config, "--json")[1])
    assert first["promoted"] and champion(registry) == "2", first["reasons"]
    admin.roll_back(registry.settings, "toy", reason="it is rude", by="ada")

    code, out, _ = reseed("retrain", config, "--json")
    again = last_json(out)
    said = "version 2 was rolled back by ada: it is rude; `reseed promote toy 2 --reason ...` overrules it"
    assert code == 0 and again["reasons"][0] == said and again["model"] == first["model"]
    assert again["verdict"] == "keep" and not again["promoted"] and champion(registry) == "1"
    tags = registry.version("toy", "2").tags
    assert tags["reseed.verdict"] == "promote" and tags["reseed.reasons"].startswith(said)
    assert (
        len(registry.history("toy")) == 3
        and last_json(reseed("verify", "toy", "2", "--json")[1])["same"]
    )


def test_what_was_deleted_by_hand_is_said_and_still_has_to_be_beaten(
    promoted: Promoted, reseed: Command, registry: Registry
) -> None:
    config = promoted.config
    registry.client.delete_registered_model_alias("toy", "champion")
    gone = (
        "the alias champion is gone, but version 1 was promoted last: it was moved without Reseed"
    )
    assert f"warning: {gone}" in reseed("history", "toy")[1]
    code, _, err = reseed("predict", "toy", "some text")
    assert code == 2 and "`reseed promote toy 1 --reason ...` restores the last one" in err
    report = last_json(reseed("retrain", config, "--fresh", "--json")[1])
    assert (
        report["verdict"] in {"keep", "inconclusive"}
        and report["gain"]["opponent"] == "champion version 1"
    )
    assert gone in report["reasons"] and champion(registry) is None
    assert reseed("promote", "toy", "1", "--reason", "back", "--json")[0] == 0
    assert last_json(reseed("history", "toy", "--json")[1])["inconsistencies"] == []

    registry.client.delete_model_version("toy", "1")
    deleted = "version 1, which was promoted last, was deleted; the alias champion is gone"
    assert last_json(reseed("history", "toy", "--json")[1])["inconsistencies"] == [deleted]
    code, out, err = reseed("retrain", config, "--fresh", "--json")
    report = last_json(out)
    assert code == 0 and deleted in report["reasons"] and deleted in err
    assert report["promoted"] and report["gain"]["opponent"].startswith("the best baseline"), (
        report["reasons"]
    )
    assert champion(registry) == report["model"]["version"] == "3"
    assert last_json(reseed("history", "toy", "--json")[1])["inconsistencies"] == []


def test_a_flow_run_that_is_executed_again_makes_no_second_version(
    promoted: Promoted, reseed: Command, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retried after a failure in the evaluation, and executed once more after it was done, as the button `Retry` does."""
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import AwaitingRetry

    from flows import retrain as flows_retrain

    config = promoted.config
    retried = flows_retrain.retrain.with_options(retries=1, retry_delay_seconds=0)
    told = {"config": str(config), "overrides": [], "fresh": True}
    real, failures = flows_retrain.score, []

    def score(run: RunContext, *told: Any) -> ScoreResult:
        if not failures:
            failures.append(run.tracking.run_id)
            raise RuntimeError("out of luck")
        return real(run, *told)

    monkeypatch.setattr(flows_retrain, "score", score)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(retried, parameters=told)
        first: Any = run_flow(retried, flow_run=run, parameters=told)
        client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
        again: Any = run_flow(retried, flow_run=client.read_flow_run(run.id), parameters=told)
    assert failures == [first["mlflow_run_id"]] == [again["mlflow_run_id"]], (
        "a retried flow continues its MLflow run"
    )
    assert first["generation"] == again["generation"] == 1
    assert first["model"] == again["model"] and first["flow_run_id"] == again["flow_run_id"]
    assert [v.version for v in registry.versions("toy")] == ["2", "1"]
    assert (
        first["verdict"] == again["verdict"]
        and again["data"]["requested"] == first["data"]["requested"]
    )
    assert registry.client.get_run(first["mlflow_run_id"]).info.status == "FINISHED"
