"""What the flow makes of mixes and harvests: from which rows a gain is measured, and when a harvest is undone."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.retraining import mixtures
from flows.tracking import stage_runs
from tasks.augment import lift
from tasks.augment.mixtures import REAL, WITH_SELF_TRAINED, WITH_SYNTHETIC, difference
from tasks.project import Project
from tasks.records import Record
from tasks.stage import Stage
from tests.kit import toy
from tests.kit.stages import made

LABELS = list(toy.LABELS)


def rows(n: int, source: Any, seed: int, words: dict[str, list[str]] = toy.REAL) -> list[Record]:
    rng = random.Random(seed)
    return [Record.of(toy.sentence(words[k], rng), k, source) for k in LABELS for _ in range(n)]


@pytest.fixture
def project(encoder: Path) -> Project:
    sections = {"train": {"model": str(encoder), "max_length": 32}, "evaluate": {"bootstrap": 100}}
    return Project.model_validate({"name": "toy", "labels": toy.LABELS, "data": {"pool": "rows.csv"}, **sections})


def retrain(project: Project, home: Path, **more: Any) -> Any:
    """What the functions of this module read of a retrain."""
    return SimpleNamespace(
        project=project, home=home, places={"beside": home, "home": home}, timed=lambda s, **_: s, log=None, **more
    )


def test_harvested_rows_gain_over_the_mix_that_they_were_added_to(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synthetic rows under wrong labels hurt, so real rows alone were trained on: the harvest's gain is over these."""
    wrong = [r.but(label=LABELS[(LABELS.index(str(r.label)) + 1) % 3]) for r in rows(20, "synthetic", 3)]
    real, more = rows(4, "seed", 1), rows(4, "harvested", 2)
    own = {REAL: real, WITH_SYNTHETIC: real + wrong, WITH_SELF_TRAINED: real + more}
    mixes = {name: made(tmp_path, "mix", rows={"kept.jsonl": kept}, params={"n": name}) for name, kept in own.items()}
    sealed = made(tmp_path, "sealed", rows={"test.jsonl": rows(20, "test", 4)})
    monkeypatch.setattr(mixtures.steps, "quick_lift", lift.quick_lift)
    monkeypatch.setattr(mixtures, "read_predictions", lambda _: [{"predicted": LABELS[0]}] * 60)
    monkeypatch.setattr(stage_runs, "lifted", lambda *_: None)
    r = retrain(project, tmp_path, prepared=SimpleNamespace(sealed=sealed))
    done = mixtures.Trained(mixes[REAL], "run", mixes[REAL], mixes, REAL, best=mixes[REAL])
    told = mixtures.lift(r, done, sealed) or {}
    found = {step["by"]: step for step in told["lifts"]}
    f1 = {name: m["value"] for name, m in told["mixes"].items()}
    assert f1[WITH_SYNTHETIC] < 0.5 < f1[REAL] and found["synthetic"]["value"] < -0.3
    assert found["harvested"]["from"] == REAL
    assert found["harvested"]["value"] == pytest.approx(f1[WITH_SELF_TRAINED] - f1[REAL])
    done.chosen = WITH_SYNTHETIC  # another base is another figure, and is not found under the first one
    (other,) = [s for s in (mixtures.lift(r, done, sealed) or {})["lifts"] if s["by"] == "harvested"]
    assert other["value"] == pytest.approx(f1[WITH_SELF_TRAINED] - f1[WITH_SYNTHETIC])


DEV = [LABELS[i % 3] for i in range(200)]


def wrong(where: range) -> list[Any]:
    """Answers to the dev rows, those in `where` wrong."""
    return [LABELS[(i + 1) % 3] if i in where else true for i, true in enumerate(DEV)]


@pytest.mark.parametrize(
    ("answers", "kept", "undone"),
    [
        # each a little worse than the one before, by less than one standard error of their difference
        ([range(10), range(6, 19), range(15, 31), range(27, 46)], 1, 2),
        ([range(10), range(6, 19), range(15, 25), range(20, 31)], 3, None),  # up and down, never far below the best
        ([range(40), range(10), range(6, 19), range(15, 31)], 2, 3),  # the best is the first harvest's
    ],
)
def test_small_falls_of_several_harvests_do_not_add_up(
    answers: list[range],
    kept: int,
    undone: int | None,
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stage(n: int) -> Stage:
        return Stage("train", str(tmp_path), str(n), "", {"added": 5, "looked_at": 9, "bundle": n}, 0.0)

    def watch(project: Project, *, before: Stage, after: Stage, **_: Any) -> Stage:
        said = [wrong(answers[int(s.key)]) for s in (before, after)]
        return Stage("watch", "", "", "", difference(DEV, *said, labels=LABELS), 0.0)

    monkeypatch.setattr(mixtures.steps, "harvest", lambda *_, number, **__: stage(number))
    monkeypatch.setattr(mixtures.steps, "watch", watch)
    monkeypatch.setattr(mixtures, "mixes_of", lambda *_: {REAL: stage(0)})
    monkeypatch.setattr(mixtures, "train", lambda _, rows, **__: rows)
    monkeypatch.setattr(stage_runs, "trained", lambda _, model, *__: f"run {model.key}")
    monkeypatch.setattr(stage_runs, "harvested", lambda *_: None)
    rounds = project.harvest.model_copy(update={"rounds": 3})
    splits = Stage("splits", "", "", "", {"unlabelled": 9}, 0.0)
    own = project.model_copy(update={"harvest": rounds})
    r = retrain(own, tmp_path, prepared=SimpleNamespace(splits=splits), adapted=None)
    done = mixtures.train_best_mix(r, stage(0))
    assert (done.model.key, done.run_id, done.rows.key) == (str(kept), f"run {kept}", str(kept))
    assert (done.undone or {}).get("number") == undone
    assert difference(DEV, wrong(answers[int(done.best.key)]), wrong(answers[kept]), labels=LABELS)["fell"] is False
