"""Slices: their rows, their scores, and their rules in the project file."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from tasks.dataset.split import sealed_test_set, split_dataset
from tasks.errors import UserError
from tasks.evaluate.baselines.score import score_baseline
from tasks.evaluate.slices import (
    LENGTHS,
    MOST_VALUES,
    SliceScore,
    bucket_lengths,
    follows_rule,
    score_slices,
    slices_of_rows,
)
from tasks.figures import Interval
from tasks.project import SliceRule
from tasks.project.reader import load_project
from tasks.records import Record, read_records
from tasks.statistics.bootstrap import Bootstrap, group_codes
from tasks.workspace import Workspace
from tests.kit.rows import project, record, rows, write
from tests.kit.stages import curated_of

LABELS = ["fruit", "metal", "bird"]


def real(text: str, label: Any = "fruit", **columns: str) -> Record:
    return Record.create(text, label, "test", columns=columns)


class TestMembership:
    def test_every_row_has_one_length_one_label_and_one_value_of_each_column(self) -> None:
        records = [
            real("word " * n, LABELS[n % 3], country="uk" if n % 2 else "fr") for n in range(1, 31)
        ]
        for names in slices_of_rows(records, {}, ["country"]):
            assert [name.partition("=")[0] for name in names] == ["length", "label", "country"]

    @pytest.mark.parametrize("n", [1, 3, 4, 30, 31])
    def test_lengths_are_terciles(self, n: int) -> None:
        lengths = bucket_lengths([real("word " * k) for k in range(1, n + 1)])
        assert lengths == sorted(lengths, key=LENGTHS.index) and len(set(lengths)) == min(n, 3)
        counts = Counter(lengths).values()
        assert n < 3 or max(counts) - min(counts) <= 1

    def test_texts_of_as_many_words_are_of_one_length(self) -> None:
        two, one, five = real("two words"), real("one"), real("this has five words here")
        assert bucket_lengths([two] * 9 + [one] + [five] * 3) == ["short"] * 10 + ["long"] * 3
        assert bucket_lengths([]) == []

    def test_rare_values_are_the_slice_other_in_any_order_of_rows(self) -> None:
        records = [
            real(f"text {v} {i}", lang=f"l{v:02d}") for v in range(25) for i in range(30 - v)
        ]
        records += [real("no value")]
        names = slices_of_rows(records, {}, ["lang"])
        counts = Counter(name for own in names for name in own if name.startswith("lang="))
        assert len(counts) == MOST_VALUES + 1 and counts["lang=l00"] == 30
        assert counts["lang=other"] == sum(30 - v for v in range(20, 25)) + 1
        order = random.Random(1).sample(range(len(records)), len(records))
        shuffled = slices_of_rows([records[i] for i in order], {}, ["lang"])
        assert shuffled == [names[i] for i in order]

    def test_a_missing_value_is_named(self) -> None:
        assert slices_of_rows([real("a b")], {}, ["lang"])[0][-1] == "lang=(empty)"

    @pytest.mark.parametrize(
        ("rule", "holds"),
        [
            (SliceRule(max_words=3), [True, True, False]),
            (SliceRule(min_words=3), [False, True, True]),
            (SliceRule(min_words=3, max_words=3), [False, True, False]),
            (SliceRule(pattern=r"\d"), [True, False, True]),
            (SliceRule(column="c", equals="uk"), [False, True, False]),
            (SliceRule(column="c", equals="uk", pattern=r"\d"), [False, False, False]),
        ],
    )
    def test_rules(self, rule: SliceRule, holds: list[bool]) -> None:
        records = [real("one 2"), real("one two three", c="uk"), real("one two three 4", c="fr")]
        assert [follows_rule(r, rule) for r in records] == holds
        assert ["mine" in names for names in slices_of_rows(records, {"mine": rule}, [])] == holds


class TestScores:
    def scores(
        self,
        records: list[Record],
        predicted: list[Any],
        *,
        rules: dict[str, SliceRule] | None = None,
        columns: Sequence[str] = (),
    ) -> dict[str, SliceScore]:
        names = slices_of_rows(records, rules or {}, columns)
        bootstrap = Bootstrap(200, 0, group_codes([r.group for r in records]))
        declared = list(rules or {})
        scores = score_slices(
            records, predicted, names, labels=LABELS, declared=declared, bootstrap=bootstrap
        )
        return {s.name: s for s in scores}

    @given(
        st.lists(
            st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "x"]), st.booleans()),
            min_size=1,
            max_size=30,
        )
    )
    @settings(deadline=None, max_examples=40)
    def test_macro_f1_is_scikit_learns_over_the_labels_that_occur(
        self, data: list[tuple[str, str, bool]]
    ) -> None:
        records = [real(f"text {i}", t, c=str(c)) for i, (t, _, c) in enumerate(data)]
        names = slices_of_rows(records, {}, ["c"])
        scores = self.scores(records, [p for _, p, _ in data], columns=["c"])
        for name, s in scores.items():
            rows = [(t, p) for (t, p, _), own in zip(data, names, strict=True) if name in own]
            true, predicted = map(list, zip(*rows, strict=True))
            present = sorted(set(true))
            assert s.rows == len(rows) and not s.judged
            f1 = f1_score(true, predicted, labels=present, average="macro", zero_division=0)
            accuracy = accuracy_score(true, predicted)
            for figure, expected in ((s.f1_macro, f1), (s.accuracy, accuracy)):
                assert figure and figure.value == pytest.approx(expected)
                assert 0 <= figure.ci_low <= figure.value <= figure.ci_high <= 1

    def test_declared_slices_come_first_are_judged_from_thirty_rows_and_shown_when_empty(
        self,
    ) -> None:
        records = [real("word " * n + str(n), LABELS[n % 3]) for n in range(1, 61)]
        rules = {
            "long": SliceRule(min_words=32),
            "few": SliceRule(max_words=3),
            "none": SliceRule(pattern="zzz"),
        }
        scores = self.scores(records, [r.label for r in records], rules=rules)
        assert list(scores)[:3] == list(rules)
        assert [scores[name].judged for name in rules] == [True, False, False]
        assert (scores["none"].rows, scores["none"].f1_macro) == (0, None)
        assert scores["long"].f1_macro == Interval(value=1.0, ci_low=1.0, ci_high=1.0)

    def test_label_sets(self) -> None:
        sets = [("fruit",), ("fruit", "metal"), (), ("metal",)] * 10
        records = [real(f"text {i}", labels) for i, labels in enumerate(sets)]
        scores = self.scores(records, [("fruit",), ("fruit",), (), ("bird",)] * 10)
        empty, fruit = scores["label=(no label)"], scores["label=fruit"]
        assert empty.f1_macro is None and empty.accuracy and empty.accuracy.value == 1.0
        # of its 20 rows, fruit is right in all, metal in none, and whole sets in half
        assert fruit.f1_macro and fruit.f1_macro.value == 0.5
        assert fruit.accuracy and fruit.accuracy.value == 0.5

    def test_a_slice_of_one_group_has_no_bounds(self) -> None:
        records = [
            Record.create(
                f"text {i}",
                LABELS[i % 3],
                "test",
                group="a" if i < 9 else f"b{i}",
                columns={"who": "a" if i < 9 else "b"},
            )
            for i in range(30)
        ]
        scores = self.scores(records, ["fruit"] * 30, columns=["who"])
        one, others = scores["who=a"].accuracy, scores["who=b"].accuracy
        assert one and (one.ci_low, one.ci_high) == (0.0, 1.0)
        assert others and others.ci_high < 0.8


class TestTheProjectFile:
    def load(self, folder: Path, slices: str) -> Any:
        path = folder / "toy.yaml"
        path.write_text(
            "name: toy\nlabels: {a: x, b: y}\ndata: {pool: p.csv, keep_columns: [country]}\n"
            f"evaluate: {{slices: {{{slices}}}}}\n"
        )
        return load_project(path)

    def test_rules_are_read(self, tmp_path: Path) -> None:
        p = self.load(
            tmp_path,
            "short: {max_words: 20}, digits: {pattern: '\\d'}, uk: {column: country, equals: uk}",
        )
        assert (
            p.evaluate.slices["digits"].pattern == r"\d"
            and p.parameters()["evaluate.slices.short.max_words"] == "20"
        )

    @pytest.mark.parametrize(
        ("slices", "said"),
        [
            ("s: {pattern: '('}", r"slices.s.pattern is '\(': it is no regular expression"),
            ("s: {max_wrods: 3}", "did you mean 'max_words'"),
            ("s: {}", "a slice needs a rule"),
            ("s: {column: country}", "give both, or neither"),
            ("s: {column: contry, equals: uk}", "did you mean 'country'.*not in data.keep_columns"),
            ("s: {column: country, equals: 3}", "put it in quotes"),
            ("'a=b': {max_words: 3}", "the slice 'a=b' needs another name"),
            ("s: {min_words: 5, max_words: 3}", "lower min_words"),
        ],
    )
    def test_a_mistake_is_one_sentence(self, slices: str, said: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=said) as error:
            self.load(tmp_path, slices)
        assert len(str(error.value).splitlines()) == 1


def test_an_evaluation_has_slices_and_groups(tmp_path: Path) -> None:
    table = [
        {**row, "who": f"author {i // 3}", "country": "uk" if i % 2 else "fr"}
        for i, row in enumerate(rows(fruit=12, metal=12))
    ]
    write(tmp_path / "pool.jsonl", table)
    p = project(
        {
            "pool": "pool.jsonl",
            "split": {"dev": 1, "test": 4},
            "group_column": "who",
            "keep_columns": ["country"],
        },
        evaluate={
            "bootstrap_samples": 100,
            "slices": {"uk": {"column": "country", "equals": "uk"}},
        },
    )
    p, workspace = p.in_folder(tmp_path), Workspace(tmp_path / "home")
    splits, sealed = split_dataset(p, workspace=workspace), sealed_test_set(p, workspace=workspace)
    curated = curated_of(workspace.home, [record("metal it is", "metal")])
    score = score_baseline(
        p, "majority", curated=curated, splits=splits, sealed=sealed, workspace=workspace
    )
    answers, test = score.read(), read_records(sealed.directory / "test.jsonl")
    assert [a.group for a in answers] == [r.group for r in test]
    assert len({a.group for a in answers}) < len(answers)
    assert all(("uk" in a.slices) == ("country=uk" in a.slices) for a in answers)
    ids = {Record.create(r.text, r.label, "test").id for r in test}
    assert {r.id for r in test} == ids, "ids are the content's"
    names = [s.name for s in score.slices]
    assert names == ["uk", *sorted(names[1:])]
    assert {"length=short", "label=metal", "country=fr"} <= set(names)
    metrics = json.loads((score.directory / "metrics.json").read_text())
    assert metrics["slices"] == [s.model_dump(mode="json") for s in score.slices]
    assert np.isfinite([s.accuracy.value if s.accuracy else np.nan for s in score.slices]).all()
