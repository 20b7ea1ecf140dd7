"""Resuming: whole checkpoints, a SIGTERM that waits for one, and another attempt after a failure."""

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

import torch

from tasks import atomic
from tasks.errors import UserError
from tasks.project.train import Train

ATTEMPT = "attempt.json"


def step_of(checkpoint: Path) -> int:
    """The step at which it was written."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def list_checkpoints(work: Path) -> list[Path]:
    """The folders of checkpoints, complete or torn, the newest first."""
    return sorted(work.glob("checkpoint-*"), key=step_of, reverse=True)


def latest_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint that matches its manifest, as does the best one, which it names.

    Torn ones are removed.
    """
    for path in list_checkpoints(work):
        try:
            atomic.verify(path)
            best = atomic.read_json(path / "trainer_state.json")["best_model_checkpoint"]
            atomic.verify(work / Path(best or path).name)  # training ends with its weights
            return path
        except atomic.CorruptDirectory:
            shutil.rmtree(path)
    return None


def seal_and_rotate(newest: Path, *, best: str | None, keep: int) -> None:
    """Write the manifest of `newest`; then remove all but the `keep` newest checkpoints and the best.

    Trainer writes `checkpoint-N` in place: a kill leaves a torn one, which it would resume from.
    """
    atomic.seal(newest)
    kept = {p.name for p in list_checkpoints(newest.parent)[:keep]}
    kept |= {newest.name, Path(best or newest).name}
    for path in list_checkpoints(newest.parent):
        if path.name not in kept:
            shutil.rmtree(path)


class NotFinite(RuntimeError):
    """The loss or a weight is NaN or infinite."""


class Terminated(RuntimeError):
    """The training was stopped by SIGTERM, after writing a checkpoint."""


def check_finite(model: Any, *, step: int) -> None:
    """Raises NotFinite when a weight is NaN or infinite."""
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise NotFinite(f"a weight was not a number at step {step}")


@dataclass
class StopRequest:
    """Whether a SIGTERM was received."""

    received: bool = False


@contextlib.contextmanager
def defer_sigterm() -> Iterator[StopRequest]:
    """Note SIGTERM, so that the training stops at its next step; a second one has its usual effect.

    On leaving, the signal is sent again, so the process ends as it would have. Only the main thread
    receives signals: elsewhere nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handler = signal.getsignal(signal.SIGTERM)

    def note(*_: Any) -> None:
        request.received = True
        signal.signal(signal.SIGTERM, handler)

    signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, handler)
        if request.received:
            signal.raise_signal(signal.SIGTERM)


@dataclass(frozen=True)
class Attempt:
    """The precision and the batch of an attempt; `notes` has a sentence for each fallback, with the reason.

    It is saved in the work folder, so that a restart does not fail again.
    """

    precision: str
    batch_size: int
    eval_batch_size: int
    accumulation: int
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, settings: Train, *, precision: str, work: Path) -> Attempt:
        """The attempt that is saved in `work`; otherwise as in the settings."""
        if (work / ATTEMPT).exists():
            saved = atomic.read_json(work / ATTEMPT)
            return cls(**{**saved, "notes": tuple(saved["notes"])})
        eval_rows = settings.eval_batch_size or 2 * settings.batch_size
        return cls(precision, settings.batch_size, eval_rows, settings.gradient_accumulation_steps)

    def save(self, work: Path) -> None:
        """Write it into `work`."""
        atomic.write_json(work / ATTEMPT, dataclasses.asdict(self))

    def in_fp32(self, error: NotFinite, *, settings: Train) -> Attempt:
        """The same in fp32. Raises UserError where it was fp32."""
        if self.precision == "fp32":
            raise UserError(
                f"training failed: {error} in fp32; lower train.learning_rate (it is "
                f"{settings.learning_rate:g}), raise train.warmup (it is {settings.warmup:g}), or set "
                f"train.max_grad_norm to 1 (it is {settings.max_grad_norm:g})"
            ) from None
        note = f"{error} in {self.precision}: resumed from the last checkpoint in fp32"
        return dataclasses.replace(self, precision="fp32", notes=(*self.notes, note))

    def halved(self, *, world_size: int) -> Attempt:
        """Half the rows at a time, or fewer, with as many rows per step.

        Raises UserError where each process has one row already.
        """
        rows = self.batch_size // world_size
        step = self.batch_size * self.accumulation // world_size
        if rows == 1:
            raise UserError(
                "training ran out of memory with one row at a time: lower train.max_length, set "
                "train.gradient_checkpointing to true, freeze layers, or use a smaller train.model"
            ) from None
        fewer = max(n for n in range(1, rows // 2 + 1) if step % n == 0)
        note = (
            f"out of memory with {rows} rows at a time: continued with {fewer}, and {step // fewer} "
            f"forward passes per step instead of {self.accumulation}"
        )
        return dataclasses.replace(
            self,
            batch_size=fewer * world_size,
            eval_batch_size=max(world_size, self.eval_batch_size * fewer // rows),
            accumulation=step // fewer,
            notes=(*self.notes, note),
        )
