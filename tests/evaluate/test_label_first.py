"""Which unlabelled texts come first: the disputed, then the doubtful, and not all of one label."""

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
from tasks.evaluate.label_first import label_first, rank
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
def test_the_disputed_come_first_then_the_least_sure(
    rows: list[Any], most: int, alone: bool, rng: Any
) -> None:
    p = np.array([row[:3] for row in rows])
    p /= p.sum(axis=1, keepdims=True)
    answers, champion = (
        decode(p.argmax(axis=1), LABELS),
        None if alone else [row[3] for row in rows],
    )
    records = unlabelled(len(rows))
    found = rank(records, p, answers, champion, labels=3, most=most)
    keys = [(r["champion"] in (None, r["challenger"]), r["margin"]) for r in found]
    assert (
        keys == sorted(keys) and len(found) <= most and len({r["id"] for r in found}) == len(found)
    )
    assert max(Counter(r["challenger"] for r in found).values()) <= math.ceil(most / 3)
    order = rng.sample(range(len(rows)), len(rows))
    others = None if champion is None else [champion[i] for i in order]
    again = rank(
        [records[i] for i in order],
        p[order],
        [answers[i] for i in order],
        others,
        labels=3,
        most=most,
    )
    assert again == found


def test_label_sets_are_ranked_by_the_label_nearest_to_one_half() -> None:
    p = np.array([[0.9, 0.45], [0.9, 0.1], [0.99, 0.98]])
    answers: list[Any] = [("a",), ("a",), ("a", "b")]
    found = rank(unlabelled(3), p, answers, [("a",), ("a",), ()], labels=2)
    assert [(r["challenger"], r["champion"], r["margin"]) for r in found] == [
        ("a + b", "(no label)", 0.48),
        ("a", "a", 0.05),
        ("a", "a", 0.4),
    ]


def test_probabilities_that_are_no_numbers_are_left_out() -> None:
    p = np.array([[math.nan, 0.2, 0.1], [0.5, 0.4, 0.1]])
    assert [r["margin"] for r in rank(unlabelled(2), p, ["a", "a"], None, labels=3)] == [0.1]


@pytest.mark.parametrize("champion", [False, True])
def test_two_bundles_are_asked(champion: bool, small_bundle: Path, tmp_path: Path) -> None:
    p = project({"pool": "x"}, labels=tuple(toy.LABELS))
    splits = splits_of(
        tmp_path,
        unlabelled=[Record.create(row["text"], None, "unlabelled") for row in toy.real_rows(10)],
    )
    bundle = bundle_ref(small_bundle)
    made = [
        label_first(
            p, bundle, bundle if champion else None, splits=splits, workspace=Workspace(tmp_path)
        )
        for _ in range(2)
    ]
    assert [m.published.found for m in made] == [False, True]
    found = atomic.read_lines(made[0].list_file)
    assert (made[0].rows, made[0].read, made[0].differ) == (30, 30, 0) and len(found) == 30
    assert made[0].tables() == {"label_first": found}
    told = Classifier.load(small_bundle).predict([found[0]["text"]])[0]
    assert found[0]["challenger"] == told.answer and found[0]["champion"] == (
        told.answer if champion else None
    )


def test_without_unlabelled_text_there_is_no_list(small_bundle: Path, tmp_path: Path) -> None:
    run = context_of(project({"pool": "x"}), tmp_path)
    assert list_texts_to_label(run, bundle_ref(small_bundle), None) is None
    assert not (tmp_path / "stages" / "label_first").exists()
