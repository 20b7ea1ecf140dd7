"""What a retrain's pages in MLflow tie to which model. The whole story is in test_retrain.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flows.publishing import run_page
from flows.tracking.run import Tracking
from tasks.dataset.split import prepare
from tasks.evaluate.score import score_baseline
from tasks.records import write_records
from tasks.stage import stage
from tests.kit.registry import Bundle, Store
from tests.kit.rows import project, record, rows, write


def test_the_champions_scores_stand_at_its_own_model_and_not_on_the_retrain(
    sqlite: Store, bundles: list[Bundle], tmp_path: Path
) -> None:
    champion = sqlite.register(bundles[0])
    write(tmp_path / "pool.csv", rows(fruit=9, metal=9))
    p = project({"pool": "pool.csv", "split": {"dev": 1, "test": 4}}, evaluate={"bootstrap": 100})
    home = sqlite.settings.home
    prepared = prepare(p, beside=tmp_path, home=home)

    def build(out: Path, work: Path) -> dict[str, Any]:
        write_records(out / "kept.jsonl", [record("metal it is", "metal")])
        return {}

    curated = stage(home, "curate", version=1, params={}, inputs={}, build=build)
    places = {"splits": prepared.splits, "sealed": prepared.sealed, "beside": tmp_path, "home": home}
    score = score_baseline(p, "majority", curated=curated, **places)
    log = Tracking.open(sqlite.client, sqlite.settings, experiment="toy", retrain_id="r", name="r", params={})
    r: Any = SimpleNamespace(log=log, prepared=prepared)
    for _ in range(2):  # as when the champion moved and is compared again
        run_page.champion_scored(r, champion, score)

    assert "test.f1_macro" not in sqlite.client.get_run(log.run_id).data.metrics, "those are the challenger's"
    (found,) = sqlite.client.search_runs([log.experiment_id], "tags.`reseed.stage` = 'evaluate champion 1'")
    run = sqlite.client.get_run(found.info.run_id)  # a search leaves out the models
    assert [m.model_id for m in run.inputs.model_inputs] == [champion.model_id]
    (data,) = [d.dataset for d in run.inputs.dataset_inputs]
    assert (data.name, data.digest) == ("test", prepared.sealed.digest[:36])
    told = [m for m in sqlite.client.get_logged_model(champion.model_id).metrics or [] if m.key == "test.f1_macro"]
    assert [(m.value, m.run_id, m.dataset_digest) for m in told] == [
        (score.counts["f1_macro"]["value"], run.info.run_id, data.digest)
    ]
    ends = [run.data.metrics[f"test.f1.metal{end}"] for end in (".ci_low", "", ".ci_high")]
    assert ends == sorted(ends) and "test.balanced_accuracy.ci_low" in run.data.metrics

    sqlite.client.delete_logged_model(champion.model_id)  # somebody tidied up: no reason to fail a retrain
    run_page.champion_scored(r, champion, score)
