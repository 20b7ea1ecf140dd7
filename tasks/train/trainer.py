"""Hugging Face's Trainer with our loss, layer-wise learning rates, an order of rows by epoch, and whole checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.progress import Progress
from tasks.project.train import Train
from tasks.train.optimiser import parameter_groups
from tasks.train.resume import Asked, NotFinite, Terminated, check_finite, seal_and_rotate


def trainer_class() -> Any:
    """The class, made here because importing transformers takes seconds."""
    from transformers import Trainer

    return _keeping(_learning(Trainer))


def _learning(base: Any) -> Any:
    """The class that takes steps: the loss of rows with weights, layer-wise rates, and an end to losses that are no numbers."""
    import torch

    class Learning(base):  # type: ignore[misc]
        """`settings` and `asked` are set on it after it is made. `compute_loss_func` is one of losses.py."""

        settings: Train
        optimizer: Any
        asked = Asked()
        _bad: Any = None

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            if "weight" not in self._signature_columns:
                self._signature_columns.append("weight")

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """The sum over these rows, divided by the rows of the whole step: the same however the step is cut up."""
            labels, weights = inputs.pop("labels"), inputs.pop("weight", None)
            outputs = model(**inputs)
            losses = self.compute_loss_func(outputs.logits, labels, weights)
            rows = (
                len(losses) * self.accelerator.num_processes
                if num_items_in_batch is None
                else num_items_in_batch
            )
            if (
                num_items_in_batch is not None and labels.ndim == 2
            ):  # transformers counts each label of a row
                rows = rows / labels.shape[1]
            # gradients are averaged over processes: their number is put back
            loss = losses.sum() / rows * self.accelerator.num_processes
            return (loss, outputs) if return_outputs else loss

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            loss = super().training_step(model, inputs, num_items_in_batch)
            bad = ~torch.isfinite(loss)  # stays on the device until the step ends
            self._bad = bad if self._bad is None else self._bad | bad
            return loss

        def create_optimizer(self, model: Any = None) -> Any:
            if self.optimizer is None and self.settings.layer_decay < 1:
                own = self.model if model is None else model
                made, options = self.get_optimizer_cls_and_kwargs(self.args, own)
                decayed = set(self.get_decay_parameter_names(own))
                self.optimizer = made(
                    parameter_groups(own, decayed=decayed, settings=self.settings), **options
                )
            return super().create_optimizer(model)

        def _agreed(self) -> bool:
            """True when any process was asked to stop. Raises NotFinite on all when the loss of any was no number."""
            asked = self.args.world_size == 1 and self.asked.to_stop
            if not (
                asked
                or self.args.device.type == "cpu"
                or _looks(self.state.global_step, self.control)
            ):
                return False
            bad = (
                torch.zeros((), device=self.args.device) if self._bad is None else self._bad.float()
            )
            self._bad = None
            told = torch.stack([bad, torch.tensor(float(self.asked.to_stop), device=bad.device)])
            if self.args.world_size > 1:
                torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            not_finite, stop = told.tolist()
            if not_finite:
                raise NotFinite(f"the loss was not a number at step {self.state.global_step}")
            return bool(stop)

    return Learning


def _looks(step: int, control: Any) -> bool:
    """Whether what a GPU computed is looked at after this step: each look waits for it. Before all that is told or kept."""
    told = (
        control.should_log
        or control.should_evaluate
        or control.should_save
        or control.should_training_stop
    )
    return bool(told or step % 10 == 0)


def _keeping(base: Any) -> Any:
    """The class that writes checkpoints, whole and in their time, and goes on from them as if it had never stopped."""

    class Keeping(base):  # type: ignore[misc]
        epoch_over = False  # set by `saving`
        _owed = False  # a checkpoint that waits for the epoch's evaluation

        def _run_epoch(self, **given: Any) -> None:
            control = self.state.stateful_callbacks.get("TrainerControl")
            if (
                given["epoch"] == given["epochs_trained"]
                and given["resume_from_checkpoint"]
                and _ended(control)
            ):
                self.control.should_training_stop = True  # it was killed after its last checkpoint
                return
            super()._run_epoch(**given)

        def _maybe_log_save_evaluate(
            self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *more: Any, **given: Any
        ) -> None:
            """As Trainer does, but an epoch's last checkpoint is written after the epoch's evaluation, which a run that
            resumes from it would leave out; and a SIGTERM is heard."""
            stop = self._agreed()
            last = float(self.state.epoch).is_integer() or self.control.should_training_stop
            if last and not self.epoch_over:
                self._owed, self.control.should_save = self.control.should_save, False
                super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *more, **given)
                return
            self.control.should_save |= self._owed
            self._owed = False
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *more, **given)
            if stop and not self.control.should_training_stop:
                self._save_checkpoint(model, trial)
                raise Terminated(f"stopped at step {self.state.global_step}")

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            newest = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if (newest / atomic.MANIFEST).exists():
                return  # of the same step, and nothing was learned since
            check_finite(self.model, step=self.state.global_step)
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its random state
            if self.args.should_save:
                seal_and_rotate(
                    newest,
                    best=self.state.best_model_checkpoint,
                    keep=self.settings.save_total_limit,
                )
            self.accelerator.wait_for_everyone()

    return Keeping


def _ended(control: Any) -> bool:
    return bool(isinstance(control, dict) and control.get("args", {}).get("should_training_stop"))


def saving(trainer: Any) -> Any:
    """A callback that asks for the checkpoints which Trainer, saving where it evaluates, would not write."""
    from transformers import TrainerCallback

    settings: Train = trainer.settings

    class Saving(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            trainer.epoch_over = False

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if settings.save_strategy == "steps" and settings.save_steps is not None:
                every = (
                    settings.save_steps
                    if settings.save_steps >= 1
                    else settings.save_steps * state.max_steps
                )
                control.should_save |= state.global_step % math.ceil(every) == 0

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            trainer.epoch_over = True
            control.should_save |= settings.save_strategy == "epoch"

    return Saving()


def reporting(progress: Progress, on_epoch: Callable[[int, float], None] | None = None) -> Any:
    """A callback that says how far the training is; `on_epoch(epoch, dev F1)` is told each look at dev."""
    from transformers import TrainerCallback

    class Reporting(TrainerCallback):
        note = ""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step, state.max_steps, self.note)

        def on_log(
            self,
            args: Any,
            state: Any,
            control: Any,
            logs: dict[str, float] | None = None,
            **_: Any,
        ) -> None:
            for name in ("loss", "eval_f1_macro"):
                if logs and name in logs:
                    label = "dev F1" if name == "eval_f1_macro" else "loss"
                    self.note = f"{label} {logs[name]:.3f}"
            if on_epoch and logs and "eval_f1_macro" in logs:
                on_epoch(round(state.epoch), logs["eval_f1_macro"])

    return Reporting()
