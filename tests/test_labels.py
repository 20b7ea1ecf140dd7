"""Labels and label sets as numbers and back, on the disk, in parts, and what is measured of sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.augment.lift import compare_mixtures
from tasks.encoder.linear_probe import fit_probe
from tasks.evaluate import plots
from tasks.evaluate.baselines import simple
from tasks.labels import (
    convert_answer,
    decode,
    encode,
    predict_codes,
    probabilities,
    unknown_labels,
)
from tasks.records import Record, Rejected, count_by_label, label_text, read_records, write_records
from tasks.statistics.bootstrap import Bootstrap
from tasks.statistics.metrics import f1_macro, score_answers
from tasks.statistics.scores import Scores
from tasks.statistics.stratified_split import assign_folds, assign_groups
from tests.kit.rows import text
from tests.kit.verdicts import verdict_on

NAMES = ["a", "b", "c"]
SETS = st.lists(
    st.sets(st.sampled_from(NAMES)).map(lambda s: tuple(sorted(s))), min_size=1, max_size=30
)


def some_sets(n: int, seed: int = 0, p: float = 0.4) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    own = [tuple(name for name in NAMES if rng.random() < p) for _ in range(n)]
    return own + [(name,) for name in NAMES]


class TestRecords:
    @given(SETS)
    def test_a_label_set_is_sorted_and_comes_back_from_the_disk(
        self, sets: list[tuple[str, ...]]
    ) -> None:
        for own in sets:
            r = Record.create("some text", own[::-1], "seed")
            assert r.label == r.labels == own
            assert Record.from_json(json.loads(json.dumps(r.to_json()))) == r
            held = Rejected(r, "check", "reason")
            assert Rejected.from_json(json.loads(json.dumps(held.to_json()))) == held

    def test_one_label_is_as_it_was(self, tmp_path: Path) -> None:
        r = Record.create("some text", "a", "seed")
        assert r.to_json()["label"] == "a" and r.labels == ("a",)
        assert Record.create("some text", None, "unlabelled").labels == ()
        write_records(tmp_path / "rows.jsonl", [r])
        assert read_records(tmp_path / "rows.jsonl") == [r]

    def test_a_row_counts_for_each_of_its_labels(self) -> None:
        records = [
            Record.create(str(i), own, "seed")
            for i, own in enumerate([("a", "b"), ("b",), (), "c", None])
        ]
        assert count_by_label(records) == {"(no label)": 1, "None": 1, "a": 1, "b": 2, "c": 1}
        assert [label_text(r.label) for r in records] == ["a + b", "b", "(no label)", "c", "None"]


class TestCodes:
    @given(SETS)
    def test_sets_there_and_back(self, sets: list[tuple[str, ...]]) -> None:
        coded = encode(sets, NAMES)
        assert coded.shape == (len(sets), 3) and decode(coded, NAMES) == sets
        assert (encode([list(own) for own in sets], NAMES) == coded).all()

    @given(st.lists(st.sampled_from(NAMES), max_size=9))
    def test_labels_there_and_back(self, labels: list[str]) -> None:
        assert (
            encode(labels, NAMES).shape == (len(labels),)
            and decode(encode(labels, NAMES), NAMES) == labels
        )

    def test_what_is_strange(self) -> None:
        assert unknown_labels(["a", "d"], NAMES) == {"d"} and unknown_labels(
            [("a", "d"), ()], NAMES
        ) == {"d"}
        assert encode([("a", "d")], NAMES).tolist() == [[1, 0, 0]]

    def test_a_model_of_the_other_kind_is_compared(self) -> None:
        assert convert_answer("a", multi_label=True) == ("a",) and convert_answer(
            ("a", "b"), multi_label=True
        ) == (
            "a",
            "b",
        )
        assert (
            convert_answer(("a",), multi_label=False) == "a"
            and convert_answer("b", multi_label=False) == "b"
        )
        assert convert_answer(("a", "b"), multi_label=False) not in NAMES

    def test_scores_decide(self) -> None:
        logits = np.array([[2.0, 0.0, -1.0], [-3.0, -2.0, -1.0]])
        several = probabilities(logits, multi_label=True)
        assert decode(predict_codes(several, multi_label=True), NAMES) == [("a", "b"), ()]
        one = probabilities(logits, multi_label=False)
        assert np.allclose(one.sum(1), 1) and decode(
            predict_codes(one, multi_label=False), NAMES
        ) == [
            "a",
            "c",
        ]


class TestParts:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 5))
    def test_every_part_has_what_it_asks_for_where_there_is_enough(
        self, seed: int, test: int, dev: int
    ) -> None:
        records = [
            Record.create(text("w", i), own, "seed") for i, own in enumerate(some_sets(80, seed))
        ]
        groups = {r.id: [r] for r in records}
        dealt = assign_groups(groups, {"test": test, "dev": dev, "seed": 0})
        assert set(dealt.values()) <= {"test", "dev"} and dealt == assign_groups(
            dict(reversed(groups.items())), {"test": test, "dev": dev}
        )
        for part, n in (("test", test), ("dev", dev)):
            counts = count_by_label(r for r in records if dealt.get(r.id) == part)
            assert all(counts[name] >= n for name in NAMES), (part, counts)

    def test_a_scarce_label_is_shared_out_before_others_take_its_rows(self) -> None:
        several = [("a", "b")] * 4 + [("a",)] * 40
        records = [Record.create(text("w", i), own, "seed") for i, own in enumerate(several)]
        dealt = assign_groups({r.id: [r] for r in records}, {"test": 2, "dev": 2})
        for part in ("test", "dev"):
            assert count_by_label(r for r in records if dealt.get(r.id) == part)["b"] == 2

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10_000), st.integers(2, 5))
    def test_folds_have_every_label_evenly(self, seed: int, n: int) -> None:
        records = [
            Record.create(text("w", i), own, "seed") for i, own in enumerate(some_sets(40, seed))
        ]
        found = assign_folds(records, n)
        assert set(found) == set(range(n))
        scarcest = min(NAMES, key=lambda name: sum(name in r.labels for r in records))
        have = [
            sum(scarcest in r.labels for r, k in zip(records, found, strict=True) if k == fold)
            for fold in range(n)
        ]
        assert max(have) - min(have) <= 1


class TestMeasure:
    TRUE, SAID = some_sets(60, 1), [*some_sets(60, 2)[:20], *some_sets(60, 1)[20:]]

    def test_it_is_scikit_learns(self) -> None:
        from sklearn.metrics import accuracy_score, f1_score, hamming_loss

        y, z = encode(self.TRUE, NAMES), encode(self.SAID, NAMES)
        found = score_answers(self.TRUE, self.SAID, NAMES, bootstrap=Bootstrap(400, seed=0))
        points = {
            "f1_macro": f1_score(y, z, average="macro"),
            "f1_micro": f1_score(y, z, average="micro"),
            "subset_accuracy": accuracy_score(y, z),
            "hamming_loss": hamming_loss(y, z),
        }
        for name, value in points.items():
            own = found.summary[name]
            assert own.value == pytest.approx(value) and own.ci_low <= value <= own.ci_high
        assert found.labels["b"].f1 == pytest.approx(f1_score(y[:, 1], z[:, 1]))
        assert (
            f1_macro(self.TRUE, self.SAID, NAMES)
            == f1_macro(y, z, [0, 1, 2])
            == pytest.approx(points["f1_macro"])
        )
        assert Scores.model_validate_json(found.model_dump_json()) == found

    def test_a_resample_that_is_the_rows_gives_the_figures(self) -> None:
        y, z = encode(self.TRUE, NAMES), encode(self.SAID, NAMES)
        drawn = Bootstrap(3000, seed=0).macro_f1(y, [z, y], classes=3)
        assert drawn.shape == (3000, 2)
        assert drawn[:, 0].mean() == pytest.approx(f1_macro(y, z, [0, 1, 2]), abs=0.01)
        assert (drawn[:, 1] == 1).all()
        # rows drawn one by one, as the method is defined
        rng = np.random.default_rng(1)
        by_hand = [f1_macro(y[i], z[i], [0, 1, 2]) for i in rng.integers(0, len(y), (600, len(y)))]
        assert drawn[:, 0].std() == pytest.approx(np.std(by_hand), rel=0.12)

    def test_a_strange_true_label_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'d' is not among the labels"):
            score_answers([("a", "d")], [("a",)], NAMES, bootstrap=Bootstrap(100, seed=0))

    def test_bars_are_a_picture(self, tmp_path: Path) -> None:
        scores = score_answers(self.TRUE, self.SAID, NAMES, bootstrap=Bootstrap(100, seed=0))
        plots.plot_labels(scores.labels, "toy", tmp_path / "labels.png")
        assert (tmp_path / "labels.png").read_bytes()[:4] == b"\x89PNG"


class TestJudge:
    def decide(self, challenger: list[Any], opponent: list[Any], **more: Any) -> Any:
        how = {"labels": NAMES, "samples": 500, **more}
        return verdict_on(TestMeasure.TRUE, challenger, opponent, **how)

    def test_the_better_one_is_promoted_and_the_worse_kept_out(self) -> None:
        none: list[Any] = [()] * len(TestMeasure.TRUE)
        assert self.decide(TestMeasure.TRUE, none).decision == "promote"
        assert self.decide(none, TestMeasure.TRUE).decision == "keep"
        lists = [list(own) for own in TestMeasure.SAID]  # as they come from a file
        found = self.decide(lists, lists)
        assert found.decision == "keep" and found.gain == found.lower == 0

    def test_a_class_without_rows_is_inconclusive(self) -> None:
        found = self.decide(TestMeasure.TRUE, TestMeasure.TRUE, labels=[*NAMES, "d"])
        assert (
            found.decision == "inconclusive" and "no test row has the label 'd'" in found.reasons[0]
        )

    def test_the_lift_compares_sets(self) -> None:
        answers: dict[str, Any] = {
            "label descriptions": [[()] * len(TestMeasure.TRUE)],
            "with synthetic": [TestMeasure.SAID],
        }
        found = compare_mixtures(
            TestMeasure.TRUE, answers, chosen="with synthetic", labels=NAMES, samples=300, seed=0
        )
        assert found.lifts[0].value == pytest.approx(
            f1_macro(TestMeasure.TRUE, TestMeasure.SAID, NAMES)
        )


class TestQuickModels:
    def rows(self, n: int = 60) -> list[Record]:
        own = some_sets(n, 4)
        return [
            Record.create(" ".join([*(f"word{k} of {k}" for k in labels), f"n{i}"]), labels, "seed")
            for i, labels in enumerate(own)
        ]

    def test_tfidf_learns_each_label(self) -> None:
        train = self.rows()
        assert simple.predict_by_tfidf(
            train, ["worda of a", "wordb of b and worda of a", "n7"]
        ) == [
            ("a",),
            ("a", "b"),
            (),
        ]

    def test_majority_is_the_most_frequent_set(self) -> None:
        rows = [
            Record.create(str(i), own, "seed")
            for i, own in enumerate([("a", "b"), ("a", "b"), ("c",), ()])
        ]
        assert simple.predict_majority(rows, ["x", "y"], NAMES) == [("a", "b")] * 2

    def test_the_cosine_is_chosen_on_dev(self) -> None:
        y = encode([("a",), ("b",), ("a", "b"), ()], ["a", "b"])
        cosines = np.where(y == 1, 0.7, 0.3) + np.arange(8).reshape(4, 2) / 100
        best = simple.best_threshold(cosines, y)
        assert ((cosines >= best) == y).all()

    def test_the_probe_has_a_probability_a_label(self) -> None:
        own = some_sets(60, 5)
        x = encode(own, NAMES) + np.random.default_rng(0).normal(0, 0.1, (len(own), 3))
        probe = fit_probe(x, own)
        assert probe.classes_ == NAMES and probe.predict(x) == own
        always = fit_probe(x, [tuple(sorted({"a", *o})) for o in own])
        assert (always.predict_proba(x)[:, 0] == 1).all()
