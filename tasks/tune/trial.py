"""One trial of a search: train with some settings and score the result on dev."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from tasks import atomic
from tasks.atomic import digest_of
from tasks.dataset.split import SplitsResult
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import resolve_encoder
from tasks.errors import UserError, one_line
from tasks.progress import Points, Progress, silent
from tasks.project import Project, Train
from tasks.records import NO_LABEL, Label, Record, count_by_label, read_records
from tasks.references import digest_of_path
from tasks.stage import Metrics, StageResult, run_stage
from tasks.statistics import stratified_split
from tasks.train.adaptation.adapt import AdaptResult
from tasks.train.task import Listeners, TrainingTask
from tasks.workspace import Workspace

VERSION = 2

# keep_going(epoch, dev F1, share of the trial that is done), called after each evaluation on dev; False
# ends the trial
KeepGoing = Callable[[int, float, float], bool]


class Pruned(Exception):
    """A trial that `keep_going` ended."""


class TrialResult(StageResult):
    """Macro-F1 on dev of one trial (the mean over its folds, which are `folds`), and its steps."""

    dev_f1_macro: float
    folds: list[float]
    steps: int
    resumed_from: int

    def metrics(self) -> Metrics:
        """Dev F1 and steps."""
        return {"dev.f1_macro": self.dev_f1_macro, "train.steps": float(self.steps)}


@dataclass(frozen=True, slots=True)
class TrialData:
    """What every trial of a search is trained on, and the adapted encoder, if any."""

    rows: TrainingRows
    splits: SplitsResult
    adapted: AdaptResult | None = None

    def encoder(self, project: Project, *, workspace: Workspace) -> Path:
        """The checkpoint that is fine-tuned: the adapted one, unless the search tries several."""
        if self.adapted is not None and "model" not in project.tune.space.others:
            return self.adapted.encoder
        return resolve_encoder(project, workspace)

    def digests(self, encoder: Path) -> dict[str, str]:
        """The digests of everything that a trial reads."""
        rows, splits = self.rows.digest, self.splits.digest
        return {"rows": rows, "splits": splits, "encoder": digest_of_path(encoder)}


def with_settings(train: Train, settings: Mapping[str, object]) -> Train:
    """`train` with these settings. Raises UserError where they contradict each other."""
    try:
        return Train.model_validate({**train.model_dump(), **settings})
    except ValueError as e:
        raise UserError(
            f"these settings of train contradict each other: {settings}: {one_line(e)}"
        ) from None


def study_question(project: Project, data: TrialData, *, workspace: Workspace) -> dict[str, Any]:
    """What a search is about: searches with the same question share their trials."""
    searched = set(project.tune.space.values())
    return {
        "version": VERSION,
        "project": project.name,
        "labels": project.labels,
        "space": project.tune.space.model_dump(mode="json"),
        "folds": project.tune.folds,
        "train": project.train.model_dump(mode="json", exclude={"model", "seeds", *searched}),
        "seed": project.train.seeds[0],
        "inputs": data.digests(data.encoder(project, workspace=workspace)),
    }


def run_trial(
    project: Project,
    settings: Mapping[str, object],
    data: TrialData,
    *,
    keep_going: KeepGoing,
    workspace: Workspace,
    progress: Progress = silent,
) -> TrialResult:
    """The score of a training with these settings, and its curves in `history.json`; no model is kept.

    The first of `train.seeds` is used. With `tune.folds` the score is the mean over the folds. A killed
    trial resumes from its last complete checkpoint when it is run again with the same settings; a pruned
    or failed one leaves nothing. The test set is not read. Raises Pruned where `keep_going` ended the
    trial, and what the training raises.
    """
    train = with_settings(project.train, settings)
    train = train.model_copy(update={"seeds": project.train.seeds[:1]})
    project = project.model_copy(update={"train": train})
    encoder = data.encoder(project, workspace=workspace)
    scratch_directories: list[Path] = []

    def build(out: Path, scratch: Path) -> TrialResult:
        scratch_directories.append(scratch)
        tasks = _fold_tasks(project, data, encoder)
        return _FoldTraining(tasks, keep_going, progress).run(out, scratch)

    params = train.model_dump(mode="json", exclude={"model"})
    params |= {"labels": project.labels, "folds": project.tune.folds}
    inputs = data.digests(encoder)
    with wait_for_lock(workspace.lock(f"trial-{digest_of([params, inputs])[:32]}")):
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
            for scratch in scratch_directories:
                shutil.rmtree(scratch, ignore_errors=True)
            raise


@contextlib.contextmanager
def wait_for_lock(lock: Path) -> Iterator[None]:
    """Hold the lock for the body, after waiting for its holder: what the holder made is then found."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


@dataclass
class _FoldTraining:
    """One training per fold; `share` is the part of the current fold's steps that is done.

    Epochs do not measure it where `max_steps` decides, or between evaluations within an epoch.
    """

    tasks: list[TrainingTask]
    keep_going: KeepGoing
    progress: Progress
    scores: list[float] = field(default_factory=list)
    share: float = 0.0

    def run(self, out: Path, work: Path) -> TrialResult:
        """Train all folds; write their curves, one after the other."""
        from tasks.train.fine_tune import fine_tune

        listeners = Listeners(self._on_progress, self._on_evaluation)
        history: Points = []
        steps = resumed_from = 0
        for number, task in enumerate(self.tasks):
            trained = fine_tune(task, work=work / f"fold-{number}", listeners=listeners)
            self.scores.append(trained.dev_f1_macro)
            history += [(steps + step, name, value) for step, name, value in trained.history]
            steps, resumed_from = steps + trained.steps, resumed_from + trained.resumed_from
        atomic.write_json(out / "history.json", history)
        return TrialResult(
            dev_f1_macro=mean(self.scores),
            folds=self.scores,
            steps=steps,
            resumed_from=resumed_from,
        )

    def _on_progress(self, done: int, total: int, note: str) -> None:
        self.share = done / total
        self.progress(done, total, note)

    def _on_evaluation(self, epoch: int, f1: float) -> None:
        fold = len(self.scores)
        share = (fold + self.share) / len(self.tasks)
        epochs = fold * self.tasks[fold].settings.epochs + epoch
        keep_going = self.keep_going(epochs, mean([*self.scores, f1]), share)
        if not keep_going and share < 1:  # at the end nothing is saved by pruning
            raise Pruned


def _fold_tasks(project: Project, data: TrialData, encoder: Path) -> list[TrainingTask]:
    dev = read_records(data.splits.directory / "dev.jsonl")
    folds = split_folds(data.rows.read(), project.tune.folds)
    return [TrainingTask.of(project, encoder, rows, [*dev, *held_out]) for rows, held_out in folds]


def split_folds(rows: list[Record], n: int) -> list[tuple[list[Record], list[Record]]]:
    """(rows to train on, rows held out) of each of `n` folds; with `n` = 0 one that holds nothing out.

    Every real row is held out once, each label evenly over the folds; synthetic rows never. Raises
    UserError with fewer than `n` real rows per label.
    """
    if not n:
        return [(rows, [])]
    real = sorted((r for r in rows if r.is_real), key=lambda r: r.id)
    counts = count_by_label(real)
    labels = count_by_label(rows).keys() - {NO_LABEL}
    fewest = min((counts.get(label, 0) for label in labels), default=0)
    if fewest < n:
        raise UserError(
            f"tune.folds is {n}, but a label has only {fewest} real training rows: give more "
            f"(data.split.train), or set tune.folds to {fewest if fewest > 1 else 0}"
        )
    fold_of = _assign_folds(real, n)
    return [
        ([r for r in rows if fold_of.get(r.id) != i], [r for r in rows if fold_of.get(r.id) == i])
        for i in range(n)
    ]


def _assign_folds(rows: list[Record], n: int) -> dict[str, int]:
    """The fold of each row, by id."""
    if any(isinstance(r.label, tuple) for r in rows):
        folds = stratified_split.assign_folds(rows, n)
        return {r.id: fold for r, fold in zip(rows, folds, strict=True)}
    by_label: dict[Label | None, list[Record]] = defaultdict(list)
    for r in rows:
        by_label[r.label].append(r)
    return {r.id: i % n for same_label in by_label.values() for i, r in enumerate(same_label)}
