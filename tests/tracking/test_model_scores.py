"""A model's scores in MLflow. The whole retrain is in tests/test_retrain.py."""

from __future__ import annotations

from pathlib import Path

from flows.tracking.model_scores import log_champion_scores
from flows.tracking.run import Tracking
from tasks.dataset.split import sealed_test_set, split_dataset
from tasks.evaluate.baselines.score import score_baseline
from tasks.model.bundle import BundleRef
from tests.kit.registry import Store
from tests.kit.rows import project, record, rows, write
from tests.kit.stages import curated_of


def test_the_champions_scores_are_on_its_own_model_and_not_on_the_retrain(
    sqlite: Store, bundles: list[BundleRef], tmp_path: Path
) -> None:
    champion = sqlite.register(bundles[0])
    write(tmp_path / "pool.csv", rows(fruit=9, metal=9))
    p = project(
        {"pool": "pool.csv", "split": {"dev": 1, "test": 4}}, evaluate={"bootstrap_samples": 100}
    ).in_folder(tmp_path)
    workspace = sqlite.settings.workspace
    splits, sealed = split_dataset(p, workspace=workspace), sealed_test_set(p, workspace=workspace)
    curated = curated_of(workspace.home, [record("metal it is", "metal")])
    score = score_baseline(
        p, "majority", curated=curated, splits=splits, sealed=sealed, workspace=workspace
    )
    log = Tracking.open(
        sqlite.client, sqlite.settings, experiment="toy", retrain_id="r", name="r", params={}
    )
    for _ in range(2):  # as when the champion moved and is compared again
        log.log_stage(score, name="evaluate champion 1")
        log_champion_scores(log, score, model_id=champion.model_id, test_set=sealed.digest)

    assert "test.f1_macro" not in sqlite.client.get_run(log.run_id).data.metrics, (
        "those are the challenger's"
    )
    (found,) = sqlite.client.search_runs(
        [log.experiment_id], "tags.`reseed.stage` = 'evaluate champion 1'"
    )
    logged = sqlite.client.get_run(found.info.run_id)  # a search leaves out the models
    assert [m.model_id for m in logged.inputs.model_inputs] == [champion.model_id]
    (data,) = [d.dataset for d in logged.inputs.dataset_inputs]
    assert (data.name, data.digest) == ("test", sealed.digest[:36])
    metrics = [
        m
        for m in sqlite.client.get_logged_model(champion.model_id).metrics or []
        if m.key == "test.f1_macro"
    ]
    assert [(m.value, m.run_id, m.dataset_digest) for m in metrics] == [
        (score.known.f1_macro.value, logged.info.run_id, data.digest)
    ]
    ends = [logged.data.metrics[f"test.f1.metal{end}"] for end in (".ci_low", "", ".ci_high")]
    assert ends == sorted(ends) and "test.balanced_accuracy.ci_low" in logged.data.metrics

    sqlite.client.delete_logged_model(
        champion.model_id
    )  # somebody tidied up: no reason to fail a retrain
    log_champion_scores(log, score, model_id=champion.model_id, test_set=sealed.digest)
