"""The cost of serving is measured in a fresh process, once per bundle and host."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.evaluate.host import this_host
from tasks.evaluate.robustness.stage import RobustnessResult
from tasks.evaluate.serving import ServingResult, compare_serving, measure_serving
from tasks.evaluate.serving_process import measure_latencies, measure_memory
from tasks.model.bundle import BundleRef, Classifier
from tasks.project import Evaluate
from tasks.records import Record
from tasks.statistics.proportions import Proportion
from tasks.verdict.measures import MeasuredBundle, compare_measures
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.context import bundle_ref
from tests.kit.rows import project
from tests.kit.stages import filled, splits_of

P = project({"pool": "x"}, evaluate={"serving_rows": 50})


@pytest.mark.slow
def test_a_fresh_process_measures_its_cost(tmp_path: Path, small_bundle: Path) -> None:
    dev = [Record.create(r["text"], r["label"], "dev") for r in toy.real_rows(4)]
    splits, workspace = splits_of(tmp_path, dev=dev), Workspace(tmp_path)
    bundle = bundle_ref(small_bundle)
    cost = measure_serving(P, bundle, splits=splits, workspace=workspace)
    assert 0 < cost.latency_p50_ms <= cost.latency_p95_ms < 1000 and cost.texts_per_second > 1
    # Python with torch, and a model of 0.1 MB
    assert 100 < cost.memory_mb <= cost.memory_peak_mb < 1500
    sizes = {f.name: f.stat().st_size / 1e6 for f in small_bundle.iterdir()}
    del sizes["manifest.json"]
    assert cost.bundle_mb == pytest.approx(sum(sizes.values()), abs=1e-3)
    assert cost.model_mb == pytest.approx(sizes["model.safetensors"], abs=1e-3)
    assert cost.host == this_host() and cost.host.cores >= 1 and cost.host.cpu
    assert "texts/s" in cost.describe()
    assert measure_serving(P, bundle, splits=splits, workspace=workspace).published.found

    one = MeasuredBundle(bundle, serving=cost)
    turns = compare_serving(P, bundle, bundle, splits=splits, workspace=workspace)
    both = turns.challenger, turns.champion
    assert all(0 < own.latency_p50_ms <= own.latency_p95_ms for own in both)
    assert compare_measures(one, one, turns) == {
        "latency_p95_ms": (both[0].latency_p95_ms, both[1].latency_p95_ms),
        "bundle_mb": (cost.bundle_mb, cost.bundle_mb),
    }

    torn = tmp_path / "torn"
    shutil.copytree(small_bundle, torn)
    (torn / "model.safetensors").write_bytes(b"")
    with pytest.raises(RuntimeError, match="differs from its manifest"):
        measure_serving(P, BundleRef(torn, "0" * 64), splits=splits, workspace=workspace)


def test_only_measures_of_both_bundles_are_compared(tmp_path: Path) -> None:
    robust = filled(RobustnessResult, flip_rate=Proportion(value=0.25, ci_low=0.2, ci_high=0.3))
    none = filled(RobustnessResult, flip_rate=Proportion(value=None, ci_low=None, ci_high=None))
    cost = filled(ServingResult, latency_p95_ms=9.0, bundle_mb=24.0)
    a, b = BundleRef(tmp_path, "a"), BundleRef(tmp_path, "b")
    whole = MeasuredBundle(a, robust, cost)
    assert whole.measures() == {"latency_p95_ms": 9.0, "bundle_mb": 24.0, "flip_rate": 0.25}
    assert compare_measures(whole, MeasuredBundle(b, robust), None) == {"flip_rate": (0.25, 0.25)}
    assert compare_measures(whole, MeasuredBundle(b, none, cost), None) == {
        "latency_p95_ms": (9.0, 9.0),
        "bundle_mb": (24.0, 24.0),
    }
    assert compare_measures(whole, MeasuredBundle(b), None) == {}


def test_two_models_are_asked_in_turns_and_each_is_first_as_often() -> None:
    order: list[str] = []

    class Recording(Classifier):
        def __init__(self, name: str) -> None:
            object.__setattr__(self, "name", name)  # a Classifier is frozen

        def probabilities(self, texts: list[str]) -> None:  # type: ignore[override]
            assert len(texts) == 1
            order.append(self.name)

    latencies = measure_latencies([Recording("a"), Recording("b")], ["x", "y", "z"], calls=50)
    assert "".join(order)[10:] == "abba" * 25 and len(latencies) == 2


def test_the_peak_of_memory_is_not_below_the_present() -> None:
    memory = measure_memory()
    assert memory.memory_mb <= memory.memory_peak_mb


def test_too_few_calls_give_no_95th_percentile() -> None:
    assert Evaluate(serving_rows=0).serving_rows == 0
    with pytest.raises(ValidationError, match="write 50 or more, or 0"):
        Evaluate(serving_rows=20)
