"""The cost of serving is measured in a process of its own, once a bundle and host."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.evaluate.robustness import RobustnessResult, Share
from tasks.evaluate.serving import (
    Measured,
    ServingResult,
    compare_serving,
    host,
    latencies,
    line,
    measure_serving,
    measures,
    memory,
)
from tasks.model.bundle import BundleRef, Classifier
from tasks.project import Evaluate
from tasks.records import Record
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.context import bundle_ref
from tests.kit.rows import project
from tests.kit.stages import filled, splits_of

P = project({"pool": "x"}, evaluate={"serving_rows": 50})


def test_a_fresh_process_tells_what_it_took(tmp_path: Path, small_bundle: Path) -> None:
    dev = [Record.create(r["text"], r["label"], "dev") for r in toy.real_rows(4)]
    splits, workspace, bundle = (
        splits_of(tmp_path, dev=dev),
        Workspace(tmp_path),
        bundle_ref(small_bundle),
    )
    result = measure_serving(P, bundle, splits=splits, workspace=workspace)
    assert 0 < result.latency_p50_ms <= result.latency_p95_ms < 1000 and result.texts_per_second > 1
    assert 100 < result.memory_mb <= result.memory_peak_mb < 1500, (
        "Python with torch, and a model of 0.1 MB"
    )
    size = sum(f.stat().st_size for f in small_bundle.iterdir() if f.name != "manifest.json") / 1e6
    assert result.bundle_mb == pytest.approx(size, abs=1e-3)
    assert result.model_mb == pytest.approx(
        (small_bundle / "model.safetensors").stat().st_size / 1e6, abs=1e-3
    )
    assert result.host == host() and result.host.cores >= 1 and result.host.cpu
    assert "texts/s" in line(result)
    assert measure_serving(P, bundle, splits=splits, workspace=workspace).published.found

    one = Measured(bundle, serving=result)
    turns = compare_serving(P, bundle, bundle, splits=splits, workspace=workspace)
    both = turns.challenger, turns.champion
    assert all(0 < own.latency_p50_ms <= own.latency_p95_ms for own in both)
    assert measures(one, one, turns) == {
        "latency_p95_ms": (both[0].latency_p95_ms, both[1].latency_p95_ms),
        "bundle_mb": (result.bundle_mb, result.bundle_mb),
    }

    shutil.copytree(small_bundle, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"")
    with pytest.raises(RuntimeError, match="differs from its manifest"):
        measure_serving(
            P, BundleRef(tmp_path / "torn", "0" * 64), splits=splits, workspace=workspace
        )


def test_only_what_both_sides_have_is_compared(tmp_path: Path) -> None:
    robust = filled(RobustnessResult, flip_rate=Share(value=0.25, ci_low=0.2, ci_high=0.3))
    none = filled(RobustnessResult, flip_rate=Share(value=None, ci_low=None, ci_high=None))
    cost = filled(ServingResult, latency_p95_ms=9.0, bundle_mb=24.0)
    a, b = BundleRef(tmp_path, "a"), BundleRef(tmp_path, "b")
    whole = Measured(a, robust, cost)
    assert whole.limited() == {"latency_p95_ms": 9.0, "bundle_mb": 24.0, "flip_rate": 0.25}
    assert measures(whole, Measured(b, robust), None) == {"flip_rate": (0.25, 0.25)}
    assert measures(whole, Measured(b, none, cost), None) == {
        "latency_p95_ms": (9.0, 9.0),
        "bundle_mb": (24.0, 24.0),
    }
    assert measures(whole, Measured(b), None) == {}


def test_two_models_are_asked_in_turns_and_each_is_first_as_often() -> None:
    heard: list[str] = []

    class Listening(Classifier):
        def __init__(self, name: str) -> None:
            self.name = name

        def probabilities(self, texts: list[str]) -> None:  # type: ignore[override]
            assert len(texts) == 1
            heard.append(self.name)

    found = latencies([Listening("a"), Listening("b")], ["x", "y", "z"], calls=50)
    asked = "".join(heard)[10:]
    assert asked == "abba" * 25 and len(found) == 2
    assert memory()["memory_mb"] <= memory()["memory_peak_mb"]


def test_too_few_calls_tell_no_95th_percentile() -> None:
    assert Evaluate(serving_rows=0).serving_rows == 0
    with pytest.raises(ValidationError, match="write 50 or more, or 0"):
        Evaluate(serving_rows=20)
