"""Small trainings: the toy task's rows, quick settings, and helpers to stop one and to compare two."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tasks import atomic
from tasks.project import Train
from tasks.records import Record, Source
from tasks.train.fine_tune import Trained, fine_tune
from tasks.train.task import TrainingTask
from tests.kit import toy

BATCHES = 6  # an epoch of the rows below

Tune = Callable[..., Trained]


def rows(words: dict[str, list[str]], n: int, source: Source, seed: int = 0) -> list[Record]:
    rng = random.Random(seed)
    return [
        Record.create(toy.sentence(words[k], rng), k, source) for k in toy.LABELS for _ in range(n)
    ]


TRAIN, DEV = rows(toy.WRITTEN, 16, "synthetic"), rows(toy.REAL, 6, "dev", seed=1)


def chosen(**changes: Any) -> Train:
    quick = {
        "epochs": 3,
        "learning_rate": 3e-3,
        "max_length": 32,
        "batch_size": 8,
        "patience": 3,
        "precision": "fp32",
    }
    return Train(model="tiny", **{**quick, **changes})


def tuner(folder: Path, encoder: Path) -> Tune:
    """Trains in a folder of this name: `tune("work", epochs=1)`."""

    def run(
        work: str = "work", train: list[Record] = TRAIN, dev: list[Record] = DEV, **changes: Any
    ) -> Trained:
        checkpoint = changes.pop("encoder", encoder)
        task = TrainingTask(train, dev, toy.LABELS, chosen(**changes), checkpoint)
        return fine_tune(task, work=folder / work)

    return run


def weights(trained: Trained) -> dict[str, Any]:
    return dict(trained.model.state_dict())


def same(a: Trained, b: Trained) -> bool:
    """Every weight is the same, bit for bit."""
    import torch

    return weights(a).keys() == weights(b).keys() and all(
        torch.equal(v, weights(b)[k]) for k, v in weights(a).items()
    )


class Stopped(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, checkpoints: int, *, sealed: bool = True) -> None:
    """Stop after the n-th checkpoint is sealed, or when it has all its files but no manifest."""
    real, directories = atomic.seal, []

    def seal(directory: Path, about: dict[str, Any] | None = None) -> str:
        directories.append(directory)
        if len(directories) == checkpoints and not sealed:
            raise Stopped
        digest = real(directory, about)
        if len(directories) == checkpoints:
            raise Stopped
        return digest

    monkeypatch.setattr(atomic, "seal", seal)


def write_data(folder: Path, train: Iterable[Record] = TRAIN, dev: Iterable[Record] = DEV) -> Path:
    """train.jsonl and dev.jsonl, as `python -m tasks.train` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("train", train), ("dev", dev)):
        lines = [json.dumps({"text": r.text, "label": r.label}) + "\n" for r in records]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder
