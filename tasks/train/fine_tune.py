"""Fine-tune an encoder for classification with Hugging Face's Trainer; checkpoints are whole or they don't count."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.progress import Points, Progress, silent
from tasks.project.train import Train
from tasks.records import Record
from tasks.statistics.calibration import Calibration, predict_calibrated
from tasks.statistics.metrics import f1_macro
from tasks.train.arguments import check_batch, precision_of, processes, training_arguments
from tasks.train.data import RecordFile, tokenised
from tasks.train.kernels.batches import batched
from tasks.train.load import load_classifier
from tasks.train.losses import loss_of, positive_weights, row_weights
from tasks.train.optimiser import freeze
from tasks.train.resume import (
    Asked,
    Attempt,
    NotFinite,
    latest_checkpoint,
    out_of_memory,
    sigterm_noted,
    step_of,
)
from tasks.train.trainer import reporting, saving, trainer_class


@dataclass(frozen=True)
class Trained:
    """A model in memory with what its training measured. `history` is (step, name, value) in order.

    `attempt` says in what precision and with how many rows at once it was trained, and what was changed on the way.
    """

    model: Any
    tokenizer: Any
    dev_f1_macro: float
    calibration: Calibration
    steps: int
    resumed_from: int
    attempt: Attempt
    history: Points

    @property
    def temperature(self) -> float:
        """The one of all labels; of label sets, the geometric mean of theirs."""
        t = self.calibration.temperature
        return t if isinstance(t, float) else math.prod(t) ** (1 / len(t))

    @property
    def precision(self) -> str:
        return self.attempt.precision


@dataclass(frozen=True)
class _Task:
    """What every attempt is given."""

    train: list[Record] | RecordFile
    dev: list[Record] | RecordFile
    labels: list[str]
    settings: Train
    encoder: Path
    work: Path
    progress: Progress
    on_epoch: Callable[[int, float], None] | None
    on_points: Callable[[Points], None] | None
    multi_label: bool


def fine_tune(
    train: list[Record] | RecordFile,
    dev: list[Record] | RecordFile,
    *,
    labels: list[str],
    settings: Train,
    encoder: Path,
    work: Path,
    progress: Progress = silent,
    on_epoch: Callable[[int, float], None] | None = None,
    on_points: Callable[[Points], None] | None = None,
    multi_label: bool = False,
) -> Trained:
    """The encoder in `encoder` with a classification head over `labels`, best on dev by macro-F1, calibrated on dev.

    With `multi_label` the records have label sets, every look at dev gives each label its best threshold, and these are
    calibrated too.

    Resumes from the newest whole checkpoint in `work`. A loss that is no number is tried once more from there in fp32;
    where memory runs out, fewer rows are taken at a time and as many a step. Raises UserError when the checkpoint can't
    classify, the settings don't fit, there are no rows to train on, or nothing of that helped.
    `on_epoch(epoch, dev F1)` may end it by raising. `on_points` is told nothing when the training begins, and then the points
    of `history` as they come; those that follow a checkpoint are told again by who goes on from it.
    """
    import transformers

    if not train:
        raise UserError(
            "there is no row to train on: generate.per_label is 0 and there are no seed rows, or all were set aside"
        )
    check_batch(settings)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    task = _Task(
        train, dev, labels, settings, encoder, work, progress, on_epoch, on_points, multi_label
    )
    attempt = Attempt.first(settings, precision=precision_of(settings), work=work)
    with sigterm_noted() as asked:
        while True:
            try:
                return _attempt(task, attempt, asked)
            except NotFinite as e:
                attempt = attempt.in_fp32(e, settings=settings)
            except RuntimeError as e:
                if not out_of_memory(e):
                    raise
                attempt = attempt.halved(processes=processes())
                attempt.keep(work)
                if (
                    processes() > 1
                ):  # the others wait for this one's gradients: only a restart helps
                    raise UserError(
                        f"{attempt.notes[-1]}, once the same command is given again"
                    ) from None
            attempt.keep(work)
            gc.collect()  # the trainer, out of the exception's traceback


def _attempt(task: _Task, attempt: Attempt, asked: Asked) -> Trained:
    """Train from the newest whole checkpoint to the end, and calibrate. Raises NotFinite, Terminated, RuntimeError."""
    from transformers import set_seed

    settings = task.settings
    arguments = training_arguments(settings, work=task.work, attempt=attempt)
    set_seed(settings.seeds[0])
    model, tokenizer = load_classifier(
        task.encoder, task.labels, settings=settings, multi_label=task.multi_label
    )
    freeze(model, settings=settings)
    trainer = _trainer(task, model, tokenizer, arguments)
    trainer.asked = asked
    with arguments.main_process_first(local=False):  # the others then see no torn checkpoint
        checkpoint = latest_checkpoint(task.work)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    outcome = trainer.predict(trainer.eval_dataset)
    trainer.unpack()
    fitted = Calibration.fit(outcome.predictions.astype("float64"), outcome.label_ids)
    folded = fitted.fold(trainer.model)
    f1 = float(outcome.metrics["test_f1_macro"])
    if task.multi_label and not folded:  # the thresholds of the looks at dev are not the model's
        f1 = f1_macro(outcome.label_ids, (outcome.predictions >= 0).astype(int), task.labels)
    return Trained(
        model=trainer.model,
        tokenizer=tokenizer,
        dev_f1_macro=f1,
        calibration=fitted if folded else Calibration(),
        steps=trainer.state.global_step,
        resumed_from=step_of(checkpoint) if checkpoint else 0,
        attempt=attempt,
        history=_history(trainer.state.log_history),
    )


def _trainer(task: _Task, model: Any, tokenizer: Any, arguments: Any) -> Any:
    import transformers
    from transformers import DataCollatorWithPadding, EarlyStoppingCallback

    settings = task.settings
    how: dict[str, Any] = {
        "labels": task.labels,
        "tokenizer": tokenizer,
        "max_length": settings.max_length,
        "work": task.work,
        "multi_label": task.multi_label,
    }
    positive = (
        positive_weights(task.train, task.labels, settings=settings) if task.multi_label else None
    )
    weights = row_weights(task.train, settings=settings)
    with arguments.main_process_first(local=False):  # it writes, the others find
        train, dev = tokenised(task.train, weights=weights, **how), tokenised(task.dev, **how)
    trainer = batched(trainer_class())(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_loss_func=loss_of(settings, positive=positive, multi_label=task.multi_label),
        compute_metrics=_f1(len(task.labels)),
    )
    trainer.settings = settings
    trainer.tokens_per_step = settings.tokens_per_step
    trainer.remove_callback(transformers.PrinterCallback)  # it prints to standard output
    trainer.add_callback(saving(trainer))
    if settings.patience:
        trainer.add_callback(EarlyStoppingCallback(settings.patience, settings.min_improvement))
    if trainer.is_world_process_zero():
        trainer.add_callback(reporting(task.progress, task.on_epoch))
        if task.on_points:
            trainer.add_callback(_telling(task.on_points))
    return trainer


def _telling(on_points: Callable[[Points], None]) -> Any:
    from transformers import TrainerCallback

    class Telling(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_points([])

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_points(_history(state.log_history[-1:]))

    return Telling()


_METRICS = {
    "loss": "train.loss",
    "learning_rate": "train.learning_rate",
    "grad_norm": "train.grad_norm",
    "eval_loss": "dev.loss",
    "eval_f1_macro": "dev.f1_macro",
}


def _history(log: list[dict[str, float]]) -> Points:
    past = sorted((int(h["step"]), k, float(v)) for h in log for k, v in h.items() if k in _METRICS)
    return [(step, _METRICS[k], v) for step, k, v in past if v == v and abs(v) != float("inf")]


def _f1(labels: int) -> Any:
    def compute(outcome: Any) -> dict[str, float]:
        said = predict_calibrated(outcome.predictions, outcome.label_ids)
        return {"f1_macro": f1_macro(outcome.label_ids, said, list(range(labels)))}

    return compute
