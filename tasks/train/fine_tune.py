"""Fine-tune an encoder for classification with Hugging Face's Trainer."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from accelerate.utils.memory import should_reduce_batch_size
from transformers import DataCollatorWithPadding, EarlyStoppingCallback, PrinterCallback, set_seed

from tasks.errors import UserError
from tasks.progress import Points
from tasks.statistics.calibration import Calibration, predict_calibrated
from tasks.statistics.metrics import f1_macro
from tasks.train.arguments import check_batch, resolve_precision, training_arguments, world_size
from tasks.train.curves import points_of
from tasks.train.kernels.tokens import RowEncoding, tokenise
from tasks.train.load import load_classifier
from tasks.train.losses import loss_function, positive_weights, row_weights
from tasks.train.optimiser import freeze
from tasks.train.resume import (
    Attempt,
    NotFinite,
    StopRequest,
    defer_sigterm,
    latest_checkpoint,
    step_of,
)
from tasks.train.task import Listeners, TrainingTask
from tasks.train.trainer import CURVES, FineTuneTrainer, Reporter, SaveSchedule


@dataclass(frozen=True)
class Trained:
    """A model in memory, and what was measured while it was trained.

    `history` are points of curves. `attempt` has the precision and the batch it was trained with.
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
        """The temperature of all labels; for label sets, the geometric mean of theirs."""
        t = self.calibration.temperature
        return t if isinstance(t, float) else math.prod(t) ** (1 / len(t))

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16."""
        return self.attempt.precision


def fine_tune(task: TrainingTask, *, work: Path, listeners: Listeners | None = None) -> Trained:
    """The encoder with a classification head, best on dev by macro-F1, calibrated on dev.

    For label sets, each evaluation on dev gives every label its best threshold, and these are calibrated
    too. Training resumes from the newest complete checkpoint in `work`. After a loss that is not finite
    it is resumed in fp32; where memory runs out, with fewer rows at a time and as many per step. Raises
    UserError when the checkpoint is no classifier, the settings do not fit, there are no rows, or no
    fallback helped.
    """
    if not task.train:
        raise UserError(
            "there is no row to train on: generate.per_label is 0 and there are no seed rows, or all "
            "rows were rejected"
        )
    settings = task.settings
    check_batch(settings)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    attempt = Attempt.load(settings, precision=resolve_precision(settings), work=work)
    with defer_sigterm() as stop:
        run = _Run(task, work, listeners or Listeners(), stop)
        while True:
            try:
                return run.attempt(attempt)
            except NotFinite as e:
                attempt = attempt.in_fp32(e, settings=settings)
            except RuntimeError as e:
                if not should_reduce_batch_size(e):
                    raise
                attempt = attempt.halved(world_size=world_size())
                if world_size() > 1:  # the others wait for this one's gradients
                    attempt.save(work)
                    raise UserError(
                        f"{attempt.notes[-1]}: run the same command again to go on with that"
                    ) from None
            attempt.save(work)
            gc.collect()  # the trainer, which the exception's traceback held


@dataclass(frozen=True, slots=True)
class _Run:
    task: TrainingTask
    work: Path
    listeners: Listeners
    stop: StopRequest

    def attempt(self, attempt: Attempt) -> Trained:
        """Train from the newest complete checkpoint to the end, and calibrate.

        Raises NotFinite, Terminated, RuntimeError.
        """
        task = self.task
        arguments = training_arguments(task.settings, work=self.work, attempt=attempt)
        set_seed(task.settings.seeds[0])
        model, tokenizer = load_classifier(task)
        freeze(model, settings=task.settings)
        trainer = self._trainer(model, tokenizer, arguments)
        with arguments.main_process_first(local=False):  # so the others meet no torn checkpoint
            checkpoint = latest_checkpoint(self.work)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        output = trainer.predict(trainer.eval_dataset)
        trainer.unpack()
        calibration = Calibration.fit(output.predictions.astype("float64"), output.label_ids)
        folded = calibration.fold(trainer.model)
        f1 = float(output.metrics["test_f1_macro"])
        if task.multi_label and not folded:  # the model answers without the fitted thresholds
            codes = (output.predictions >= 0).astype(int)
            f1 = f1_macro(output.label_ids, codes, task.label_names)
        return Trained(
            model=trainer.model,
            tokenizer=tokenizer,
            dev_f1_macro=f1,
            calibration=calibration if folded else Calibration(),
            steps=trainer.state.global_step,
            resumed_from=step_of(checkpoint) if checkpoint else 0,
            attempt=attempt,
            history=points_of(trainer.state.log_history, CURVES),
        )

    def _trainer(self, model: Any, tokenizer: Any, arguments: Any) -> FineTuneTrainer:
        task, settings, labels = self.task, self.task.settings, self.task.label_names
        positive = None
        if task.multi_label:
            positive = positive_weights(task.train, labels, settings=settings)
        weights = row_weights(task.train, settings=settings)
        encoding = RowEncoding(labels, tokenizer, settings.max_length, task.multi_label)
        with arguments.main_process_first(local=False):  # it writes the files that the others find
            train = tokenise(task.train, encoding, folder=self.work, weights=weights)
            dev = tokenise(task.dev, encoding, folder=self.work)
        trainer = FineTuneTrainer(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=dev,
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            compute_loss_func=loss_function(
                settings, positive=positive, multi_label=task.multi_label
            ),
            compute_metrics=_f1_metric(len(labels)),
        )
        trainer.settings, trainer.stop_request = settings, self.stop
        trainer.tokens_per_step = settings.tokens_per_step
        trainer.remove_callback(PrinterCallback)  # it prints to standard output
        trainer.add_callback(SaveSchedule(trainer))
        if settings.patience:
            trainer.add_callback(EarlyStoppingCallback(settings.patience, settings.min_improvement))
        if trainer.is_world_process_zero():
            trainer.add_callback(Reporter(self.listeners))
        return trainer


def _f1_metric(labels: int) -> Callable[[Any], dict[str, float]]:
    def compute(output: Any) -> dict[str, float]:
        codes = predict_calibrated(output.predictions, output.label_ids)
        return {"f1_macro": f1_macro(output.label_ids, codes, list(range(labels)))}

    return compute
