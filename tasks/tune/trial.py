"""One trial of a search: train with these settings and say what dev makes of it; and what there is to search."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from tasks import atomic
from tasks.atomic import digest_of
from tasks.dataset.split import SplitsResult
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import resolve_encoder
from tasks.errors import UserError
from tasks.progress import Progress, silent
from tasks.project import Project, Train
from tasks.records import NO_LABEL, Label, Record, count_by_label, read_records
from tasks.references import digest_of_path
from tasks.stage import Metrics, StageResult, run_stage
from tasks.statistics import stratified_split
from tasks.train.adaptation.adapt import AdaptResult
from tasks.workspace import Workspace

VERSION = 2

# keep_going(epoch, dev F1 so far, share of the trial that is done): asked at each look at dev; False ends the trial
KeepGoing = Callable[[int, float, float], bool]


class Pruned(Exception):
    """A trial that was ended because it was not worth going on with."""


class TrialResult(StageResult):
    """Macro-F1 on dev of one trial (the mean over its folds, which are `folds`), and its optimiser steps."""

    dev_f1_macro: float
    folds: list[float]
    steps: int
    resumed_from: int

    def metrics(self) -> Metrics:
        return {"dev.f1_macro": self.dev_f1_macro, "train.steps": float(self.steps)}


def with_settings(train: Train, settings: dict[str, Any]) -> Train:
    """`train` with these settings, checked. Raises UserError where they don't go together."""
    try:
        return Train.model_validate({**train.model_dump(), **settings})
    except ValueError as e:
        raise UserError(
            f"these settings of train don't go together: {settings}: {' '.join(str(e).split())}"
        ) from None


def question(
    project: Project, *, rows: TrainingRows, splits: SplitsResult, encoder: str
) -> dict[str, Any]:
    """What a search is about: two searches with the same answer here are one, and share their trials."""
    keys = set(project.tune.space.values())
    return {
        "version": VERSION,
        "project": project.name,
        "labels": project.labels,
        "space": project.tune.space.model_dump(mode="json"),
        "folds": project.tune.folds,
        "train": project.train.model_dump(mode="json", exclude={"model", "seeds", *keys}),
        "seed": project.train.seeds[0],
        "inputs": {"rows": rows.digest, "splits": splits.digest, "encoder": encoder},
    }


def encoder_of(project: Project, adapted: AdaptResult | None, *, workspace: Workspace) -> Path:
    """The directory that is fine-tuned. An adapted encoder stands in for the project's own, not for one that is tried."""
    if adapted is not None and "model" not in project.tune.space.others:
        return adapted.encoder
    return resolve_encoder(project, workspace)


def run_trial(
    project: Project,
    settings: dict[str, Any],
    *,
    rows: TrainingRows,
    splits: SplitsResult,
    adapted: AdaptResult | None,
    keep_going: KeepGoing,
    workspace: Workspace,
    progress: Progress = silent,
) -> TrialResult:
    """`history.json`, and the count `dev_f1_macro`, of training with these settings. Raises Pruned where `keep_going` ended it.

    The first of `train.seeds` is used, and no model is kept. With `tune.folds` the figure is the mean over the folds. A
    killed trial that is tried again with the same settings goes on from its last whole checkpoint; a pruned or failed one
    leaves nothing. The test set is not read. Raises what the training raises.
    """
    train = with_settings(project.train, settings).model_copy(
        update={"seeds": project.train.seeds[:1]}
    )
    tried = project.model_copy(update={"train": train})
    encoder = encoder_of(tried, adapted, workspace=workspace)
    scratch: list[Path] = []

    def build(out: Path, work: Path) -> TrialResult:
        scratch.append(work)
        return _train_folds(
            tried, encoder, rows, splits, out, work, keep_going=keep_going, progress=progress
        )

    params = train.model_dump(mode="json", exclude={"model"}) | {
        "labels": project.labels,
        "folds": project.tune.folds,
    }
    inputs = {"rows": rows.digest, "splits": splits.digest, "encoder": digest_of_path(encoder)}
    with turn(workspace.lock(f"trial-{digest_of([params, inputs])[:32]}")):
        try:
            return run_stage(
                TrialResult,
                "trial",
                workspace=workspace,
                version=VERSION,
                params=params,
                inputs=inputs,
                build=build,
            )
        except Exception:
            for work in scratch:
                shutil.rmtree(work, ignore_errors=True)
            raise


@contextlib.contextmanager
def turn(lock: Path) -> Iterator[None]:
    """Hold the lock for the body, after waiting for whoever has it: then what they made is found."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _train_folds(
    project: Project,
    encoder: Path,
    rows: TrainingRows,
    splits: SplitsResult,
    out: Path,
    work: Path,
    *,
    keep_going: KeepGoing,
    progress: Progress,
) -> TrialResult:
    from tasks.train.fine_tune import fine_tune

    parts = split_folds(rows.read(), project.tune.folds)
    dev = read_records(splits.directory / "dev.jsonl")
    scores: list[float] = []
    history: list[tuple[int, str, float]] = []
    steps = resumed = 0
    share = 0.0  # of the fold, by steps: epochs are not the measure where max_steps is, nor looks between them

    def noted(done: int, total: int, note: str) -> None:
        nonlocal share
        share = done / total
        progress(done, total, note)

    for number, (own, held) in enumerate(parts):

        def after(epoch: int, f1: float, number: int = number) -> None:
            whole = (number + share) / len(parts)
            worth_it = keep_going(number * project.train.epochs + epoch, mean([*scores, f1]), whole)
            if not worth_it and whole < 1:  # at the end there is nothing to save
                raise Pruned

        trained = fine_tune(
            own,
            [*dev, *held],
            labels=project.label_names,
            settings=project.train,
            encoder=encoder,
            work=work / f"fold-{number}",
            progress=noted,
            on_epoch=after,
            multi_label=project.multi_label,
        )
        scores.append(trained.dev_f1_macro)
        history += [(steps + step, name, value) for step, name, value in trained.history]
        steps, resumed = steps + trained.steps, resumed + trained.resumed_from
    atomic.write_json(out / "history.json", history)
    return TrialResult(dev_f1_macro=mean(scores), folds=scores, steps=steps, resumed_from=resumed)


def split_folds(rows: list[Record], n: int) -> list[tuple[list[Record], list[Record]]]:
    """(trained on, held out) for each of `n` folds: every real row is held out once, the labels evenly dealt; made-up rows
    are always trained on. One part that holds nothing out where `n` is 0. Raises UserError with fewer than `n` real rows a label.
    """
    if not n:
        return [(rows, [])]
    real = sorted((r for r in rows if r.is_real), key=lambda r: r.id)
    counts = count_by_label(real)
    fewest = min(
        (counts.get(label, 0) for label in count_by_label(rows) if label != NO_LABEL), default=0
    )
    if fewest < n:
        raise UserError(
            f"tune.folds is {n}, but a label has only {fewest} real training rows: give more (data.split.train), or set "
            f"tune.folds to {fewest if fewest > 1 else 0}"
        )
    if any(isinstance(r.label, tuple) for r in real):
        fold_of = {
            r.id: fold for r, fold in zip(real, stratified_split.assign_folds(real, n), strict=True)
        }
    else:
        by_label: dict[Label | None, list[Record]] = defaultdict(list)
        for r in real:
            by_label[r.label].append(r)
        fold_of = {r.id: i % n for own in by_label.values() for i, r in enumerate(own)}
    return [
        ([r for r in rows if fold_of.get(r.id) != i], [r for r in rows if fold_of.get(r.id) == i])
        for i in range(n)
    ]


def fragment(settings: dict[str, Any], said: list[str]) -> str:
    """A piece of a project file: these settings of `train`, under comments."""
    return "".join(f"# {line}\n" for line in said) + yaml.safe_dump(
        {"train": settings}, sort_keys=False
    )


def as_override(settings: dict[str, Any]) -> list[str]:
    """The settings as `train.key=value`, for `--set`."""
    return [
        f"train.{k}={yaml.safe_dump(v, default_flow_style=True).splitlines()[0]}"
        for k, v in settings.items()
    ]
