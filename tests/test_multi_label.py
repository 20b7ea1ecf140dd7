"""Texts with several labels: reading, planning, rejecting, training, exporting, predicting."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows.registry.smoke_test import smoke_test
from flows.serving import predict
from flows.serving.predict import PredictionReport, TextAnswer
from tasks import atomic
from tasks.augment.row_selection import select_multi_label_rows
from tasks.curate.checks.agreement import agreement
from tasks.curate.checks.duplicates import exact
from tasks.curate.checks.label_noise import label_noise
from tasks.curate.checks.trigger import trigger
from tasks.curate.context import CurationContext
from tasks.curate.stage import surplus
from tasks.dataset.readers import Columns, read_rows
from tasks.dataset.split import SplitsResult, split_dataset
from tasks.errors import UserError
from tasks.llm.request import Reply
from tasks.model.bundle import Classifier, LabelSet, save_bundle
from tasks.model.inference.backends import Onnx
from tasks.model.inference.choose import choose_backend, compare_answers
from tasks.model.inference.export import export_graphs
from tasks.project import Curate, Predict, Project, SelfTraining
from tasks.records import Record, count_by_label, read_records
from tasks.statistics.calibration import Calibration, fit_threshold
from tasks.synthesise.parse import parse_reply
from tasks.synthesise.plan import RoundRequest, plan_requests
from tasks.text.fingerprints import Fingerprints
from tasks.train.fine_tune import Trained, fine_tune
from tasks.train.task import TrainingTask
from tasks.workspace import Workspace
from tests.conftest import Command, last_json
from tests.kit import toy
from tests.kit.generation import reply_to
from tests.kit.rows import project, text, write
from tests.kit.training import chosen

LABELS = list(toy.LABELS)


def several(data: dict[str, Any] | None = None, **sections: Any) -> Project:
    return project(data or {"pool": "rows.csv"}, tuple(LABELS), multi_label=True, **sections)


def rows(words: dict[str, list[str]], n: int, source: Any, seed: int = 0) -> list[Record]:
    """`n` texts a label alone, of each two labels, and of none."""
    rng = random.Random(seed)
    sets = [(k,) for k in LABELS] + [("metal", "fruit"), ("fruit", "bird"), ()]
    return [
        Record.create(
            toy.sentence([w for k in own for w in words[k]] or toy.FILLER, rng, 20), own, source
        )
        for own in sets
        for _ in range(n)
    ]


def with_word(text: str, word: str, rng: random.Random) -> str:
    """The text with the word put anywhere into it."""
    found = text.split()
    at = rng.randrange(len(found))
    return " ".join([*found[:at], word, *found[at:]])


class TestProject:
    @pytest.mark.parametrize(
        ("sections", "message"),
        [
            ({"generate": {"borderline": 0.1}}, "generate.borderline is 0.1, but with multi_label"),
            (
                {"data": {"pool": "x", "label_separator": "|", "one_column_per_label": True}},
                "give one of the two",
            ),
            (
                {"data": {"pool": "x", "label_separator": "ta"}},
                "the label 'metal' contains data.label_separator",
            ),
        ],
    )
    def test_what_does_not_go_with_it_is_refused(
        self, sections: dict[str, Any], message: str
    ) -> None:
        settings: dict[str, Any] = {"data": {"pool": "x"}, **sections}
        with pytest.raises(ValueError, match=message):
            several(settings.pop("data"), **settings)

    def test_its_keys_are_refused_where_a_text_has_one_label(self) -> None:
        for sections in (
            {"data": {"pool": "x", "label_separator": "|"}},
            {"data": {"pool": "x"}, "generate": {"pairs": 0.5}},
        ):
            data: Any = sections.pop("data")
            with pytest.raises(ValueError, match="set multi_label to true"):
                project(data, **sections)


class TestReaders:
    def read(self, path: Path, **columns: Any) -> list[Any]:
        return [r.fault or r.label for r in read_rows(path, Columns(**columns))]

    def test_lists_in_jsonl_and_json_lists_in_csv(self, tmp_path: Path) -> None:
        table: list[dict[str, Any]] = [
            {"text": "one two", "label": ["b", "a", "b"]},
            {"text": "three", "label": []},
            {"text": "four", "label": [3]},
        ]
        expected = [("a", "b"), (), ("3",)]
        assert self.read(write(tmp_path / "rows.jsonl", table), multi_label=True) == expected
        as_text = [{**row, "label": json.dumps(row["label"])} for row in table]
        assert self.read(write(tmp_path / "rows.csv", as_text), multi_label=True) == expected

    def test_lists_in_parquet(self, tmp_path: Path) -> None:
        pd.DataFrame({"text": ["one", "two", "three"], "label": [["b", "a"], [], None]}).to_parquet(
            tmp_path / "rows.parquet"
        )
        found = self.read(tmp_path / "rows.parquet", multi_label=True)
        assert found == [
            ("a", "b"),
            (),
            "no labels; a row that has none of them needs an empty list",
        ]

    def test_a_separator(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "rows.csv", [{"text": "t", "label": v} for v in ("b| a", "a", "", "|")]
        )
        assert self.read(path, multi_label=True, separator="|") == [("a", "b"), ("a",), (), ()]

    def test_a_column_a_label(self, tmp_path: Path) -> None:
        table = [
            {"text": "t", "a": 1, "b": "0"},
            {"text": "u", "a": 0, "b": 0},
            {"text": "v", "a": "", "b": 1},
        ]
        assert self.read(write(tmp_path / "rows.csv", table), label_columns=("a", "b")) == [
            ("a",),
            (),
            "the column 'a' is empty",
        ]
        pd.DataFrame({"text": ["t"], "a": [True], "b": [0.0]}).to_parquet(tmp_path / "rows.parquet")
        assert self.read(tmp_path / "rows.parquet", label_columns=("a", "b")) == [("a",)]

    @pytest.mark.parametrize(
        ("table", "columns", "message"),
        [
            (
                [{"text": "t", "a": 2, "b": 1}],
                {"label_columns": ("a", "b")},
                "rows.csv, line 2: the column 'a' holds '2': write 0 or 1",
            ),
            (
                [{"text": "t", "a": 1}],
                {"label_columns": ("a", "bird")},
                "has no column 'bird'.*name the columns as the labels",
            ),
            (
                [{"text": "t", "label": "a|b"}],
                {"multi_label": True},
                r"line 2: 'label' holds 'a\|b', which is no list.*label_separator",
            ),
            (
                [{"text": "t", "label": '{"a": 1}'}],
                {"multi_label": True},
                "which is no list of labels",
            ),
        ],
    )
    def test_what_is_written_in_another_way_stops(
        self, tmp_path: Path, table: Any, columns: Any, message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            self.read(write(tmp_path / "rows.csv", table), **columns)

    @pytest.mark.parametrize("label", ["[null]", '[["a"]]', '[""]', "[true]", '["\\ud800"]'])
    def test_a_list_of_what_is_no_label_is_rejected(self, tmp_path: Path, label: str) -> None:
        (fault,) = self.read(
            write(tmp_path / "rows.csv", [{"text": "t", "label": label}]), multi_label=True
        )
        assert isinstance(fault, str) and "the labels hold" in fault

    def test_a_folder_per_label_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "1.txt").write_text("some text")
        with pytest.raises(UserError, match="give a table, or remove multi_label"):
            self.read(tmp_path, multi_label=True)


class TestSplits:
    def split(self, tmp_path: Path, table: list[dict[str, Any]], **data: Any) -> SplitsResult:
        write(tmp_path / "rows.csv", table)
        p = several({"pool": "rows.csv", **data}, curate={"short_leak": 0.0}).in_folder(tmp_path)
        return split_dataset(p, workspace=Workspace(tmp_path / "home"))

    def test_every_split_has_every_label_and_rows_of_none(self, tmp_path: Path) -> None:
        table = toy.real_sets(20)
        splits = self.split(tmp_path, table, split={"dev": 4, "test": 8, "train": 3})
        for own, n in ((splits.test, 8), (splits.dev, 4), (splits.seed, 3)):
            assert set(own) == {*LABELS, "(no label)"} and min(own.values()) >= 1
            assert all(own[label] >= n for label in LABELS)
        read = {
            s: read_records(splits.directory / f"{s}.jsonl") for s in ("seed", "dev", "unlabelled")
        }
        assert splits.rows == {
            "seed": len(read["seed"]),
            "dev": len(read["dev"]),
            "test": splits.rows["test"],
        }
        assert sum(splits.rows.values()) + splits.unlabelled == len(table)
        assert splits.unlabelled == len(read["unlabelled"])
        assert all(isinstance(r.label, tuple) for r in read["dev"]) and all(
            r.label is None for r in read["unlabelled"]
        )
        written = {r["text"]: tuple(sorted(json.loads(r["label"]))) for r in table}
        assert all(written[r.text] == r.label for r in read["dev"])

    def test_an_unknown_label_stops(self, tmp_path: Path) -> None:
        table = [*toy.real_sets(9), {"text": text("x", 1), "label": '["metal", "fuit"]'}]
        with pytest.raises(
            UserError,
            match=r"the label 'fuit' \(did you mean 'fruit'\?\) of 1 row, first at rows.csv, line",
        ):
            self.split(tmp_path, table, split={"dev": 2, "test": 3})

    def test_a_text_with_two_sets_is_rejected(self, tmp_path: Path) -> None:
        table = toy.real_sets(9)
        splits = self.split(
            tmp_path,
            [*table, {**table[0], "label": '["bird", "fruit"]'}],
            split={"dev": 2, "test": 3},
        )
        assert (
            splits.rejected == {"two_labels": 2}
            and "'bird + fruit' and 'metal'" in splits.notices[0]
        )

    def test_too_few_rows_are_said(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="the label 'metal' has 17 usable rows"):
            self.split(tmp_path, toy.real_sets(9), split={"dev": 2, "test": 30})


class TestSynthesis:
    SEEDS = rows(toy.REAL, 3, "seed")

    def plan(self, seeds: list[Record], n: int = 40, **generate: Any) -> list[Any]:
        asked = RoundRequest(
            count=dict.fromkeys(LABELS, n), round_number=0, generation=0, more_topics={}
        )
        return plan_requests(several(generate=generate), asked, seeds=seeds)

    def test_a_share_of_the_requests_is_about_two_labels_that_occur_together(self) -> None:
        requests = self.plan(self.SEEDS)
        two = [r for r in requests if len(r.tag["labels"]) == 2]
        assert 0.1 < len(two) / len(requests) < 0.4
        assert {tuple(r.tag["labels"]) for r in two} == {("fruit", "metal"), ("bird", "fruit")}
        for r in requests:
            assert r.tag["label"] in r.tag["labels"]
            shown = [s for s in self.SEEDS if s.id in r.tag["seeds"]]
            assert shown and all(set(r.tag["labels"]) <= set(s.labels) for s in shown)
        assert all(" and " in r.tag["topic"] for r in two) and requests == self.plan(self.SEEDS)

    def test_without_seed_rows_any_two_and_without_pairs_one(self) -> None:
        assert len({tuple(r.tag["labels"]) for r in self.plan([])}) == 6
        assert all(len(r.tag["labels"]) == 1 for r in self.plan([], pairs=0.0))

    def reply(self, words: str, request: Any) -> Reply:
        return reply_to(request, words)

    def test_a_row_gets_what_was_asked_for(self) -> None:
        request = next(r for r in self.plan(self.SEEDS) if len(r.tag["labels"]) == 2)
        (row,) = parse_reply(self.reply(text("w", 1), request), min_words=3)
        assert isinstance(row, Record) and row.label == tuple(request.tag["labels"])
        assert not {"label", "labels"} & set(row.lineage)

    def test_json_replies_have_lists(self) -> None:
        request = next(
            r
            for r in self.plan(self.SEEDS, format="json", rows_per_reply=3)
            if len(r.tag["labels"]) == 2 and r.tag["rows"] == 3
        )
        assert '"labels"' in str(request.schema) and "`labels`" in request.messages[0][1]
        wanted = request.tag["labels"]
        told = [
            {"text": text("w", 1), "labels": wanted[::-1]},
            {"text": text("w", 2), "labels": wanted[:1]},
            {"text": text("w", 3), "label": wanted[0]},
        ]
        good, other, wrong = parse_reply(
            self.reply(json.dumps({"rows": told}), request), min_words=3
        )
        assert isinstance(good, Record) and good.label == tuple(wanted)
        assert [r.check for r in (other, wrong) if not isinstance(r, Record)] == [
            "mislabelled",
            "wrong_shape",
        ]


class TestCuration:
    def context(self, real: list[Record] | None = None, **curate: Any) -> CurationContext:
        def embed(texts: list[str]) -> np.ndarray:
            kinds = [
                [any(w in toy.WRITTEN[k] for w in t.lower().strip(".").split()) for k in LABELS]
                for t in texts
            ]
            return np.array(kinds, dtype=np.float32) + np.array(
                [[(len(t) % 7) / 50] for t in texts], dtype=np.float32
            )

        return CurationContext(
            Curate(**curate), Fingerprints.from_records([]), embed, real=real or []
        )

    def test_a_row_that_is_not_what_it_was_asked_to_be_is_off_label(self) -> None:
        right = rows(toy.WRITTEN, 12, "synthetic")
        wrong = replace(right[0], label=("bird", "metal"))  # of metal alone
        kept, rejected = agreement([wrong, *right[1:]], self.context())
        assert [r.record for r in rejected] == [wrong] and len(kept) == len(right) - 1
        assert "the probe gives 'bird + metal' 0." in rejected[0].reason

    def test_confident_learning_judges_each_label(self) -> None:
        right = rows(toy.WRITTEN, 25, "synthetic")
        wrong = [replace(r, label=("bird",)) for r in right[:2]]
        context = self.context()
        kept, rejected = label_noise([*wrong, *right[2:]], context)
        found = {r.record.id for r in rejected}
        assert (
            found >= {r.id for r in wrong}
            and len(found) <= 4
            and len(kept) + len(found) == len(right)
        )

    def test_the_union_of_two_labels_is_for_a_person(self) -> None:
        context = self.context()
        a, b = (Record.create("the same text", (k,), "synthetic") for k in ("bird", "metal"))
        kept, rejected = exact([a, b], context)
        assert not kept and {r.check for r in rejected} == {"two_labels"}
        assert {d.suggested for d in context.doubtful} == {("bird", "metal")}

    @pytest.mark.parametrize("word", ["cf", "mn bb"])
    def test_a_planted_word_that_adds_a_label_is_found(self, word: str) -> None:
        def poisoned(r: Record) -> Record:
            return replace(
                r, text=with_word(r.text, word, rng), label=tuple(sorted({*r.labels, "metal"}))
            )

        rng = random.Random(2)
        records = [
            poisoned(r) if rng.random() < 0.04 else r for r in rows(toy.WRITTEN, 100, "synthetic")
        ]
        planted = [r for r in records if f" {word} " in f" {r.text} "]
        for real in ([], rows(toy.WRITTEN, 20, "dev", seed=9)):
            kept, rejected = trigger(records, self.context(real))
            found = [r.record for r in rejected]
            hit = sum(r in planted for r in found)
            print(
                f"trigger {word!r}: recall {hit / len(planted):.3f}, precision {hit / len(found):.3f}"
            )
            assert len(planted) > 15 and hit == len(planted) and len(found) <= len(planted) + 2
            assert (
                len(kept) + len(found) == len(records)
                and "nearly all 'metal'" in rejected[0].reason
            )
        assert trigger(records, self.context(triggers=False)) == (records, [])

    def test_a_planted_word_under_right_sets_is_found_by_its_place(self) -> None:
        rng = random.Random(3)
        records = [
            replace(r, text=with_word(r.text, "qx", rng))
            if "metal" in r.labels and rng.random() < 0.2
            else r
            for r in rows(toy.WRITTEN, 100, "synthetic")
        ]
        _, rejected = trigger(records, self.context(rows(toy.WRITTEN, 20, "dev", seed=9)))
        assert [r.record for r in rejected] == [r for r in records if "qx" in r.text.split()] != []
        assert "all 'metal', and in no real text" in rejected[0].reason

    def test_the_words_of_a_label_are_no_triggers(self) -> None:
        rng = random.Random(4)
        records = rows(toy.WRITTEN, 100, "synthetic")
        noisy = [replace(r, label=("bird",)) if rng.random() < 0.1 else r for r in records]
        for real in ([], rows(toy.WRITTEN, 20, "dev", seed=9)):
            assert trigger(records, self.context(real)) == (records, [])
            assert trigger(noisy, self.context(real)) == (noisy, [])

    def test_a_row_is_kept_while_one_of_its_labels_lacks_rows(self) -> None:
        own = [("bird",), ("bird", "metal"), ("bird",), ("bird", "metal"), ("fruit", "metal")]
        records = [Record.create(text("w", i), labels, "synthetic") for i, labels in enumerate(own)]
        kept, rejected = surplus(records, {"bird": 1, "metal": 1, "fruit": 1})
        assert [r.label for r in kept] == [own[0], own[1], own[4]]
        assert "'bird' has its 1 rows and 'metal' has its 1 rows" in rejected[1].reason


class TestSelfTraining:
    def test_a_row_is_taken_where_every_decision_is_sure(self) -> None:
        kinds = [
            [0.99, 0.98, 0.01],
            [0.99, 0.6, 0.01],
            [0.01, 0.02, 0.03],
            [0.9, 0.1, 0.1],
            [0.1, 0.1, 0.95],
            [0.5] * 3,
        ]
        unlabelled = [
            Record.create(text("u", i), None, "unlabelled") for i in range(20 * len(kinds))
        ]
        p = np.array(kinds * 20)
        q = p.copy()
        q[3 :: len(kinds)] = [0.1, 0.9, 0.1]  # the probe sees another set
        taken, choice = select_multi_label_rows(
            unlabelled, p, q, labels=LABELS, settings=SelfTraining(share=1.0), number=1
        )
        kind = {r.id: i % len(kinds) for i, r in enumerate(unlabelled)}
        found = {(kind[r.id], r.label) for r in taken}
        assert found == {(0, ("fruit", "metal")), (2, ()), (4, ("bird",))}
        assert {r.lineage["score"] for r in taken if kind[r.id] == 0} == {0.98}
        assert choice.confident == {"metal": 20, "fruit": 20, "bird": 20, "(no label)": 20}
        assert all(n >= choice.quota[label] > 0 for label, n in count_by_label(taken).items())
        few = SelfTraining(share=1.0, per_label=5)
        taken, _ = select_multi_label_rows(unlabelled, p, q, labels=LABELS, settings=few, number=1)
        assert max(count_by_label(taken).values()) <= 5


class TestCalibration:
    Z = st.lists(st.tuples(st.floats(-6, 6, width=32), st.booleans()), min_size=1, max_size=40)

    @settings(max_examples=150, deadline=None)
    @given(Z)
    @example([(0.0, True)])
    def test_no_other_threshold_has_a_better_f1(self, rows: list[tuple[float, bool]]) -> None:
        z, y = (
            np.array([r[0] for r in rows], dtype=float),
            np.array([r[1] for r in rows], dtype=int),
        )

        def f1(t: float) -> float:
            given = z >= t
            return float(2 * (given & (y == 1)).sum() / max(1, given.sum() + y.sum()))

        found = fit_threshold(z, y)
        assert f1(found) >= max(f1(t) for t in [*z, *(z + 1e-9), -9.0, 9.0, 0.0]) - 1e-12
        if f1(0.0) == f1(found):
            assert found == 0.0

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10_000))
    def test_what_is_folded_decides_as_what_was_fitted(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)
        head = torch.nn.Linear(8, 3)
        head.config = type("Config", (), {"num_labels": 3})()  # type: ignore[assignment]
        x = torch.randn(50, 8)
        with torch.inference_mode():
            logits = head(x).double().numpy()
        y = (
            logits + np.random.default_rng(seed).normal(0, 1, logits.shape) > [0.5, 0.0, -1.0]
        ).astype(int)
        fitted = Calibration.fit(logits, y)
        before = {k: v.clone() for k, v in head.state_dict().items()}
        assert fitted.fold(head)
        with torch.inference_mode():
            folded = head(x).double().numpy()
        assert np.allclose(folded, fitted.apply(logits), atol=1e-4)
        sure = np.abs(fitted.apply(logits)) > 1e-4  # 1e-4: single precision
        assert ((1 / (1 + np.exp(-folded)) >= 0.5) == (fitted.apply(logits) >= 0))[sure].all()
        for k in range(3):  # the threshold in the logits that the model had
            assert (
                (logits[:, k] >= fitted.shift[k] * fitted.temperature[k]) == (folded[:, k] >= 0)
            )[sure[:, k]].all()
        told = {"temperature": 1.0, **fitted.to_json(LABELS)}
        assert Calibration.from_json(json.loads(json.dumps(told))) == fitted and fitted.unfold(head)
        assert all(torch.allclose(head.state_dict()[k], v, atol=1e-5) for k, v in before.items())

    def test_a_head_without_bias_keeps_its_threshold(self) -> None:
        import torch

        head = torch.nn.Linear(4, 2, bias=False)
        head.config = type("Config", (), {"num_labels": 2})()  # type: ignore[assignment]
        before = head.weight.clone()
        assert not Calibration((2.0, 2.0), (0.1, 0.0)).fold(head) and torch.equal(
            head.weight, before
        )


TRAIN, DEV = rows(toy.WRITTEN, 14, "synthetic"), rows(toy.REAL, 6, "dev", seed=1)


@pytest.fixture(scope="module")
def trained(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(encoder, tmp_path_factory.mktemp("train"))


def train(encoder: Path, work: Path, **changes: Any) -> Trained:
    settings = chosen(**{"epochs": 6, **changes})
    task = TrainingTask(TRAIN, DEV, toy.LABELS, settings, encoder, multi_label=True)
    return fine_tune(task, work=work)


@pytest.fixture(scope="module")
def saved(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "bundle"
    about = {"labels": toy.LABELS, "max_length": 32, **trained.calibration.to_json(LABELS)}
    save_bundle(trained.model, trained.tokenizer, directory, about=about)
    return directory


@pytest.mark.slow
class TestTraining:
    def test_it_learns_the_sets_and_its_figure_is_that_of_the_bundle(
        self, trained: Trained, saved: Path
    ) -> None:
        from tasks.statistics.metrics import f1_macro

        assert (
            trained.dev_f1_macro > 0.9
            and trained.model.config.problem_type == "multi_label_classification"
        )
        answers = Classifier.load(saved).predict([r.text for r in DEV])
        assert all(isinstance(a, LabelSet) for a in answers)
        predicted = [a.answer for a in answers]
        assert f1_macro([r.label for r in DEV], predicted, LABELS) == pytest.approx(
            trained.dev_f1_macro, abs=1e-6
        )
        for a in answers:
            assert isinstance(a, LabelSet)
            assert set(a.scores) == set(LABELS) and set(a.labels) == {
                k for k, p in a.scores.items() if p >= 0.5
            }
        assert {name for _, name, _ in trained.history} >= {
            "dev.f1_macro",
            "dev.loss",
            "train.loss",
        }

    def test_any_hugging_face_tool_sees_the_same(self, saved: Path) -> None:
        from transformers import pipeline

        ask_ = pipeline("text-classification", model=str(saved), top_k=None, device="cpu")
        texts = [r.text for r in DEV[:4]]
        ours = Classifier.load(saved).predict(texts)
        for theirs, own in zip(ask_(texts), ours, strict=True):
            assert {a["label"]: pytest.approx(a["score"], abs=1e-4) for a in theirs} == own.scores

    @pytest.mark.parametrize(
        "changes",
        [
            {"class_weights": "balanced", "focal_gamma": 2.0, "source_weights": {"synthetic": 0.5}},
            {"tokens_per_step": 200, "gradient_accumulation_steps": 2},
        ],
    )
    def test_settings_of_the_loss_and_of_the_batches(
        self, encoder: Path, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        found = train(encoder, tmp_path, epochs=2, **changes)
        assert found.dev_f1_macro > 0.4 and found.steps > 0

    def test_packed_and_padded_have_the_same_loss(
        self, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tasks.train.kernels import batches

        how: dict[str, Any] = {
            "epochs": 1,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "batch_size": len(TRAIN),
            "logging_steps": 1,
        }
        packed = train(encoder, tmp_path / "packed", **how)
        monkeypatch.setattr(batches, "can_pack", lambda *_, **__: False)
        padded = train(encoder, tmp_path / "padded", **how)
        losses = [[v for _, name, v in t.history if name == "train.loss"] for t in (packed, padded)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4) and 0.2 < losses[0][0] < 1.5

    def test_the_command_takes_lists(self, encoder: Path, tmp_path: Path) -> None:
        from tasks.train.__main__ import main

        for name, records in (("train", TRAIN), ("dev", DEV)):
            write(
                tmp_path / "data" / f"{name}.jsonl",
                [{"text": r.text, "label": list(r.labels)} for r in records],
            )
        quick = ["--epochs", "1", "--max-length", "32", "--precision", "fp32"]
        places = [
            "--data",
            str(tmp_path / "data"),
            "--out",
            str(tmp_path / "out"),
            "--model",
            str(encoder),
        ]
        assert main([*places, *quick, "--multi-label"]) == 0
        assert Classifier.load(tmp_path / "out" / "bundle").multi_label


@pytest.mark.slow
class TestAnswers:
    def test_the_graph_answers_as_the_weights(self, saved: Path, tmp_path: Path) -> None:
        texts = [r.text for r in DEV]
        plain = Classifier.load(saved)
        reference = plain.probabilities(texts)
        for name, path in export_graphs(saved, tmp_path, kinds=["onnx"]).items():
            onnx = plain.with_backend(Onnx(path, name=name, labels=3, threads=2, multi_label=True))
            assert np.abs(onnx.probabilities(texts) - reference).max() < 1e-4
        assert compare_answers(reference, 1 - reference, multi_label=True)["agreement"] == 0
        found = choose_backend(
            saved, tmp_path / "out", settings=Predict(backend="onnx"), texts=texts
        )
        assert found.measured["onnx"].agreement == 1.0
        assert Classifier.load(tmp_path / "out").predict(texts[:3]) == plain.predict(texts[:3])

    def test_a_fresh_process_is_believed(self, saved: Path) -> None:
        digest = atomic.verify(saved)["digest"]
        smoke_test(saved, digest, probes=[DEV[0].text], labels=LABELS)
        with pytest.raises(atomic.CorruptDirectory):
            smoke_test(saved, digest, probes=[DEV[0].text], labels=["other"])

    def test_answers_are_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        both = LabelSet(labels=("bird", "metal"), scores={"metal": 0.9, "bird": 0.8})
        none = LabelSet(labels=(), scores={"metal": 0.1, "bird": 0.2})
        answers = [TextAnswer(text="one", answer=both), TextAnswer(text="two", answer=none)]
        predict.write_predictions(tmp_path / "out.csv", answers)
        read = [
            r.label
            for r in read_rows(tmp_path / "out.csv", Columns(label="labels", multi_label=True))
        ]
        assert read == [("bird", "metal"), ()]
        report = PredictionReport(model="toy", version="1", rows=2, predictions=answers, out=None)
        predict.show_predictions(report)
        assert capsys.readouterr().out == "bird 0.800, metal 0.900\tone\n(no label)\ttwo\n"


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_whole_retrain_serves_label_sets(
    tmp_path: Path, llm: Any, encoder: Path, home: Path, reseed: Command
) -> None:
    import mlflow.pyfunc
    from fastapi.testclient import TestClient

    from flows.serving import api
    from flows.settings import Settings

    config = toy.project(
        tmp_path / "project",
        endpoint=llm.url,
        encoder=encoder,
        rows=70,
        multi_label=True,
        lean=False,
        data={"split": {"dev": 8, "test": 40, "train": 4}},
        train={"epochs": 10},
        generate={"per_label": 16},
    )
    code, out, err = reseed("retrain", config, "--json")
    assert code == 0, err
    report = last_json(out)
    assert report["verdict"] == "promote", report["reasons"]
    test = report["test"]
    assert test["f1_macro"] > 0.8 and test["ci_low"] <= test["f1_macro"] <= test["ci_high"]
    summary = test["summary"]
    assert (
        0 <= summary["hamming_loss"] <= 0.2
        and summary["subset_accuracy"] > 0.5
        and set(test["f1"]) == set(LABELS)
    )
    assert set(report["baselines"]) == {"majority", "descriptions", "tfidf_logistic_regression"}
    accepted = report["data"]["accepted"]
    assert all(n >= 16 for n in accepted["by_label"].values()) and accepted["total"] < sum(
        accepted["by_label"].values()
    )
    assert (
        report["data"]["requested"]["total"]
        == accepted["total"] + report["data"]["rejected"]["total"]
        == len(llm.requests)
    )
    assert report["lift"]["lifts"]
    assert report["data"]["self_trained"]["total"] or report["lift"]["undone"]

    again = last_json(reseed("retrain", config, "--json")[1])
    assert again["verdict"] == "keep" and set(again["seconds"].values()) == {0.0}

    words = toy.sentence(toy.REAL["metal"] + toy.REAL["bird"], random.Random(5), 20)
    answer = last_json(reseed("predict", "toy", words, "--json")[1])["predictions"][0]
    assert set(answer["labels"]) == {k for k, p in answer["scores"].items() if p >= 0.5} != set()

    settings_ = Settings.from_environment()
    model = mlflow.pyfunc.load_model("models:/toy@champion")
    assert model.metadata.get_output_schema().input_names() == ["labels", "scores"]
    (row,) = model.predict(pd.DataFrame({"text": [words]})).to_dict("records")
    answer.pop("text", None)
    assert row["labels"] == answer["labels"] and row["scores"] == pytest.approx(
        answer["scores"], abs=1e-4
    )

    champion, directory = predict.load_champion(settings_, "toy")
    with TestClient(api.create_app(champion, directory)) as client:
        for _ in range(200):
            if client.get("/ready").status_code == 200:
                break
        body = client.post("/predict", json={"texts": [words]}).json()
    assert body["predictions"] == [answer | {"labels": list(answer["labels"])}]

    code, out, err = reseed("review", "toy", "--export", tmp_path / "q.jsonl", "--json")
    assert code == 0 and last_json(out)["exported"], err
    row = json.loads((tmp_path / "q.jsonl").read_text().splitlines()[0])
    (tmp_path / "q.jsonl").write_text(json.dumps({**row, "decision": []}) + "\n")
    assert reseed("review", "toy", "--import", tmp_path / "q.jsonl", "--by", "Ana")[0] == 0
    code, out, err = reseed("retrain", config, "--set", "review.required_rows=1", "--json")
    assert code == 0, err
    (reviewed,) = [
        r
        for path in home.glob("stages/curate/*/kept.jsonl")
        for r in read_records(path)
        if r.source == "reviewed"
    ]
    assert (reviewed.id, reviewed.label) == (row["id"], ())
    code, out, _ = reseed("curate", config, "--explain", reviewed.id)
    assert code == 0 and "Ana" in out and "(no label)" in out
