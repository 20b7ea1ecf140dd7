"""The cost of serving is measured in a process of its own, once a bundle and host."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks import atomic
from tasks.evaluate.serving import Measured, host, latencies, line, measures, memory, serving, side_by_side
from tasks.model.bundle import Classifier
from tasks.project import Evaluate
from tasks.records import Record
from tests.kit import toy
from tests.kit.rows import project
from tests.kit.stages import made

P = project({"pool": "x"}, evaluate={"serving": 50})


def test_a_fresh_process_tells_what_it_took(tmp_path: Path, small_bundle: Path) -> None:
    dev = [Record.of(r["text"], r["label"], "dev") for r in toy.real_rows(4)]
    splits = made(tmp_path, "splits", rows={"dev.jsonl": dev})
    digest = atomic.read_json(small_bundle / "manifest.json")["digest"]
    stage = serving(P, small_bundle, digest=digest, splits=splits, home=tmp_path)
    c = stage.counts
    assert 0 < c["latency_p50_ms"] <= c["latency_p95_ms"] < 1000 and c["texts_per_second"] > 1
    assert 100 < c["memory_mb"] <= c["memory_peak_mb"] < 1500, "Python with torch, and a model of 0.1 MB"
    size = sum(f.stat().st_size for f in small_bundle.iterdir() if f.name != "manifest.json") / 1e6
    assert c["bundle_mb"] == pytest.approx(size, abs=1e-3)
    assert c["model_mb"] == pytest.approx((small_bundle / "model.safetensors").stat().st_size / 1e6, abs=1e-3)
    assert c["host"] == host() and c["host"]["cores"] >= 1 and c["host"]["cpu"]
    assert "texts/s" in line(c)
    assert serving(P, small_bundle, digest=digest, splits=splits, home=tmp_path).found

    one = Measured(small_bundle, digest, serving=stage)
    turns = side_by_side(P, one, one, splits=splits, home=tmp_path)
    both = turns.counts["challenger"], turns.counts["champion"]
    assert all(0 < own["latency_p50_ms"] <= own["latency_p95_ms"] for own in both)
    found = measures(one, one, turns)
    assert found == {
        "latency_p95_ms": (both[0]["latency_p95_ms"], both[1]["latency_p95_ms"]),
        "bundle_mb": (c["bundle_mb"], c["bundle_mb"]),
    }

    shutil.copytree(small_bundle, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"")
    with pytest.raises(RuntimeError, match="differs from its manifest"):
        serving(P, tmp_path / "torn", digest="0" * 64, splits=splits, home=tmp_path)


def test_only_what_both_sides_have_is_compared(tmp_path: Path) -> None:
    robust = made(tmp_path, "robustness", counts={"flip_rate": {"value": 0.25}})
    none = made(tmp_path, "robustness", counts={"flip_rate": {"value": None}}, params={"other": 1})
    cost = made(tmp_path, "serving", counts={"latency_p95_ms": 9.0, "bundle_mb": 24.0})
    whole = Measured(tmp_path, "a", robust, cost)
    assert whole.limited() == {"latency_p95_ms": 9.0, "bundle_mb": 24.0, "flip_rate": 0.25}
    assert measures(whole, Measured(tmp_path, "b", robust), None) == {"flip_rate": (0.25, 0.25)}
    assert measures(whole, Measured(tmp_path, "b", none, cost), None) == {
        "latency_p95_ms": (9.0, 9.0),
        "bundle_mb": (24.0, 24.0),
    }
    assert measures(whole, Measured(tmp_path, "b"), None) == {}


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
    assert Evaluate(serving=0).serving == 0
    with pytest.raises(ValidationError, match="write 50 or more, or 0"):
        Evaluate(serving=20)
