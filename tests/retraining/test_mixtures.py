"""Mixtures and self-training in a retrain: which gain is measured, and when a round is undone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.context import RunContext
from flows.retraining import mixtures
from tasks.augment.mixtures import (
    REAL,
    WITH_SELF_TRAINED,
    WITH_SYNTHETIC,
    DevComparisonResult,
    compare_on_dev,
    compare_predictions,
)
from tasks.augment.self_training import SelfTrainingResult, self_train
from tasks.dataset.training_rows import TrainingRows
from tasks.evaluate.result import ScoredRow, ScoreResult
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.records import Record
from tasks.stage import Published
from tasks.train.stage import TrainResult
from tests.kit import toy
from tests.kit.context import context_of
from tests.kit.stages import curated_of, filled, sealed_of, splits_of

LABELS = list(toy.LABELS)


def rows(n: int, source: Any, seed: int, words: dict[str, list[str]] = toy.REAL) -> list[Record]:
    rng = random.Random(seed)
    return [Record.create(toy.sentence(words[k], rng), k, source) for k in LABELS for _ in range(n)]


@pytest.fixture
def project(encoder: Path) -> Project:
    sections = {
        "train": {"model": str(encoder), "max_length": 32},
        "evaluate": {"bootstrap_samples": 100},
    }
    return Project.model_validate(
        {"name": "toy", "labels": toy.LABELS, "data": {"pool": "rows.csv"}, **sections}
    )


class Descriptions(ScoreResult):
    """An evaluation whose answers are all the same label."""

    def read(self) -> list[ScoredRow]:
        return [
            ScoredRow(id=str(i), label=LABELS[i % 3], predicted=LABELS[0], slices=())
            for i in range(60)
        ]


def test_self_trained_rows_gain_over_the_mixture_that_they_were_added_to(
    tmp_path: Path, project: Project
) -> None:
    """Synthetic rows with wrong labels hurt, so real rows alone were trained on: the gain is over these."""
    wrong = [
        replace(r, label=LABELS[(LABELS.index(str(r.label)) + 1) % 3])
        for r in rows(20, "synthetic", 3)
    ]
    real, more = rows(4, "seed", 1), rows(4, "harvested", 2)
    own = {REAL: real, WITH_SYNTHETIC: real + wrong, WITH_SELF_TRAINED: real + more}
    mixes: dict[str, TrainingRows] = {
        name: curated_of(tmp_path, kept) for name, kept in own.items()
    }
    run = context_of(project, tmp_path, sealed=sealed_of(tmp_path, rows(20, "test", 4)))
    model, descriptions = filled(TrainResult), filled(Descriptions)
    trained = mixtures.Trained(
        stage=model,
        bundle=BundleRef(tmp_path, ""),
        dev_f1_macro=0.0,
        rows=mixes[REAL],
        mixtures=mixes,
        chosen=REAL,
        adapted=None,
        self_trained=None,
        undone=None,
        seeds_summary=None,
        seed_models={},
    )
    lift = mixtures.measure_lift(run, trained, descriptions)
    assert lift
    gains = {gain.by: gain for gain in lift.lifts}
    f1 = {name: m.value for name, m in lift.mixes.items()}
    assert f1[WITH_SYNTHETIC] < 0.5 < f1[REAL] and gains["synthetic"].value < -0.3
    assert gains["harvested"].from_ == REAL
    assert gains["harvested"].value == pytest.approx(f1[WITH_SELF_TRAINED] - f1[REAL])
    # another base is another figure, and is not found under the first one
    again = mixtures.measure_lift(run, replace(trained, chosen=WITH_SYNTHETIC), descriptions)
    assert again
    (other,) = [gain for gain in again.lifts if gain.by == "harvested"]
    assert other.value == pytest.approx(f1[WITH_SELF_TRAINED] - f1[WITH_SYNTHETIC])


DEV = [LABELS[i % 3] for i in range(200)]


def wrong(where: range) -> list[Any]:
    """Answers to the dev rows, those in `where` wrong."""
    return [LABELS[(i + 1) % 3] if i in where else true for i, true in enumerate(DEV)]


@pytest.mark.parametrize(
    ("answers", "kept", "undone"),
    [
        # each a little worse than the one before, by less than one standard error of their difference
        ([range(10), range(6, 19), range(15, 31), range(27, 46)], 1, 2),
        (
            [range(10), range(6, 19), range(15, 25), range(20, 31)],
            3,
            None,
        ),  # up and down, never far below the best
        (
            [range(40), range(10), range(6, 19), range(15, 31)],
            2,
            3,
        ),  # the best is the first round's
    ],
)
def test_small_falls_of_several_rounds_do_not_add_up(
    answers: list[range],
    kept: int,
    undone: int | None,
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at(n: int) -> Published:
        return Published("stage", tmp_path, key=str(n), digest="", seconds=0.0, found=False)

    def number_of(model: TrainingRows | TrainResult) -> int:
        """The number of a round of self-training, also of the model that was trained after it; 0 before any."""
        return 0 if model is curated else int(model.published.key)

    def add(*_: object, number: int, **__: object) -> SelfTrainingResult:
        return filled(SelfTrainingResult, added=5, looked_at=9).at(at(number))

    def train(
        run: RunContext, rows: TrainingRows, adapted: None, *, name: str, number: int = 0
    ) -> TrainResult:
        return filled(TrainResult, bundle=str(number_of(rows))).at(at(number_of(rows)))

    def compare(
        project: Project, *, before: TrainResult, after: TrainResult, **_: object
    ) -> DevComparisonResult:
        predictions = [wrong(answers[number_of(model)]) for model in (before, after)]
        return compare_predictions(DEV, *predictions, labels=LABELS)

    monkeypatch.setattr(mixtures, "train_model", train)
    rounds = project.self_training.model_copy(update={"rounds": 3})
    run = context_of(
        project.model_copy(update={"self_training": rounds}),
        tmp_path,
        splits=splits_of(tmp_path, unlabelled=rows(3, "unlabelled", 5)),
        stand_ins={self_train: add, compare_on_dev: compare},
    )
    curated = curated_of(tmp_path, rows(4, "seed", 1))
    trained = mixtures.train_best_mixture(run, curated)
    assert number_of(trained.rows) == kept and trained.bundle.digest == str(kept)
    assert trained.stage.published.key == str(kept)
    assert (trained.undone.number if trained.undone else None) == undone
    for earlier in range(kept):
        before, last = wrong(answers[earlier]), wrong(answers[kept])
        assert compare_predictions(DEV, before, last, labels=LABELS).fell is False
