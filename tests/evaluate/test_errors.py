"""Errors on the test rows as tables: counted by hand, planted label errors found, nothing edited."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.errors import (
    ConfusionPair,
    LabelSetErrors,
    confusion_pairs,
    error_tables,
    label_set_errors,
    likely_label_errors,
    mistakes,
)
from tasks.records import Label, Record

LABELS = ["bird", "fruit", "metal"]


def rows(*labels: Label) -> list[Record]:
    return [Record(f"r{i:03}", f"text {i}", label, "test") for i, label in enumerate(labels)]


def test_which_label_was_taken_for_which() -> None:
    true = rows("bird", "bird", "bird", "bird", "fruit", "metal")
    predicted: list[Label] = ["bird", "fruit", "fruit", "", "bird", "metal"]
    assert confusion_pairs(true, predicted) == [
        ConfusionPair(true="bird", predicted="fruit", rows=2, share=0.5, ids="r001, r002"),
        ConfusionPair(true="bird", predicted="", rows=1, share=0.25, ids="r003"),
        ConfusionPair(true="fruit", predicted="bird", rows=1, share=1.0, ids="r004"),
    ]


def test_in_label_sets_each_label_is_counted_by_itself() -> None:
    true = rows(("bird",), ("bird", "metal"), (), ("fruit",))
    predicted: list[Label] = [("bird",), ("metal",), ("metal",), ("fruit", "metal")]
    alone = {"rows": 2, "share": 0.6667, "ids": "r002, r003"}
    assert label_set_errors(true, predicted, LABELS) == [
        LabelSetErrors(label="metal", side="predicted alone", **alone),
        LabelSetErrors(label="bird", side="true alone", rows=1, share=0.5, ids="r001"),
    ]
    p = np.array([[0.9, 0.1, 0.1], [0.2, 0.1, 0.9], [0.1, 0.1, 0.97], [0.1, 0.9, 0.6]])
    found = mistakes(true, predicted, p, LABELS)
    assert [(m.id, m.label, m.score, m.score_of_true) for m in found] == [
        ("r002", "metal", 0.97, 0.03),
        ("r001", "bird", 0.8, 0.2),
        ("r003", "metal", 0.6, 0.4),
    ]
    assert (found[1].true, found[1].predicted) == ("bird + metal", "metal")


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, ""])), max_size=60))
def test_every_wrong_row_is_in_one_pair(answers: list[tuple[str, str]]) -> None:
    pairs = confusion_pairs(rows(*(true for true, _ in answers)), [said for _, said in answers])
    assert sum(p.rows for p in pairs) == sum(true != said for true, said in answers)
    assert all(p.true != p.predicted and 0 < p.share <= 1 for p in pairs)


def scored(n: int, *, wrong: list[int]) -> tuple[list[Record], np.ndarray]:
    """`n` rows per label that the model is certain and right about; the rows `wrong` are mislabelled."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3), n)
    p = np.full((len(y), 3), 0.03)
    p[np.arange(len(y)), y] = rng.uniform(0.8, 0.95, len(y))
    p /= p.sum(axis=1, keepdims=True)
    names = [LABELS[(k + (i in wrong)) % 3] for i, k in enumerate(y)]
    return rows(*names), p


def test_planted_label_errors_are_listed_the_least_likely_first_and_nothing_is_edited() -> None:
    records, p = scored(20, wrong=[3, 25])
    p[25], p[3] = [0.001, 0.998, 0.001], [0.98, 0.01, 0.01]
    before = [r.to_json() for r in records]
    found = likely_label_errors(records, p, LABELS)
    assert [e.id for e in found] == ["r025", "r003"]
    assert [r.to_json() for r in records] == before
    assert (found[0].label, found[0].likely, found[0].score_of_label) == ("metal", "fruit", 0.001)
    assert likely_label_errors(*scored(20, wrong=[]), LABELS) == []


def test_too_few_rows_of_a_label_list_nothing() -> None:
    assert likely_label_errors(*scored(9, wrong=[3]), LABELS) == []
    assert likely_label_errors([], np.ones((0, 3)), LABELS) == []


def test_planted_errors_in_label_sets() -> None:
    records, p = scored(20, wrong=[])
    sets = [replace(r, label=r.labels) for r in records]
    sets[7] = replace(sets[7], label=("bird", "metal"))
    found = likely_label_errors(sets, p, LABELS)
    assert [(e.id, e.label, e.likely) for e in found] == [("r007", "bird + metal", "bird")]


@pytest.mark.parametrize("p", [None, np.eye(3)])
def test_without_probabilities_there_are_pairs_alone(p: np.ndarray | None) -> None:
    tables = error_tables(rows(*LABELS), list(LABELS), p, LABELS)
    assert tables["confusion_pairs"] == []
    scored_tables = set() if p is None else {"mistakes", "likely_label_errors"}
    assert set(tables) == {"confusion_pairs"} | scored_tables
