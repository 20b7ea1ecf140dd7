"""Going on after a stop: whole checkpoints, a SIGTERM that waits for one, and another try where the first one failed."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.errors import UserError
from tasks.project.train import Train

ATTEMPT = "attempt.json"


def step_of(checkpoint: Path) -> int:
    """The step at which it was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def checkpoints(work: Path) -> list[Path]:
    """The folders of checkpoints, whole or torn, the newest first."""
    return sorted(work.glob("checkpoint-*"), key=step_of, reverse=True)


def latest_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint whose files match their manifest, and those of the best one that it names; torn ones are
    removed."""
    for path in checkpoints(work):
        try:
            atomic.verify(path)
            best = atomic.read_json(path / "trainer_state.json")["best_model_checkpoint"]
            atomic.verify(work / Path(best or path).name)  # training ends with its weights
            return path
        except atomic.CorruptDirectory:
            shutil.rmtree(path)
    return None


def seal_and_rotate(newest: Path, *, best: str | None, keep: int) -> None:
    """Write the manifest of `newest`; only then remove all but the `keep` newest checkpoints and the best one.

    Trainer itself writes `checkpoint-N` in place, and a kill leaves a torn one that it would resume from.
    """
    atomic.seal(newest)
    kept = {p.name for p in checkpoints(newest.parent)[:keep]} | {
        newest.name,
        Path(best or newest).name,
    }
    for old in checkpoints(newest.parent):
        if old.name not in kept:
            shutil.rmtree(old)


class NotFinite(RuntimeError):
    """The loss, or a weight, is no longer a number."""


class Terminated(RuntimeError):
    """SIGTERM came, and what was learned is in a checkpoint."""


def check_finite(model: Any, *, step: int) -> None:
    """Raises NotFinite when a weight is no number."""
    import torch

    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise NotFinite(f"a weight was not a number at step {step}")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether fewer rows at a time would help."""
    from accelerate.utils.memory import should_reduce_batch_size

    return bool(should_reduce_batch_size(error))


@dataclass
class Asked:
    """Whether a SIGTERM came."""

    to_stop: bool = False


@contextlib.contextmanager
def sigterm_noted() -> Iterator[Asked]:
    """SIGTERM is noted for the training to stop at its next step; a second one does what it did before.

    On leaving, the signal is sent again to the handler before, so the process ends as it would have. Signals reach only the
    main thread: elsewhere nothing is noted, and the last checkpoint is what there is.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGTERM)

    def note(*_: Any) -> None:
        asked.to_stop = True
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
        if asked.to_stop:
            signal.raise_signal(signal.SIGTERM)


@dataclass(frozen=True)
class Attempt:
    """How the training is tried: numbers and rows at once. Kept in the work folder, so that a restart does not fail anew.

    `notes` say what was changed and why, one sentence each.
    """

    precision: str
    batch_size: int
    eval_batch_size: int
    accumulation: int
    notes: tuple[str, ...] = ()

    @classmethod
    def first(cls, settings: Train, *, precision: str, work: Path) -> Attempt:
        """As the settings say, or as an earlier process in `work` left it."""
        if (work / ATTEMPT).exists():
            left = atomic.read_json(work / ATTEMPT)
            return cls(**{**left, "notes": tuple(left["notes"])})
        eval_rows = settings.eval_batch_size or 2 * settings.batch_size
        return cls(precision, settings.batch_size, eval_rows, settings.gradient_accumulation_steps)

    def keep(self, work: Path) -> None:
        atomic.write_json(work / ATTEMPT, dataclasses.asdict(self))

    def in_fp32(self, why: NotFinite, *, settings: Train) -> Attempt:
        """The same in fp32. Raises UserError where it is that already."""
        if self.precision == "fp32":
            raise UserError(
                f"training failed: {why} in fp32; lower train.learning_rate (it is {settings.learning_rate:g}), raise "
                f"train.warmup (it is {settings.warmup:g}), or set train.max_grad_norm to 1 (it is {settings.max_grad_norm:g})"
            ) from None
        note = f"{why} in {self.precision}: went back to the last checkpoint and on in fp32"
        return dataclasses.replace(self, precision="fp32", notes=(*self.notes, note))

    def halved(self, *, processes: int) -> Attempt:
        """Half the rows at once, or less where that does not divide, and as many more forward passes a step: the same rows
        a step. Raises UserError where there is one row a process already."""
        rows, step = self.batch_size // processes, self.batch_size * self.accumulation // processes
        if rows == 1:
            raise UserError(
                "training ran out of memory with one row at a time: lower train.max_length, set "
                "train.gradient_checkpointing to true, freeze layers, or take a smaller train.model"
            ) from None
        fewer = max(n for n in range(1, rows // 2 + 1) if step % n == 0)
        note = (
            f"out of memory with {rows} rows at a time: went on with {fewer}, and {step // fewer} forward passes a step "
            f"in place of {self.accumulation}"
        )
        return dataclasses.replace(
            self,
            batch_size=fewer * processes,
            eval_batch_size=max(processes, self.eval_batch_size * fewer // rows),
            accumulation=step // fewer,
            notes=(*self.notes, note),
        )
