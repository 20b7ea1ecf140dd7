"""Mixtures, gains and self-training: what is added is known, measured, and undone where it hurts."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.retraining.mixtures import mixtures_of
from tasks.augment.lift import compare_mixtures, gain_pairs
from tasks.augment.mixtures import (
    REAL,
    WITH_SYNTHETIC,
    best_mixture,
    compare_predictions,
    mixture,
    possible_mixtures,
)
from tasks.augment.row_selection import row_quotas, select_rows
from tasks.augment.self_training import _predict_with_model, reject_rows
from tasks.curate.context import CurationContext
from tasks.encoder import linear_probe
from tasks.encoder.linear_probe import fit_self_trained
from tasks.model.bundle import Classifier
from tasks.project import Curate, Project, SelfTraining
from tasks.records import Record
from tasks.text.fingerprints import Fingerprints
from tasks.text.ngrams import ngram_hashes
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.rows import record, text
from tests.kit.stages import curated_of

LABELS = list(toy.LABELS)


def project(**generate: Any) -> Project:
    return Project.model_validate(
        {"name": "toy", "labels": toy.LABELS, "data": {"pool": "rows.csv"}, "generate": generate}
    )


def row(label: str, source: Any, n: int, **lineage: Any) -> Record:
    return Record.create(f"{label} {source} {n}", label, source, **lineage)


REAL_ROWS = [row(label, "seed", n) for label in LABELS for n in range(2)]
SYNTHETIC = [
    row(label, "synthetic", n, generator="ab"[n % 2]) for label in LABELS for n in range(4)
]


class TestMixtures:
    def test_without_real_rows_there_is_nothing_to_choose(self) -> None:
        assert possible_mixtures(project(), SYNTHETIC) == [WITH_SYNTHETIC]

    def test_real_rows_alone_need_every_label(self) -> None:
        assert possible_mixtures(project(), REAL_ROWS + SYNTHETIC) == [REAL, WITH_SYNTHETIC]
        assert possible_mixtures(project(), REAL_ROWS[:-2] + SYNTHETIC) == [WITH_SYNTHETIC]
        assert possible_mixtures(project(), REAL_ROWS) == [REAL], "there are no synthetic rows"

    def test_several_generators_are_left_out_in_turn(self, tmp_path: Path) -> None:
        two = [{"name": "a"}, {"name": "b"}]
        names = possible_mixtures(project(generators=two), SYNTHETIC)
        assert names == [WITH_SYNTHETIC, "without a", "without b"]
        curated = curated_of(tmp_path, SYNTHETIC)
        rest = mixture("without a", curated=curated, workspace=Workspace(tmp_path))
        assert rest.read() == [r for r in SYNTHETIC if r.lineage["generator"] == "b"]
        assert rest.rows == dict.fromkeys(sorted(LABELS), 2)
        run: Any = SimpleNamespace(
            project=project(generators=two),
            workspace=Workspace(tmp_path),
            stage=lambda function, name: function,
        )
        mixtures = mixtures_of(run, curated)
        assert list(mixtures) == names and mixtures[WITH_SYNTHETIC] is curated
        assert mixtures["without a"].published.key == rest.published.key

    def test_a_reviewed_row_keeps_its_origin(self) -> None:
        assert row("metal", "reviewed", 1, reviewed={"was": {"source": "seed"}}).origin == "seed"
        assert (
            row("metal", "reviewed", 1, reviewed={"was": {"source": "synthetic"}}).origin != "seed"
        )

    def test_the_best_on_dev_wins_and_more_rows_win_a_tie(self) -> None:
        assert best_mixture({REAL: 0.9, WITH_SYNTHETIC: 0.8}) == REAL
        assert best_mixture({REAL: 0.8, WITH_SYNTHETIC: 0.8}) == WITH_SYNTHETIC


class TestLift:
    TRUE: tuple[str, ...] = tuple(LABELS * 40)

    def predicted(self, right: float, seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [t if rng.random() < right else LABELS[(LABELS.index(t) + 1) % 3] for t in self.TRUE]

    def test_gains_are_within_their_intervals(self) -> None:
        answers = {REAL: [self.predicted(0.6, 1)], WITH_SYNTHETIC: [self.predicted(0.9, 2)]}
        comparison = compare_mixtures(
            list(self.TRUE), answers, chosen=REAL, labels=LABELS, samples=500, seed=0
        )
        (lift,) = comparison.lifts
        assert lift.by == "synthetic" and lift.ci_low < lift.value < lift.ci_high
        assert lift.ci_low > 0 and lift.value == pytest.approx(
            comparison.mixes[WITH_SYNTHETIC].value - comparison.mixes[REAL].value
        )

    def test_equal_predictions_gain_nothing(self) -> None:
        same = self.predicted(0.8, 3)
        answers = {REAL: [same], WITH_SYNTHETIC: [same]}
        (lift,) = compare_mixtures(
            list(self.TRUE), answers, chosen=REAL, labels=LABELS, samples=200, seed=0
        ).lifts
        assert lift.value == lift.ci_low == lift.ci_high == 0

    def test_seeds_are_averaged_and_their_spread_is_reported(self) -> None:
        answers = {WITH_SYNTHETIC: [self.predicted(0.9, s) for s in range(3)]}
        arguments: dict[str, Any] = {
            "chosen": WITH_SYNTHETIC,
            "labels": LABELS,
            "samples": 200,
            "seed": 0,
        }
        score = compare_mixtures(list(self.TRUE), answers, **arguments).mixes[WITH_SYNTHETIC]
        assert score.seeds == 3 and score.spread is not None and 0 < score.spread < 0.1

    def test_what_is_compared_with_what(self) -> None:
        names = [REAL, WITH_SYNTHETIC, "with harvested", "without a"]
        for chosen in (REAL, WITH_SYNTHETIC, "without a"):
            assert gain_pairs(names, chosen=chosen) == [
                ("synthetic", REAL, WITH_SYNTHETIC),
                ("harvested", chosen, "with harvested"),  # it was added to these rows
                ("generator a", "without a", WITH_SYNTHETIC),
            ]
        pairs = gain_pairs(["label descriptions", WITH_SYNTHETIC], chosen=WITH_SYNTHETIC)
        assert pairs[0][1] == "label descriptions"

    def test_without_synthetic_rows_no_gain_of_theirs_is_reported(self) -> None:
        assert gain_pairs(["label descriptions", REAL, "with harvested"], chosen=REAL) == [
            ("real", "label descriptions", REAL),
            ("harvested", REAL, "with harvested"),
        ]


SHARES = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda v: [x / sum(v) for x in v])


class TestSelection:
    @given(
        shares=SHARES,
        have=st.lists(st.integers(0, 500), min_size=3, max_size=3),
        rows=st.integers(1, 2000),
    )
    @settings(max_examples=200)
    def test_no_limit_is_exceeded(self, shares: list[float], have: list[int], rows: int) -> None:
        h = SelfTraining(per_label=100, share=0.5)
        candidates = dict(zip(LABELS, have, strict=True))
        q = row_quotas(dict(zip(LABELS, shares, strict=True)), candidates, rows=rows, settings=h)
        for label, share in zip(LABELS, shares, strict=True):
            assert 0 <= q[label] <= min(100, candidates[label]) and q[label] <= share * 0.5 * rows

    def test_equal_labels_have_equal_quotas(self) -> None:
        third = dict.fromkeys(LABELS, 1 / 3)
        assert row_quotas(
            third, dict.fromkeys(LABELS, 400), rows=900, settings=SelfTraining(per_label=100)
        ) == dict.fromkeys(LABELS, 100)

    def test_rows_are_selected_where_both_are_confident(self) -> None:
        rows = [Record.create(f"text {i}", None, "unlabelled") for i in range(60)]
        p = np.full((60, 3), 0.05)
        for i in range(60):
            p[i, i % 3] = 0.7 + 0.2 * (i / 60)
        p /= p.sum(axis=1, keepdims=True)
        q = p.copy()
        q[57] = p[58]  # the probe sees another label in one of the surest
        q[54] = [0.4, 0.3, 0.3]  # and is not sure of one
        h = SelfTraining(confidence=0.85, share=1.0, per_label=50)
        taken, choice = select_rows(rows, p, q, labels=LABELS, settings=h, number=1)
        out = {r.id for r in taken}
        sure = {r.id for i, r in enumerate(rows) if p[i].max() >= 0.85}
        assert out <= sure - {rows[57].id, rows[54].id} and len(out) >= 9
        assert {r.source for r in taken} == {"harvested"}
        assert all(
            r.lineage["score"] >= 0.85
            and rows.index(replace(r, label=None, source="unlabelled", lineage={})) % 3
            == LABELS.index(str(r.label))
            for r in taken
        )
        few, _ = select_rows(
            rows,
            p,
            q,
            labels=LABELS,
            settings=SelfTraining(confidence=0.85, share=1.0, per_label=2),
            number=1,
        )
        for label in LABELS:
            every, few_ids = ([r.id for r in rows_ if r.label == label] for rows_ in (taken, few))
            assert 1 <= len(few_ids) <= 2 and few_ids == sorted(every)[: len(few_ids)], (
                "chance, not confidence, decides"
            )
        assert sum(choice.proportions.values()) == pytest.approx(1, abs=0.001)


def by_word(texts: list[str]) -> np.ndarray:
    """Embeddings in which the order of words is lost."""
    x = np.array(
        [
            sum(np.random.default_rng(ngram_hashes(w, 1)[:1]).normal(size=16) for w in t.split())
            for t in texts
        ]
    )
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


class TestChecks:
    """Selected rows, against 30 short held-out rows and one training row."""

    HELD: ClassVar[list[Record]] = [
        Record.create(text(f"held{i}x", 0, 8), "fruit", "test") for i in range(30)
    ]
    BASE: ClassVar[list[Record]] = [
        record(f"A long story of which nothing is short: {text('base', 0, 20)}.")
    ]
    FRENCH = "Le conseil municipal a annoncé mardi que le nouveau pont sur le fleuve serait ouvert avant la fin de l'année prochaine."

    def check(
        self, rows: list[Record], **chosen: Any
    ) -> tuple[list[Record], dict[str, list[Record]]]:
        english = (
            "The council said on Tuesday that the new bridge would be opened before the end of year"
        )
        real = [
            record(f"{english} {i} and that nobody has to pay for it.", source="dev")
            for i in range(9)
        ]
        context = CurationContext(
            Curate(**chosen), Fingerprints.from_records(self.HELD, by_word), by_word, real=real
        )
        kept, rejected = reject_rows(rows, self.BASE, context)
        out = {
            check: [r.record for r in rejected if r.check == check]
            for check in {r.check for r in rejected}
        }
        assert len(kept) + len(rejected) == len(rows)
        return kept, out

    def selected(self, words: str) -> Record:
        return record(words, "fruit", "harvested", score=0.9, self_training_round=1)

    def test_leaks_and_repeated_training_rows_are_rejected(self) -> None:
        short = self.selected(" ".join(self.HELD[3].text.split()[::-1]))
        long = self.selected(f"{self.HELD[5].text} {text('end', 0, 8)}")
        again = self.selected(self.BASE[0].text + " And more.")
        good = [self.selected(text("good", i, n)) for i, n in enumerate((6, 9, 20))]
        kept, out = self.check([short, *good, long, again])
        assert kept == good
        assert {check: len(rows) for check, rows in out.items()} == {
            "leak": 1,
            "short_leak": 1,
            "near_duplicate": 1,
        }
        assert all(r.text == "" for check in ("leak", "short_leak") for r in out[check])

    def test_personal_data_and_other_languages_are_rejected_as_in_curation(self) -> None:
        mail = self.selected(
            "Write to jane.roe@example.com or call +1 212 555 2368 before the end of the week, she said."
        )
        french = self.selected(self.FRENCH)
        kept, out = self.check([mail, french], personal_data="reject")
        assert kept == [] and {check: len(rows) for check, rows in out.items()} == {
            "personal_data": 1,
            "language": 1,
        }
        assert out["personal_data"][0].text == ""
        assert self.check([mail, french], language="off") == ([mail, french], {}), (
            "reported, not rejected"
        )


class TestMaxLength:
    """Its bundle cuts texts at 32 tokens; the unlabelled ones say more after that."""

    LONG: ClassVar[list[str]] = [
        toy.sentence(toy.REAL[k], random.Random(f"{k}{i}"), 50)
        for k in toy.LABELS
        for i in range(8)
    ]

    def dev(self, bundle: Path, sign: int) -> list[Record]:
        """Rows whose labels are those that gain (or lose) the most where the model reads on."""
        short = Classifier.load(bundle)
        more = sign * (
            short.with_max_length(60).probabilities(self.LONG) - short.probabilities(self.LONG)
        )
        return [
            Record.create(t, short.labels[int(k)], "dev")
            for t, k in zip(self.LONG, more.argmax(axis=1), strict=True)
        ]

    @pytest.mark.parametrize(("sign", "tokens"), [(1, 60), (-1, 32), (0, 32)])
    def test_dev_decides(self, sign: int, tokens: int, small_bundle: Path) -> None:
        rows = [Record.create(t, None, "unlabelled") for t in self.LONG]
        dev = self.dev(small_bundle, sign) if sign else []
        probabilities = _predict_with_model(small_bundle, rows, dev=dev, max_length=60)
        expected = Classifier.load(small_bundle).with_max_length(tokens).probabilities(self.LONG)
        other = Classifier.load(small_bundle).with_max_length(92 - tokens).probabilities(self.LONG)
        assert np.abs(probabilities - expected).max() < 0.01 < np.abs(probabilities - other).max()


class TestDevComparison:
    """200 dev rows, of which the model before has 190 right."""

    TRUE: ClassVar[list[Any]] = [LABELS[i % 3] for i in range(200)]

    def predicted(self, wrong: range) -> list[Any]:
        return [LABELS[(i + 1) % 3] if i in wrong else t for i, t in enumerate(self.TRUE)]

    @pytest.mark.parametrize(
        ("after", "fell"),
        [
            (range(10), False),  # the same answers
            (range(11), False),  # one row more is wrong
            (range(8, 19), False),  # eleven are wrong now, nine of them others
            (range(40), True),
            (range(0), False),
        ],
    )
    def test_a_fall_within_one_standard_error_is_none(self, after: range, fell: bool) -> None:
        comparison = compare_predictions(
            self.TRUE, self.predicted(range(10)), self.predicted(after), labels=LABELS
        )
        assert comparison.fell is fell, comparison
        assert comparison.difference == pytest.approx(comparison.after - comparison.before)

    def test_without_dev_rows_nothing_fell(self) -> None:
        assert compare_predictions([], [], [], labels=LABELS).fell is False


class TestSelfTrainedProbe:
    """Three clouds; the labelled points are off their centres, as synthetic text is."""

    CENTRES = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])

    def drawn(self, rows: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, list[str]]:
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 3, rows)
        y[:3] = range(3)
        return self.CENTRES[y] + [shift, shift] + rng.normal(0, 1, (rows, 2)), [
            LABELS[k] for k in y
        ]

    def fit(self, unlabelled: np.ndarray, *, dev: int = 150) -> Any:
        x, y = self.drawn(30, 1, shift=1.2)
        x_dev, y_dev = self.drawn(dev, 2) if dev else (np.zeros((0, 2)), [])
        return fit_self_trained(x, y, unlabelled, x_dev=x_dev, y_dev=y_dev, labels=LABELS)

    def test_it_finds_the_clouds_that_the_labelled_rows_missed(self) -> None:
        x, true = self.drawn(600, 3)
        right = [
            float(np.mean([LABELS[k] == t for k, t in zip(j(x).argmax(axis=1), true, strict=True)]))
            for j in (self.fit(np.zeros((0, 2))), self.fit(x))
        ]
        assert right[1] > right[0] + 0.02, right

    def test_its_probabilities_are_calibrated_and_sum_to_one(self) -> None:
        x, true = self.drawn(600, 3)
        p = self.fit(x)(x)
        sure = p.max(axis=1)
        right = np.mean([LABELS[k] == t for k, t in zip(p.argmax(axis=1), true, strict=True)])
        assert np.allclose(p.sum(axis=1), 1) and abs(float(sure.mean()) - float(right)) < 0.05

    def test_dev_never_gets_worse(self) -> None:
        far = np.random.default_rng(5).normal(60, 1, (400, 2))  # text of another world
        plain, read = self.fit(np.zeros((0, 2))), self.fit(far)
        assert read.log_loss <= plain.log_loss < float("inf")

    def test_dev_chooses_the_penalty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x, _ = self.drawn(600, 3)
        best, alone = self.fit(x).log_loss, []
        for c in linear_probe.STRENGTHS:
            with monkeypatch.context() as m:
                m.setattr(linear_probe, "STRENGTHS", (c,))
                alone.append(self.fit(x).log_loss)
        assert best == min(alone) and len(set(alone)) == len(alone)

    def test_without_dev_rows_it_is_the_plain_probe(self) -> None:
        x, _ = self.drawn(600, 3)
        assert np.array_equal(self.fit(x, dev=0)(x), self.fit(np.zeros((0, 2)), dev=0)(x))

    def test_a_label_without_a_row_is_not_seen(self) -> None:
        x, y = self.drawn(30, 1)
        some = [i for i, k in enumerate(y) if k != LABELS[2]]
        judge = fit_self_trained(x[some], [y[i] for i in some], x, x_dev=x, y_dev=y, labels=LABELS)
        assert set(judge(x).argmax(axis=1)) == {0, 1}
