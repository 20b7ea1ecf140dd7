"""The robustness stage on tiny real models: what a model can't see does not flip it, and what it can see is counted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import atomic
from tasks.dataset.sealed import count_test_set_uses as uses_of
from tasks.dataset.split import SealedResult
from tasks.evaluate.robustness import (
    RobustnessResult,
    Share,
    cases_line,
    line,
    measure_robustness,
    sample,
    share,
    wanted,
)
from tasks.model.bundle import save_bundle
from tasks.project import Project
from tasks.records import Record
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.context import bundle_ref
from tests.kit.stages import sealed_of

ALL = ["typos", "casing", "punctuation", "whitespace", "truncation", "entities", "negation"]


def asked(
    folder: Path, found: Path, rows: list[Record], **evaluate: Any
) -> tuple[RobustnessResult, SealedResult]:
    """The stage of the bundle `found` on these test rows, and the sealed rows."""
    several = not isinstance(rows[0].label, str)
    p = Project.model_validate(
        {
            "name": "toy",
            "labels": toy.LABELS,
            "multi_label": several,
            "data": {"pool": "x"},
            "evaluate": evaluate,
        }
    ).in_folder(folder)
    assert wanted(p)
    sealed = sealed_of(folder / "home", rows)
    return measure_robustness(
        p, bundle_ref(found), sealed=sealed, workspace=Workspace(folder / "home")
    ), sealed


def real(n: int) -> list[Record]:
    return [Record.create(r["text"], r["label"], "test") for r in toy.real_rows(n)]


def test_a_model_that_lower_cases_does_not_mind_casing_and_minds_half_a_text(
    tmp_path: Path, small_bundle: Path
) -> None:
    result, sealed = asked(tmp_path, small_bundle, real(20), robustness_rows=30, perturbations=ALL)
    found = result.perturbations
    assert result.rows == 30 and list(found) == ALL and result.cases == {}
    for name in ("casing", "whitespace"):
        own = found[name]
        assert own.rows == own.read_alike == 30 and own.flips == 0 and own.fall == 0
        assert (
            own.flip_rate.value == 0
            and own.flip_rate.ci_high
            and 0.05 < own.flip_rate.ci_high < 0.2
        )
    half = found["truncation"]
    assert (
        half.flips > 0 and half.flip_rate.ci_low is not None and half.flip_rate.ci_high is not None
    )
    assert half.flip_rate.ci_low < half.flips / half.rows < half.flip_rate.ci_high
    assert half.f1_macro_before is not None and half.f1_macro is not None
    assert half.read_alike == 0 and half.fall == pytest.approx(half.f1_macro_before - half.f1_macro)
    assert found["entities"].rows == 0, "toy texts name nobody: such rows are not counted"
    assert found["entities"].flip_rate.value is None
    assert result.flip_rate.value == sum(p.flips for p in found.values()) / sum(
        p.rows for p in found.values()
    )
    shown = atomic.read_lines(result.directory / "flips.jsonl")
    assert all(r["before"] != r["after"] for r in shown) and {r["perturbation"] for r in shown} >= {
        "truncation"
    }
    assert max(sum(r["perturbation"] == name for r in shown) for name in ALL) <= 10
    assert "casing 0.0%" in line(result) and "entities" not in line(result)

    workspace = Workspace(tmp_path / "home")
    assert uses_of(sealed, workspace=workspace) == 1, (
        "the test rows were opened once, and that is counted"
    )
    again, _ = asked(tmp_path, small_bundle, real(20), robustness_rows=30, perturbations=ALL)
    assert again.published.found and uses_of(sealed, workspace=workspace) == 1


def test_the_order_of_rows_says_nothing(tmp_path: Path, small_bundle: Path) -> None:
    rows = real(12)
    one, _ = asked(tmp_path / "one", small_bundle, rows, robustness_rows=20)
    random.Random(3).shuffle(rows)
    other, _ = asked(tmp_path / "other", small_bundle, rows, robustness_rows=20)
    assert one.model_dump() == other.model_dump()
    told = [sorted(map(str, atomic.read_lines(s.directory / "flips.jsonl"))) for s in (one, other)]
    assert told[0] == told[1]


def test_the_sample_is_in_proportion_and_leaves_no_label_out() -> None:
    rows = [
        Record.create(f"{label} {i}", label, "test")
        for label, n in (("a", 80), ("b", 18), ("c", 2))
        for i in range(n)
    ]
    count = {label: sum(r.label == label for r in sample(rows, 50)) for label in "abc"}
    assert count == {"a": 40, "b": 9, "c": 1}
    assert (
        {r.label for r in sample(rows, 3)} == set("abc")
        and len(sample(rows, 500)) == 100
        and sample(rows, 0) == []
    )
    sets = [
        Record.create(f"t{i}", ("a", "b") if i % 9 == 0 else ("a",) if i % 3 else (), "test")
        for i in range(90)
    ]
    assert {r.label for r in sample(sets, 3)} == {("a", "b"), ("a",), ()}


def test_intervals() -> None:
    assert share(0, 0) == Share(value=None, ci_low=None, ci_high=None)
    expected = {"value": 0.05, "ci_low": 0.0215, "ci_high": 0.1118}  # Wilson
    assert share(5, 100).model_dump() == pytest.approx(expected, abs=1e-4)


def test_label_sets_flip_where_any_label_does_and_cases_take_lists(
    tmp_path: Path, encoder: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    names = dict(enumerate(toy.LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=3, id2label=names, problem_type="multi_label_classification"
    )
    found = tmp_path / "bundle"
    save_bundle(
        model,
        AutoTokenizer.from_pretrained(encoder),
        found,
        about={"labels": toy.LABELS, "max_length": 32},
    )
    fruit, metal = (" ".join(toy.REAL[k][:6]) for k in ("fruit", "metal"))
    from tasks.model.bundle import Classifier

    said = list(Classifier.load(found).predict([fruit])[0].answer)  # whatever nobody taught it
    tests = {
        "right": {"kind": "minimum_functionality", "texts": [fruit], "label": said},
        "wrong": {
            "kind": "minimum_functionality",
            "texts": [fruit],
            "label": [k for k in toy.LABELS if k not in said],
        },
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
    result, _ = asked(
        tmp_path, found, rows, robustness_rows=24, perturbations=ALL[:5], cases="cases.yaml"
    )
    assert {name: t.failed for name, t in result.cases.items()} == {
        "right": 0,
        "wrong": 1,
        "case": 0,
        "nothing moves": 1,
    }
    assert (
        cases_line(result) == "2 of 5 fail, 2 of 4 tests pass  (wrong 1 of 1, nothing moves 1 of 1)"
    )
    failures = atomic.read_lines(result.directory / "failures.jsonl")
    assert [f["test"] for f in failures] == ["wrong", "nothing moves"] and failures[0][
        "texts"
    ] == fruit
    assert (
        result.perturbations["casing"].flips == 0 and result.perturbations["truncation"].rows == 24
    )


def test_cases_alone_open_no_test_row(tmp_path: Path, small_bundle: Path) -> None:
    (tmp_path / "cases.yaml").write_text("tests: {same: {kind: invariance, pairs: [[a b, A B]]}}")
    result, sealed = asked(tmp_path, small_bundle, real(3), robustness_rows=0, cases="cases.yaml")
    assert result.rows == 0 and result.perturbations == {} and result.cases["same"].failed == 0
    assert uses_of(sealed, workspace=Workspace(tmp_path / "home")) == 0
    assert line(result) == "no test text was changed"
