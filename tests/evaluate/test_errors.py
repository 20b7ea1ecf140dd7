"""Errors on the test rows as tables: counted by hand, planted label errors found, nothing edited."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.errors import confusion_pairs, likely_label_errors, mistakes, tables
from tasks.records import Label, Record

LABELS = ["bird", "fruit", "metal"]


def rows(*labels: Label) -> list[Record]:
    return [Record(f"r{i:03}", f"text {i}", label, "test") for i, label in enumerate(labels)]


def test_which_label_was_taken_for_which() -> None:
    given = rows("bird", "bird", "bird", "bird", "fruit", "metal")
    said: list[Label] = ["bird", "fruit", "fruit", "", "bird", "metal"]
    assert confusion_pairs(given, said, LABELS) == [
        {"true": "bird", "predicted": "fruit", "rows": 2, "share": 0.5, "ids": "r001, r002"},
        {"true": "bird", "predicted": "", "rows": 1, "share": 0.25, "ids": "r003"},
        {"true": "fruit", "predicted": "bird", "rows": 1, "share": 1.0, "ids": "r004"},
    ]


def test_of_label_sets_each_label_is_counted_by_itself() -> None:
    given = rows(("bird",), ("bird", "metal"), (), ("fruit",))
    said: list[Label] = [("bird",), ("metal",), ("metal",), ("fruit", "metal")]
    assert confusion_pairs(given, said, LABELS) == [
        {
            "label": "metal",
            "side": "predicted alone",
            "rows": 2,
            "share": 0.6667,
            "ids": "r002, r003",
        },
        {"label": "bird", "side": "true alone", "rows": 1, "share": 0.5, "ids": "r001"},
    ]
    p = np.array([[0.9, 0.1, 0.1], [0.2, 0.1, 0.9], [0.1, 0.1, 0.97], [0.1, 0.9, 0.6]])
    found = mistakes(given, said, p, LABELS)
    assert [(m["id"], m["label"], m["score"], m["score_of_true"]) for m in found] == [
        ("r002", "metal", 0.97, 0.03),
        ("r001", "bird", 0.8, 0.2),
        ("r003", "metal", 0.6, 0.4),
    ]
    assert found[1]["true"] == "bird + metal" and found[1]["predicted"] == "metal"


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, ""])), max_size=60))
def test_every_wrong_row_is_in_one_pair(pairs: list[tuple[str, str]]) -> None:
    found = confusion_pairs(rows(*(true for true, _ in pairs)), [said for _, said in pairs], LABELS)
    assert sum(f["rows"] for f in found) == sum(true != said for true, said in pairs)
    assert all(f["true"] != f["predicted"] and 0 < f["share"] <= 1 for f in found)


def scored(n: int, *, wrong: list[int]) -> tuple[list[Record], np.ndarray]:
    """`n` rows a label that the model is sure and right about; the label of the rows `wrong` is another one."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), n)
    p = np.full((len(y), 3), 0.03)
    p[np.arange(len(y)), y] = rng.uniform(0.8, 0.95, len(y))
    p /= p.sum(axis=1, keepdims=True)
    names = [LABELS[(k + (i in wrong)) % 3] for i, k in enumerate(y)]
    return rows(*names), p


def test_planted_label_errors_are_listed_the_least_likely_first_and_nothing_is_edited() -> None:
    given, p = scored(20, wrong=[3, 25])
    p[25], p[3] = [0.001, 0.998, 0.001], [0.98, 0.01, 0.01]
    before = [r.to_json() for r in given]
    found = likely_label_errors(given, p, LABELS)
    assert [f["id"] for f in found] == ["r025", "r003"] and [r.to_json() for r in given] == before
    assert (
        found[0]["label"] == "metal"
        and found[0]["likely"] == "fruit"
        and found[0]["score_of_label"] == 0.001
    )
    assert likely_label_errors(*scored(20, wrong=[]), LABELS) == []


def test_too_few_rows_of_a_label_list_nothing() -> None:
    assert (
        likely_label_errors(*scored(9, wrong=[3]), LABELS) == []
        and likely_label_errors([], np.ones((0, 3)), LABELS) == []
    )


def test_planted_errors_in_label_sets() -> None:
    given, p = scored(20, wrong=[])
    sets = [replace(r, label=(r.label,)) for r in given]
    sets[7] = replace(sets[7], label=("bird", "metal"))
    found = likely_label_errors(sets, p, LABELS)
    assert [(f["id"], f["label"], f["likely"]) for f in found] == [("r007", "bird + metal", "bird")]


@pytest.mark.parametrize("scores", [None, np.eye(3)])
def test_without_probabilities_there_are_pairs_alone(scores: np.ndarray | None) -> None:
    found = tables(rows(*LABELS), list(LABELS), scores, LABELS)
    assert found["confusion_pairs"] == []
    assert set(found) == {"confusion_pairs"} | (
        set() if scores is None else {"mistakes", "likely_label_errors"}
    )
