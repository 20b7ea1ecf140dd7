"""Hugging Face's Trainer with our loss, layer-wise learning rates, and checkpoints that are complete."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tasks import atomic
from tasks.project.train import Train
from tasks.train.curves import points_of
from tasks.train.kernels.batches import BatchedTrainer
from tasks.train.optimiser import parameter_groups
from tasks.train.resume import (
    NotFinite,
    StopRequest,
    Terminated,
    check_finite,
    seal_and_rotate,
)
from tasks.train.task import Listeners

CURVES = {
    "loss": "train.loss",
    "learning_rate": "train.learning_rate",
    "grad_norm": "train.grad_norm",
    "eval_loss": "dev.loss",
    "eval_f1_macro": "dev.f1_macro",
}


class WeightedTrainer(BatchedTrainer):
    """Takes steps: the loss of weighted rows, layer-wise learning rates, an error where it is not finite.

    `settings` and `stop_request` are set after construction. `compute_loss_func` is one of losses.py.
    """

    settings: Train
    optimizer: Any
    stop_request = StopRequest()
    _not_finite: Any = None

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "weight" not in self._signature_columns:
            self._signature_columns.append("weight")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum over these rows divided by the rows of the step, however the step is divided."""
        labels, weights = inputs.pop("labels"), inputs.pop("weight", None)
        outputs = model(**inputs)
        losses = self.compute_loss_func(outputs.logits, labels, weights)
        processes = self.accelerator.num_processes
        if num_items_in_batch is None:
            rows = len(losses) * processes
        else:  # transformers counts each label of a row with label sets
            rows = num_items_in_batch / (labels.shape[1] if labels.ndim == 2 else 1)
        loss = losses.sum() / rows * processes  # gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Trainer's, noting losses that are not finite."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        bad = ~torch.isfinite(loss)  # stays on the device until the step ends
        self._not_finite = bad if self._not_finite is None else self._not_finite | bad
        return loss

    def create_optimizer(self, model: Any = None) -> Any:
        """Trainer's, with a learning rate per layer where `layer_decay` is below 1."""
        if self.optimizer is None and self.settings.layer_decay < 1:
            target = self.model if model is None else model
            optimiser_class, options = self.get_optimizer_cls_and_kwargs(self.args, target)
            decayed = set(self.get_decay_parameter_names(target))
            groups = parameter_groups(target, decayed=decayed, settings=self.settings)
            self.optimizer = optimiser_class(groups, **options)
        return super().create_optimizer(model)

    def should_stop(self) -> bool:
        """True when any process was asked to stop.

        Raises NotFinite, in all processes, when a loss was not finite in any.
        """
        on_cpu, alone = self.args.device.type == "cpu", self.args.world_size == 1
        step, requested = self.state.global_step, self.stop_request.received
        if not (on_cpu or reads_device(step, self.control) or (alone and requested)):
            return False
        bad = self._not_finite
        bad = torch.zeros((), device=self.args.device) if bad is None else bad.float()
        self._not_finite = None
        flags = torch.stack([bad, torch.tensor(float(requested), device=bad.device)])
        if not alone:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        not_finite, stop = flags.tolist()
        if not_finite:
            raise NotFinite(f"the loss was not a number at step {step}")
        return bool(stop)


def reads_device(step: int, control: Any) -> bool:
    """True where results on a GPU are read after this step, which waits for it.

    That is every tenth step, and before anything is logged, evaluated or saved.
    """
    events = ("should_log", "should_evaluate", "should_save", "should_training_stop")
    return step % 10 == 0 or any(getattr(control, event) for event in events)


class FineTuneTrainer(WeightedTrainer):
    """Writes complete checkpoints when they are due, and resumes as if it had never stopped."""

    epoch_over = False  # set by SaveSchedule
    _save_due = False  # a checkpoint that waits for the epoch's evaluation

    def _run_epoch(self, **kwargs: Any) -> None:
        control = self.state.stateful_callbacks.get("TrainerControl")
        ended = isinstance(control, dict) and control.get("args", {}).get("should_training_stop")
        first = kwargs["epoch"] == kwargs["epochs_trained"] and kwargs["resume_from_checkpoint"]
        if first and ended:
            self.control.should_training_stop = True  # it was killed after its last checkpoint
            return
        super()._run_epoch(**kwargs)

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Trainer's, but an epoch's last checkpoint follows the epoch's evaluation; stops on SIGTERM.

        A run that resumed from a checkpoint before the evaluation would skip the evaluation.
        """
        stop = self.should_stop()
        last = float(self.state.epoch).is_integer() or self.control.should_training_stop
        if last and not self.epoch_over:
            self._save_due, self.control.should_save = self.control.should_save, False
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
            return
        self.control.should_save |= self._save_due
        self._save_due = False
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if stop and not self.control.should_training_stop:
            self._save_checkpoint(model, trial)
            raise Terminated(f"stopped at step {self.state.global_step}")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        newest = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if (newest / atomic.MANIFEST).exists():
            return  # already saved at this step
        check_finite(self.model, step=self.state.global_step)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes its random state
        if self.args.should_save:
            best, keep = self.state.best_model_checkpoint, self.settings.save_total_limit
            seal_and_rotate(newest, best=best, keep=keep)
        self.accelerator.wait_for_everyone()


class SaveSchedule(TrainerCallback):
    """Asks for the checkpoints that Trainer, which saves where it evaluates, would not write."""

    def __init__(self, trainer: FineTuneTrainer) -> None:
        self._trainer, self._settings = trainer, trainer.settings

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note that an epoch began."""
        self._trainer.epoch_over = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save every `save_steps`."""
        every = self._settings.save_steps
        if self._settings.save_strategy == "steps" and every is not None:
            steps = math.ceil(every if every >= 1 else every * state.max_steps)
            control.should_save |= state.global_step % steps == 0

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save each epoch, where the settings say so."""
        self._trainer.epoch_over = True
        control.should_save |= self._settings.save_strategy == "epoch"


class Reporter(TrainerCallback):
    """Calls the listeners of a training."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners, self._note = listeners, ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report that the training begins."""
        if self._listeners.on_points:
            self._listeners.on_points([])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the step, with the last loss or dev F1."""
        self._listeners.progress(state.global_step, state.max_steps, self._note)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any
    ) -> None:
        """Report new points and the dev F1 of an evaluation."""
        for key, title in (("loss", "loss"), ("eval_f1_macro", "dev F1")):
            if key in logs:
                self._note = f"{title} {logs[key]:.3f}"
        if self._listeners.on_evaluation and "eval_f1_macro" in logs:
            self._listeners.on_evaluation(round(state.epoch), logs["eval_f1_macro"])
        if self._listeners.on_points:
            self._listeners.on_points(points_of(state.log_history[-1:], CURVES))
