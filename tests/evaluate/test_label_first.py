"""Which texts to label first: the disputed, then the least certain, and not all of one label."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.retraining.label_first import list_texts_to_label
from tasks import atomic
from tasks.evaluate.label_first import label_first, rank_to_label
from tasks.labels import decode
from tasks.model.bundle import Classifier
from tasks.records import Record
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.context import bundle_ref, context_of
from tests.kit.rows import project
from tests.kit.stages import splits_of

LABELS = ["a", "b", "c"]


def unlabelled(n: int) -> list[Record]:
    return [Record.create(f"text number {i}", None, "unlabelled") for i in range(n)]


@given(
    st.lists(
        st.tuples(*[st.floats(0.01, 1)] * 3, st.sampled_from(LABELS)), min_size=1, max_size=40
    ),
    st.integers(1, 12),
    st.booleans(),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=60)
def test_disputed_rows_come_first_then_the_least_certain(
    rows: list[Any], most: int, alone: bool, rng: Any
) -> None:
    p = np.array([row[:3] for row in rows])
    p /= p.sum(axis=1, keepdims=True)
    answers = decode(p.argmax(axis=1), LABELS)
    champion = None if alone else [row[3] for row in rows]
    records = unlabelled(len(rows))
    ranked = rank_to_label(records, p, answers, champion, labels=3, most=most)
    keys = [(not row.differs, row.margin) for row in ranked]
    assert keys == sorted(keys) and len(ranked) <= most
    assert len({row.id for row in ranked}) == len(ranked)
    assert max(Counter(row.challenger for row in ranked).values()) <= math.ceil(most / 3)
    order = rng.sample(range(len(rows)), len(rows))
    shuffled = (
        [records[i] for i in order],
        p[order],
        [answers[i] for i in order],
        None if champion is None else [champion[i] for i in order],
    )
    assert rank_to_label(*shuffled, labels=3, most=most) == ranked


def test_label_sets_are_ranked_by_the_label_nearest_to_one_half() -> None:
    p = np.array([[0.9, 0.45], [0.9, 0.1], [0.99, 0.98]])
    answers: list[Any] = [("a",), ("a",), ("a", "b")]
    ranked = rank_to_label(unlabelled(3), p, answers, [("a",), ("a",), ()], labels=2)
    assert [(row.challenger, row.champion, row.margin) for row in ranked] == [
        ("a + b", "(no label)", 0.48),
        ("a", "a", 0.05),
        ("a", "a", 0.4),
    ]


def test_probabilities_that_are_not_finite_are_left_out() -> None:
    p = np.array([[math.nan, 0.2, 0.1], [0.5, 0.4, 0.1]])
    ranked = rank_to_label(unlabelled(2), p, ["a", "a"], None, labels=3)
    assert [row.margin for row in ranked] == [0.1]


@pytest.mark.parametrize("champion", [False, True])
def test_two_bundles_are_asked(champion: bool, small_bundle: Path, tmp_path: Path) -> None:
    p = project({"pool": "x"}, labels=tuple(toy.LABELS))
    splits = splits_of(
        tmp_path,
        unlabelled=[Record.create(row["text"], None, "unlabelled") for row in toy.real_rows(10)],
    )
    bundle = bundle_ref(small_bundle)
    first, again = (
        label_first(
            p, bundle, bundle if champion else None, splits=splits, workspace=Workspace(tmp_path)
        )
        for _ in range(2)
    )
    assert (first.published.found, again.published.found) == (False, True)
    rows = atomic.read_lines(first.list_file)
    assert (first.rows, first.read, first.differ) == (30, 30, 0) and len(rows) == 30
    assert first.tables() == {"label_first": rows}
    assert list(rows[0]) == ["id", "challenger", "champion", "margin", "text", "decision"]
    answer = Classifier.load(small_bundle).predict([rows[0]["text"]])[0].answer
    assert rows[0]["challenger"] == answer
    assert rows[0]["champion"] == (answer if champion else None)


def test_without_unlabelled_text_there_is_no_list(small_bundle: Path, tmp_path: Path) -> None:
    run = context_of(project({"pool": "x"}), tmp_path)
    assert list_texts_to_label(run, bundle_ref(small_bundle), None) is None
    assert not (tmp_path / "stages" / "label_first").exists()
