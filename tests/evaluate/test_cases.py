"""The file of test cases: every mistake is one sentence, templates are filled, answers are graded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.evaluate.robustness.cases import Cases, Check, fill_cases, load_cases
from tasks.evaluate.robustness.grading import find_failure
from tasks.project.reader import load_project
from tasks.setup.preflight import check_references
from tests.conftest import ROOT
from tests.kit.rows import project

LABELS = ["fruit", "metal"]
GOOD: dict[str, Any] = {
    "slots": {"who": ["Ada", "Bo"], "what": ["a", "b", "c"]},
    "tests": {
        "fruit is fruit": {
            "kind": "minimum_functionality",
            "texts": ["{who} ate {what}", "a pear"],
            "label": "fruit",
        },
        "names": {"kind": "invariance", "texts": ["{who} sold {what}"], "vary": "who"},
        "rust": {
            "kind": "directional",
            "pairs": [["{who} left.", "{who} left the iron."]],
            "label": "metal",
            "moves": "rise",
        },
    },
}


def load(folder: Path, content: Any, **sections: Any) -> Cases:
    text = content if isinstance(content, str) else yaml.safe_dump(content, allow_unicode=True)
    (folder / "cases.yaml").write_text(text, encoding="utf-8")
    p = project({"pool": "x.csv"}, evaluate={"cases": "cases.yaml"}, **sections)
    return load_cases(p.in_folder(folder))


def with_test(**check: Any) -> dict[str, Any]:
    return GOOD | {"tests": {"mine": {k: v for k, v in check.items() if v is not None}}}


MFT: dict[str, Any] = {"kind": "minimum_functionality", "texts": ["a pear"], "label": "fruit"}
MOVE: dict[str, Any] = {
    "kind": "directional",
    "pairs": [["a", "b"]],
    "label": "fruit",
    "moves": "rise",
}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds NoneType, not keys and values: start with `tests:`"),
        ("tests: {}", "has no tests: write one"),
        ("tests: {a: {kind: [}", "is not YAML"),
        ("tests: {a: {kind: invariance}, a: {kind: invariance}}", "the key 'a' is repeated"),
        (GOOD | {"test": {}}, "unknown key 'test' (value {}): did you mean 'tests'?"),
        (
            with_test(**MFT) | {"slots": {"who": []}},
            "the slot 'who' has no values: add at least one",
        ),
        (GOOD | {"slots": {"who": [1]}}, "slots.who.0 is 1: input should be a valid string"),
        (
            with_test(**MFT, labell="x"),
            "unknown key 'tests.mine.labell' (value 'x'): did you mean 'label'?",
        ),
        (
            with_test(**MFT | {"kind": "mft"}),
            "tests.mine.kind is 'mft': input should be 'minimum_functionality'",
        ),
        (
            with_test(**MFT | {"label": None}),
            "the test 'mine' has no 'label', which minimum functionality needs: add it",
        ),
        (with_test(**MFT | {"texts": None}), "the test 'mine' has no 'texts'"),
        (
            with_test(**MFT, moves="rise"),
            "the test 'mine' has 'moves', which does not apply to minimum functionality",
        ),
        (
            with_test(**MFT | {"label": "fruits"}),
            "the test 'mine' expects the label 'fruits' (did you mean 'fruit'?)",
        ),
        (
            with_test(**MFT | {"label": LABELS}),
            "the test 'mine' has 2 labels where there can be one: give a single label",
        ),
        (with_test(**MFT | {"texts": []}), "the test 'mine' has no text: add at least one"),
        (with_test(**MFT | {"texts": [" "]}), "the test 'mine' has an empty text"),
        (
            with_test(**MFT | {"texts": ["{whom}"]}),
            "uses the slot 'whom' (did you mean 'who'?), which is not among",
        ),
        (with_test(**MFT | {"texts": ["a {who"]}), "whose braces do not form a slot"),
        (with_test(**MFT | {"texts": ["{who.__class__}"]}), "{who.__class__} is no slot"),
        (with_test(**MFT | {"texts": ["{who!r}"]}), "{who} is no slot"),
        (
            with_test(kind="invariance", texts=["a {who}"]),
            "the test 'mine' needs either `pairs` of texts",
        ),
        (
            with_test(kind="invariance", texts=["a {who}"], vary="what"),
            "varies the slot 'what', which the text 'a {who}'",
        ),
        (
            with_test(kind="invariance", pairs=[["a", "b"]], vary="who"),
            "the test 'mine' needs either `pairs`",
        ),
        (with_test(kind="invariance", pairs=[["a"]]), "tests.mine.pairs.0"),
        (
            with_test(**MOVE | {"moves": "up"}),
            "tests.mine.moves is 'up': input should be 'rise' or 'fall'",
        ),
        (with_test(**MOVE, by=0.0), "tests.mine.by is 0.0: input should be greater than 0"),
        (with_test(**MOVE | {"moves": None}), "the test 'mine' has no 'moves'"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_file_and_test(
    tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(UserError) as e:
        load(tmp_path, content)
    assert message in str(e.value) and str(tmp_path / "cases.yaml") in str(e.value)
    assert "\n" not in str(e.value)


def test_a_missing_file_is_reported_before_anything_starts(tmp_path: Path) -> None:
    p = project(
        {"pool": "package:hypothesis/__init__.py"}, evaluate={"cases": "none.yaml"}
    ).in_folder(tmp_path)
    with pytest.raises(
        UserError, match=r"none\.yaml does not exist: write it, or remove `evaluate.cases`"
    ):
        check_references(p, tmp_path / "project.yaml")


def test_templates_are_filled_every_way_or_with_a_bounded_draw(tmp_path: Path) -> None:
    cases = load(tmp_path, GOOD)
    texts = {name: [c.texts for c in fill_cases(cases) if c.test == name] for name in cases.tests}
    assert sorted(texts["fruit is fruit"]) == sorted(
        [("a pear",), *((f"{who} ate {what}",) for who in ("Ada", "Bo") for what in "abc")]
    )
    assert texts["names"] == [(f"Ada sold {w}", f"Bo sold {w}") for w in "abc"]
    assert texts["rust"] == [(f"{who} left.", f"{who} left the iron.") for who in ("Ada", "Bo")]

    wide = {f"s{i}": [f"v{i}{j}" for j in range(50)] for i in range(30)}
    many = Cases.model_validate(
        {
            "slots": wide,
            "tests": {"t": MFT | {"texts": [" ".join(f"{{{s}}}" for s in wide), "x"], "most": 7}},
        }
    )
    drawn = fill_cases(many)
    assert len(drawn) == len(set(drawn)) == 7 and drawn == fill_cases(many)
    assert Cases.model_validate(with_test(**MFT | {"texts": ["{{braces}}"]})) and (
        fill_cases(Cases.model_validate(with_test(**MFT | {"texts": ["{{braces}}"]})))[0].texts
        == ("{braces}",)
    )


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3), most=st.integers(1, 30))
@settings(deadline=None, max_examples=50)
def test_no_way_of_filling_is_repeated(sizes: list[int], most: int) -> None:
    slots = {f"s{i}": [f"{i}.{j}" for j in range(n)] for i, n in enumerate(sizes)}
    template = " ".join(f"{{{name}}}" for name in slots)
    found = fill_cases(
        Cases.model_validate(
            {"slots": slots, "tests": {"t": MFT | {"texts": [template], "most": most}}}
        )
    )
    assert len({c.texts for c in found}) == len(found) == min(most, int(np.prod(sizes)))


def test_grading() -> None:
    flat = np.array([[0.6, 0.4], [0.6, 0.4]])
    mft = Check.model_validate(MFT)
    assert find_failure(mft, ["fruit"], flat[:1], LABELS) is None
    assert find_failure(mft, ["metal"], flat[:1], LABELS) == {
        "expected": "fruit",
        "answered": "metal",
    }
    both = Check.model_validate(MFT | {"label": ["metal", "fruit"]})
    assert find_failure(both, [("fruit", "metal")], flat[:1], LABELS) is None
    assert find_failure(both, [("fruit",)], flat[:1], LABELS) == {
        "expected": "metal + fruit",
        "answered": "fruit",
    }
    alike = Check.model_validate({"kind": "invariance", "pairs": [["a", "b"]]})
    assert find_failure(alike, ["metal", "metal"], flat, LABELS) is None
    assert find_failure(alike, ["metal", "fruit"], flat, LABELS) == {
        "expected": "the same answer",
        "answered": "metal / fruit",
    }
    p = np.array([[0.2, 0.8], [0.4, 0.6]])
    for moves, by, met in [
        ("rise", 0.1, True),
        ("rise", 0.3, False),
        ("fall", 0.1, False),
        ("rise", None, True),
    ]:
        check = Check.model_validate(MOVE | {"moves": moves} | ({"by": by} if by else {}))
        assert (find_failure(check, ["metal", "metal"], p, LABELS) is None) == met, (moves, by)
    unknown = find_failure(Check.model_validate(MOVE), ["metal", "metal"], p[:, :1], ["metal"])
    assert unknown and unknown["answered"] == "the model has no such label"


def test_the_shipped_cases_load_with_every_kind_and_section() -> None:
    p = load_project(ROOT / "configs" / "bbc-news.yaml")
    cases = load_cases(p)
    assert {c.kind for c in cases.tests.values()} == {
        "minimum_functionality",
        "invariance",
        "directional",
    }
    assert {label for c in cases.tests.values() for label in c.label or ()} == set(p.labels)
    assert len(fill_cases(cases)) <= 160
