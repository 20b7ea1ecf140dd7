"""Figures are scikit-learn's, intervals are a bootstrap's, and the order of rows says nothing."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
)

from tasks.dataset.sealed import count_test_set_uses as uses_of
from tasks.dataset.split import sealed_test_set, split_dataset
from tasks.evaluate import plots
from tasks.evaluate.baselines import simple
from tasks.evaluate.score import METRICS, ScoreResult, score_baseline
from tasks.figures import Interval
from tasks.labels import encode
from tasks.statistics.bootstrap import Tallies, draw, macro_f1
from tasks.statistics.metrics import MORE, SUMMARY, measure, more_in
from tasks.workspace import Workspace
from tests.kit.rows import project, record, rows, text, write
from tests.kit.stages import curated_of

LABELS = ["fruit", "metal", "bird"]


def answers(
    n: int, right: float, labels: list[str] = LABELS, seed: int = 0
) -> tuple[list[str], list[str]]:
    """`n` rows of each label, and predictions that are right for this share of them; some are no label at all."""
    rng = random.Random(seed)
    true = [label for label in labels for _ in range(n)]
    return true, [t if rng.random() < right else rng.choice([*labels, "other"]) for t in true]


@given(
    data=st.lists(
        st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "other"])),
        min_size=1,
        max_size=30,
    )
)
@settings(deadline=None, max_examples=60)
def test_the_figures_are_those_of_scikit_learn(data: list[tuple[str, str]]) -> None:
    true, predicted = map(list, zip(*data, strict=True))
    m = measure(true, predicted, LABELS, samples=100, seed=0)
    macro: dict[str, Any] = {"labels": LABELS, "average": "macro", "zero_division": 0}
    assert list(m.summary) == list(SUMMARY)
    assert {name: v.value for name, v in m.summary.items()} == pytest.approx(
        {
            "accuracy": accuracy_score(true, predicted),
            "precision_macro": precision_score(true, predicted, **macro),
            "recall_macro": recall_score(true, predicted, **macro),
            "f1_macro": f1_score(true, predicted, **macro),
        }
    )
    each = f1_score(true, predicted, labels=LABELS, average=None, zero_division=0)
    assert [m.labels[label].f1 for label in LABELS] == pytest.approx(each)
    assert [m.labels[label].rows for label in LABELS] == [true.count(label) for label in LABELS]
    assert (
        m.confusion == confusion_matrix(true, predicted, labels=[*LABELS, "other"])[:3, :3].tolist()
    )
    assert m.rows == len(true)
    assert all(0 <= v.ci_low <= v.value <= v.ci_high <= 1 for v in m.summary.values())
    for score in m.labels.values():
        assert 0 <= score.f1_ci_low <= score.f1 <= score.f1_ci_high <= 1
    assert {name: v.value for name, v in m.more.items()} == pytest.approx(more_of(true, predicted))
    assert all(v.ci_low <= v.value <= v.ci_high <= 1 for v in m.more.values())


def more_of(true: list[str], predicted: list[str]) -> dict[str, float]:
    told: dict[str, Any] = {"labels": LABELS, "zero_division": 0}
    return {
        "balanced_accuracy": recall_score(
            true, predicted, labels=sorted(set(true)), average="macro", zero_division=0
        ),
        "f1_micro": f1_score(true, predicted, average="micro", **told),
        "f1_weighted": f1_score(true, predicted, average="weighted", **told),
        "matthews": matthews_corrcoef(true, predicted),
    }


@pytest.mark.parametrize("right", [0.0, 0.7, 1.0])
def test_what_is_counted_in_a_resample_is_what_scikit_learn_says_of_its_rows(right: float) -> None:
    true, predicted = answers(25, right, [*LABELS, "stone"], seed=3)
    true, predicted = true[:75], predicted[:75]  # no row of a stone, but answers
    y, z = encode(true, LABELS), encode(predicted, LABELS)
    hot = [v[:, None] == np.arange(3) for v in (y, z)]
    counts = ((hot[0] & hot[1]).sum(0), hot[1].sum(0), hot[0].sum(0))
    itself = Tallies(
        *(n[None, None] for n in counts), np.array([[(y == z).sum()]]), np.array([len(y)])
    )
    told = more_of(true, ["other" if k < 0 else LABELS[k] for k in z])
    assert dict(zip(MORE, more_in(itself, np.unique(y))[0], strict=True)) == pytest.approx(told)


def test_a_single_group_says_nothing_of_a_correlation() -> None:
    true, predicted = answers(5, 0.7)
    m = measure(true, predicted, LABELS, samples=100, seed=0, groups=np.zeros(15, dtype=np.int64))
    assert (m.more["matthews"].ci_low, m.more["matthews"].ci_high) == (-1.0, 1.0)
    assert (m.labels["bird"].f1_ci_low, m.labels["bird"].f1_ci_high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("labels", "n", "right"), [(2, 100, 0.9), (5, 3, 0.5), (200, 2, 0.6), (200, 2, 0.9)]
)
def test_intervals_hold_their_figure(labels: int, n: int, right: float) -> None:
    names = [f"label {i}" for i in range(labels)]
    m = measure(*answers(n, right, names), names, samples=300, seed=0)
    assert list(m.summary) == list(SUMMARY)
    assert all(v.ci_low <= v.value <= v.ci_high for v in m.summary.values())


def test_intervals_narrow_with_rows_and_vanish_for_the_perfect() -> None:
    def width(n: int) -> float:
        m = measure(*answers(n, 0.8), LABELS, samples=1000, seed=0).f1_macro
        return m.ci_high - m.ci_low

    assert 3 < width(30) / width(480) < 5.3  # by the root of the rows
    perfect = measure(LABELS * 9, LABELS * 9, LABELS, samples=200, seed=0).f1_macro
    assert perfect == Interval(value=1.0, ci_low=1.0, ci_high=1.0)


def test_the_order_of_rows_says_nothing() -> None:
    true, predicted = answers(20, 0.7)
    shuffled = list(zip(true, predicted, strict=True))
    random.Random(5).shuffle(shuffled)
    t, p = map(list, zip(*shuffled, strict=True))
    assert t != true and measure(t, p, LABELS, samples=700, seed=1) == measure(
        true, predicted, LABELS, samples=700, seed=1
    )


def test_the_seed_decides() -> None:
    true, predicted = answers(20, 0.7)
    a, b, c = (measure(true, predicted, LABELS, samples=200, seed=s) for s in (0, 0, 1))
    assert a == b and a.f1_macro.ci_low != c.f1_macro.ci_low


@pytest.mark.parametrize(
    ("true", "predicted"), [([], []), (["fruit"], []), (["fruit"], ["fruit", "metal"])]
)
def test_rows_and_answers_must_match(true: list[str], predicted: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(true)} true and {len(predicted)} predicted"):
        measure(true, predicted, LABELS, samples=100, seed=0)


def test_codes() -> None:
    assert (
        encode(["bird", "stone", "fruit"], LABELS).tolist() == [2, -1, 0]
        and encode([], LABELS).size == 0
    )


def test_drawing_cells_is_resampling_rows() -> None:
    """Mean and deviation of each model's macro-F1, and of their difference, as when rows are resampled one by one."""
    true, one = answers(25, 0.75, seed=1)
    _, two = answers(25, 0.65, seed=2)
    y, a, b = (encode(names, LABELS) for names in (true, one, two))
    drawn = macro_f1(y, [a, b], classes=3, samples=4000, seed=0)
    rng = np.random.default_rng(7)
    plain = []
    for _ in range(1200):
        take = np.concatenate([rng.choice(np.flatnonzero(y == c), 25) for c in range(3)])
        plain.append(
            [
                f1_score(y[take], p[take], labels=[0, 1, 2], average="macro", zero_division=0)
                for p in (a, b)
            ]
        )
    for f in (lambda m: m[:, 0], lambda m: m[:, 1], lambda m: m[:, 0] - m[:, 1]):
        cells, resampled = f(drawn), f(np.array(plain))
        assert cells.mean() == pytest.approx(resampled.mean(), abs=0.006)
        assert cells.std() == pytest.approx(resampled.std(), rel=0.1)
    interval = measure(true, one, LABELS, samples=4000, seed=0).f1_macro
    low, high = np.quantile([f for f, _ in plain], [0.025, 0.975])
    assert (interval.ci_low, interval.ci_high) == pytest.approx((low, high), abs=0.02)


def test_each_resample_keeps_the_rows_of_a_class() -> None:
    y = np.array([0, 0, 0, 1, 1, 2])
    drawn = list(draw(y, [np.array([0, 1, -1, 1, 7, 2])], classes=3, samples=1100, seed=0))
    true, hits, predicted = (
        np.concatenate([getattr(c, k) for c in drawn]) for k in ("true", "hits", "predicted")
    )
    assert true.shape == (1100, 1, 3) and (true == [3, 2, 1]).all() and (hits[..., 2] == 1).all()
    # of the six rows two have no known label: a third of the first class, and half of the second
    assert (predicted.sum(axis=2) <= 6).all() and predicted.sum(axis=2).mean() == pytest.approx(
        4, abs=0.1
    )
    assert hits[:, 0, 0].mean() == pytest.approx(1, abs=0.1)


def test_majority() -> None:
    train = [record(text("a", i), label) for i, label in enumerate(["metal", "metal", "fruit"])]
    assert simple.majority(train, ["x", "y"], LABELS) == ["metal", "metal"]
    assert simple.majority([], ["x"], LABELS) == ["fruit"]


def test_tfidf() -> None:
    train = [
        record(f"{word} and {word} number {i}", label)
        for i in range(6)
        for word, label in (("apple", "fruit"), ("iron", "metal"))
    ]
    assert simple.tfidf(train, ["an apple", "the iron", "iron apple iron"]) == [
        "fruit",
        "metal",
        "metal",
    ]
    assert simple.tfidf(train[:1], ["x", "y"]) == ["fruit", "fruit"] and simple.tfidf([], []) == []


HOSTILE = [
    "$x$",
    "<b>",
    "a_b^{c",
    r"\alpha$ $",
    r"\$",
    "$\\frac{$",
    "",
    "x" * 300,
    "two\nlines",
    "{}%s",
]


@pytest.mark.parametrize(
    "labels", [HOSTILE, [f"label {i}" for i in range(40)]], ids=["hostile", "many"]
)
def test_the_confusion_matrix_is_drawn_whatever_the_labels(
    tmp_path: Path, labels: list[str]
) -> None:
    matrix = np.diag(range(len(labels))).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.confusion(matrix, labels, "toy: $bundle", tmp_path / "c.png")
    data = (tmp_path / "c.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"


def test_a_baseline_is_scored_once_on_the_sealed_rows(tmp_path: Path) -> None:
    write(tmp_path / "pool.csv", rows(fruit=9, metal=9))
    p = project(
        {"pool": "pool.csv", "split": {"dev": 1, "test": 4}}, evaluate={"bootstrap_samples": 100}
    ).in_folder(tmp_path)
    workspace = Workspace(tmp_path / "home")
    splits, sealed = split_dataset(p, workspace=workspace), sealed_test_set(p, workspace=workspace)
    curated = curated_of(workspace.home, [record("metal it is", "metal")])
    for found in (False, True):
        scored = score_baseline(
            p, "majority", curated=curated, splits=splits, sealed=sealed, workspace=workspace
        )
        assert scored.published.found is found and uses_of(sealed, workspace=workspace) == 1
    answers = scored.read()
    assert [a.label for a in answers] == ["fruit"] * 4 + ["metal"] * 4
    assert {a.predicted for a in answers} == {"metal"} and len({a.id for a in answers}) == 8
    assert scored.model == "majority" and scored.known.f1_macro.value == pytest.approx(1 / 3)
    metrics = ScoreResult.model_validate_json((scored.directory / METRICS).read_bytes())
    assert metrics.model_dump() == scored.model_dump() and metrics.known.confusion == [
        [0, 4],
        [0, 4],
    ]
