"""The robustness stage on tiny real models: what a model cannot see does not flip its answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import atomic
from tasks.dataset.sealed import count_test_set_uses
from tasks.dataset.split import SealedResult
from tasks.evaluate.robustness.stage import (
    RobustnessResult,
    has_robustness_checks,
    measure_robustness,
    sample_rows,
)
from tasks.model.bundle import save_bundle
from tasks.project import Project
from tasks.records import Record
from tasks.statistics.proportions import Proportion, proportion
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.context import bundle_ref
from tests.kit.stages import sealed_of

ALL = ["typos", "casing", "punctuation", "whitespace", "truncation", "entities", "negation"]


def run_stage(
    folder: Path, bundle: Path, rows: list[Record], **evaluate: Any
) -> tuple[RobustnessResult, SealedResult]:
    """The stage's result for these test rows, and the sealed rows."""
    p = Project.model_validate(
        {
            "name": "toy",
            "labels": toy.LABELS,
            "multi_label": not isinstance(rows[0].label, str),
            "data": {"pool": "x"},
            "evaluate": evaluate,
        }
    ).in_folder(folder)
    assert has_robustness_checks(p)
    sealed, workspace = sealed_of(folder / "home", rows), Workspace(folder / "home")
    return measure_robustness(p, bundle_ref(bundle), sealed=sealed, workspace=workspace), sealed


def real(n: int) -> list[Record]:
    return [Record.create(r["text"], r["label"], "test") for r in toy.real_rows(n)]


def test_a_model_that_lower_cases_tolerates_casing_but_not_half_a_text(
    tmp_path: Path, small_bundle: Path
) -> None:
    result, sealed = run_stage(
        tmp_path, small_bundle, real(20), robustness_rows=30, perturbations=ALL
    )
    scores = result.perturbations
    assert result.rows == 30 and list(scores) == ALL and result.cases == {}
    for name in ("casing", "whitespace"):
        score, rate = scores[name], scores[name].flip_rate
        assert score.rows == score.read_alike == 30 and score.flips == 0 and score.fall == 0
        assert rate.value == 0 and rate.ci_high and 0.05 < rate.ci_high < 0.2
    half, rate = scores["truncation"], scores["truncation"].flip_rate
    assert half.flips > 0 and rate.ci_low is not None and rate.ci_high is not None
    assert rate.ci_low < half.flips / half.rows < rate.ci_high
    assert half.f1_macro_before is not None and half.f1_macro is not None
    assert half.read_alike == 0 and half.fall == pytest.approx(half.f1_macro_before - half.f1_macro)
    assert scores["entities"].rows == 0, "toy texts name nobody: such rows are not counted"
    assert scores["entities"].flip_rate.value is None
    flips, rows = (sum(getattr(p, key) for p in scores.values()) for key in ("flips", "rows"))
    assert result.flip_rate.value == flips / rows
    shown = atomic.read_lines(result.directory / "flips.jsonl")
    assert all(r["before"] != r["after"] for r in shown)
    assert "truncation" in {r["perturbation"] for r in shown}
    assert max(sum(r["perturbation"] == name for r in shown) for name in ALL) <= 10
    assert "casing 0.0%" in result.describe_flips() and "entities" not in result.describe_flips()

    workspace = Workspace(tmp_path / "home")
    assert count_test_set_uses(sealed, workspace=workspace) == 1
    again, _ = run_stage(tmp_path, small_bundle, real(20), robustness_rows=30, perturbations=ALL)
    assert again.published.found and count_test_set_uses(sealed, workspace=workspace) == 1


def test_the_order_of_rows_does_not_matter(tmp_path: Path, small_bundle: Path) -> None:
    rows = real(12)
    one, _ = run_stage(tmp_path / "one", small_bundle, rows, robustness_rows=20)
    random.Random(3).shuffle(rows)
    other, _ = run_stage(tmp_path / "other", small_bundle, rows, robustness_rows=20)
    assert one.model_dump() == other.model_dump()
    flips, others = (atomic.read_lines(s.directory / "flips.jsonl") for s in (one, other))
    assert sorted(map(str, flips)) == sorted(map(str, others))


def test_the_sample_is_in_proportion_and_leaves_no_label_out() -> None:
    rows = [
        Record.create(f"{label} {i}", label, "test")
        for label, n in (("a", 80), ("b", 18), ("c", 2))
        for i in range(n)
    ]
    counts = {label: sum(r.label == label for r in sample_rows(rows, 50)) for label in "abc"}
    assert counts == {"a": 40, "b": 9, "c": 1}
    assert {r.label for r in sample_rows(rows, 3)} == set("abc")
    assert len(sample_rows(rows, 500)) == 100 and sample_rows(rows, 0) == []
    sets = [
        Record.create(f"t{i}", ("a", "b") if i % 9 == 0 else ("a",) if i % 3 else (), "test")
        for i in range(90)
    ]
    assert {r.label for r in sample_rows(sets, 3)} == {("a", "b"), ("a",), ()}


def test_proportions_have_wilson_intervals() -> None:
    assert proportion(0, 0) == Proportion(value=None, ci_low=None, ci_high=None)
    expected = {"value": 0.05, "ci_low": 0.0215, "ci_high": 0.1118}
    assert proportion(5, 100).model_dump() == pytest.approx(expected, abs=1e-4)


def test_label_sets_flip_where_any_label_does_and_cases_take_lists(
    tmp_path: Path, encoder: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tasks.model.bundle import Classifier

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        num_labels=3,
        id2label=dict(enumerate(toy.LABELS)),
        problem_type="multi_label_classification",
    )
    bundle, about = tmp_path / "bundle", {"labels": toy.LABELS, "max_length": 32}
    save_bundle(model, AutoTokenizer.from_pretrained(encoder), bundle, about=about)
    fruit, metal = (" ".join(toy.REAL[k][:6]) for k in ("fruit", "metal"))
    answer = list(Classifier.load(bundle).predict([fruit])[0].answer)  # of an untrained head
    others = [k for k in toy.LABELS if k not in answer]
    label = {"kind": "minimum_functionality", "texts": [fruit]}
    tests = {
        "right": {**label, "label": answer},
        "wrong": {**label, "label": others},
        "case": {"kind": "invariance", "pairs": [[fruit, fruit.upper()], [metal, metal.title()]]},
        "nothing moves": {
            "kind": "directional",
            "pairs": [[fruit, fruit.upper()]],
            "label": "fruit",
            "moves": "fall",
        },
    }
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump({"tests": tests}, sort_keys=False))
    rows = [
        Record.create(r["text"], tuple(yaml.safe_load(r["label"])), "test")
        for r in toy.real_sets(8)
    ]
    result, _ = run_stage(
        tmp_path, bundle, rows, robustness_rows=24, perturbations=ALL[:5], cases="cases.yaml"
    )
    failed = {name: score.failed for name, score in result.cases.items()}
    assert failed == {"right": 0, "wrong": 1, "case": 0, "nothing moves": 1}
    line = "2 of 5 fail, 2 of 4 tests pass  (wrong 1 of 1, nothing moves 1 of 1)"
    assert result.describe_cases() == line
    failures = atomic.read_lines(result.directory / "failures.jsonl")
    assert [f["test"] for f in failures] == ["wrong", "nothing moves"]
    assert failures[0]["texts"] == fruit
    assert result.perturbations["casing"].flips == 0
    assert result.perturbations["truncation"].rows == 24


def test_cases_alone_use_no_test_row(tmp_path: Path, small_bundle: Path) -> None:
    (tmp_path / "cases.yaml").write_text("tests: {same: {kind: invariance, pairs: [[a b, A B]]}}")
    result, sealed = run_stage(
        tmp_path, small_bundle, real(3), robustness_rows=0, cases="cases.yaml"
    )
    assert result.rows == 0 and result.perturbations == {} and result.cases["same"].failed == 0
    assert count_test_set_uses(sealed, workspace=Workspace(tmp_path / "home")) == 0
    assert result.describe_flips() == "no test text was changed"
