"""The robustness stage on tiny real models: what a model can't see does not flip it, and what it can see is counted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import atomic
from tasks.dataset.sealed import count_openings
from tasks.evaluate.robustness import cases_line, line, robustness, sample, share, wanted
from tasks.model import bundle
from tasks.project import Project
from tasks.records import Record
from tasks.stage import Stage
from tests.kit import toy
from tests.kit.stages import made

ALL = ["typos", "casing", "punctuation", "whitespace", "truncation", "entities", "negation"]


def asked(folder: Path, found: Path, rows: list[Record], **evaluate: Any) -> tuple[Stage, Stage]:
    """The stage of the bundle `found` on these test rows, and the sealed rows."""
    several = not isinstance(rows[0].label, str)
    p = Project.model_validate(
        {"name": "toy", "labels": toy.LABELS, "multi_label": several, "data": {"pool": "x"}, "evaluate": evaluate}
    )
    assert wanted(p)
    sealed = made(folder / "home", "sealed", rows={"test.jsonl": rows})
    digest = atomic.read_json(found / "manifest.json")["digest"]
    return robustness(p, found, digest=digest, sealed=sealed, beside=folder, home=folder / "home"), sealed


def real(n: int) -> list[Record]:
    return [Record.of(r["text"], r["label"], "test") for r in toy.real_rows(n)]


def test_a_model_that_lower_cases_does_not_mind_casing_and_minds_half_a_text(
    tmp_path: Path, small_bundle: Path
) -> None:
    stage, sealed = asked(tmp_path, small_bundle, real(20), robustness=30, perturbations=ALL)
    c = stage.counts
    assert c["rows"] == 30 and list(c["perturbations"]) == ALL and c["cases"] == {}
    for name in ("casing", "whitespace"):
        own = c["perturbations"][name]
        assert own["rows"] == own["read_alike"] == 30 and own["flips"] == 0 and own["fall"] == 0
        assert own["flip_rate"]["value"] == 0 and 0.05 < own["flip_rate"]["ci_high"] < 0.2
    half = c["perturbations"]["truncation"]
    assert (
        half["flips"] > 0 and half["flip_rate"]["ci_low"] < half["flips"] / half["rows"] < half["flip_rate"]["ci_high"]
    )
    assert half["read_alike"] == 0 and half["fall"] == pytest.approx(half["f1_macro_before"] - half["f1_macro"])
    assert c["perturbations"]["entities"]["rows"] == 0, "toy texts name nobody: such rows are not counted"
    assert c["perturbations"]["entities"]["flip_rate"]["value"] is None
    texts, flips = (sum(own[k] for own in c["perturbations"].values()) for k in ("rows", "flips"))
    assert c["flip_rate"]["value"] == flips / texts
    shown = atomic.read_lines(stage.directory / "flips.jsonl")
    assert all(r["before"] != r["after"] for r in shown) and {r["perturbation"] for r in shown} >= {"truncation"}
    assert max(sum(r["perturbation"] == name for r in shown) for name in ALL) <= 10
    assert "casing 0.0%" in line(c) and "entities" not in line(c)

    assert count_openings(sealed, home=tmp_path / "home") == 1, "the test rows were opened once, and that is counted"
    again, _ = asked(tmp_path, small_bundle, real(20), robustness=30, perturbations=ALL)
    assert again.found and count_openings(sealed, home=tmp_path / "home") == 1


def test_the_order_of_rows_says_nothing(tmp_path: Path, small_bundle: Path) -> None:
    rows = real(12)
    one, _ = asked(tmp_path / "one", small_bundle, rows, robustness=20)
    random.Random(3).shuffle(rows)
    other, _ = asked(tmp_path / "other", small_bundle, rows, robustness=20)
    assert one.counts == other.counts
    told = [sorted(map(str, atomic.read_lines(s.directory / "flips.jsonl"))) for s in (one, other)]
    assert told[0] == told[1]


def test_the_sample_is_in_proportion_and_leaves_no_label_out() -> None:
    rows = [Record.of(f"{label} {i}", label, "test") for label, n in (("a", 80), ("b", 18), ("c", 2)) for i in range(n)]
    count = {label: sum(r.label == label for r in sample(rows, 50)) for label in "abc"}
    assert count == {"a": 40, "b": 9, "c": 1}
    assert {r.label for r in sample(rows, 3)} == set("abc") and len(sample(rows, 500)) == 100 and sample(rows, 0) == []
    sets = [Record.of(f"t{i}", ("a", "b") if i % 9 == 0 else ("a",) if i % 3 else (), "test") for i in range(90)]
    assert {r.label for r in sample(sets, 3)} == {("a", "b"), ("a",), ()}


def test_intervals() -> None:
    assert share(0, 0) == {"value": None, "ci_low": None, "ci_high": None}
    assert share(5, 100) == pytest.approx({"value": 0.05, "ci_low": 0.0215, "ci_high": 0.1118}, abs=1e-4)  # Wilson


def test_label_sets_flip_where_any_label_does_and_cases_take_lists(tmp_path: Path, encoder: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    names = dict(enumerate(toy.LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=3, id2label=names, problem_type="multi_label_classification"
    )
    found = tmp_path / "bundle"
    bundle.save(model, AutoTokenizer.from_pretrained(encoder), found, about={"labels": toy.LABELS, "max_length": 32})
    fruit, metal = (" ".join(toy.REAL[k][:6]) for k in ("fruit", "metal"))
    from tasks.model.bundle import Classifier

    said = list(Classifier.load(found).predict([fruit])[0].answer)  # whatever nobody taught it
    tests = {
        "right": {"kind": "minimum_functionality", "texts": [fruit], "label": said},
        "wrong": {"kind": "minimum_functionality", "texts": [fruit], "label": [k for k in toy.LABELS if k not in said]},
        "case": {"kind": "invariance", "pairs": [[fruit, fruit.upper()], [metal, metal.title()]]},
        "nothing moves": {
            "kind": "directional",
            "pairs": [[fruit, fruit.upper()]],
            "label": "fruit",
            "moves": "fall",
        },
    }
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump({"tests": tests}, sort_keys=False))
    rows = [Record.of(r["text"], tuple(yaml.safe_load(r["label"])), "test") for r in toy.real_sets(8)]
    stage, _ = asked(tmp_path, found, rows, robustness=24, perturbations=ALL[:5], cases="cases.yaml")
    c = stage.counts
    assert {name: t["failed"] for name, t in c["cases"].items()} == {
        "right": 0,
        "wrong": 1,
        "case": 0,
        "nothing moves": 1,
    }
    assert cases_line(c) == "2 of 5 fail, 2 of 4 tests pass  (wrong 1 of 1, nothing moves 1 of 1)"
    failures = atomic.read_lines(stage.directory / "failures.jsonl")
    assert [f["test"] for f in failures] == ["wrong", "nothing moves"] and failures[0]["texts"] == fruit
    assert c["perturbations"]["casing"]["flips"] == 0 and c["perturbations"]["truncation"]["rows"] == 24


def test_cases_alone_open_no_test_row(tmp_path: Path, small_bundle: Path) -> None:
    (tmp_path / "cases.yaml").write_text("tests: {same: {kind: invariance, pairs: [[a b, A B]]}}")
    stage, sealed = asked(tmp_path, small_bundle, real(3), robustness=0, cases="cases.yaml")
    assert (
        stage.counts["rows"] == 0
        and stage.counts["perturbations"] == {}
        and stage.counts["cases"]["same"]["failed"] == 0
    )
    assert count_openings(sealed, home=tmp_path / "home") == 0
    assert line(stage.counts) == "no test text was changed"
