"""Masked-language training of an encoder: a new head alone first, then all of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from tasks.errors import UserError
from tasks.progress import Points, Progress, silent
from tasks.train.adaptation.masked import MaskedEncoder
from tasks.train.arguments import use_one_device
from tasks.train.curves import points_of
from tasks.train.resume import (
    NotFinite,
    StopRequest,
    Terminated,
    check_finite,
    defer_sigterm,
    latest_checkpoint,
    seal_and_rotate,
    step_of,
)
from tasks.train.task import Listeners
from tasks.train.trainer import Reporter

CURVES = {"loss": "adapt.loss", "learning_rate": "adapt.learning_rate"}


@dataclass(frozen=True, slots=True)
class Pretraining:
    """The steps of a masked-language training, the one that it resumed from, and its curves."""

    steps: int
    resumed_from: int
    history: Points


def train_head(masked: MaskedEncoder, texts: list[str], *, progress: Progress = silent) -> None:
    """Train the head for `head_steps` with the encoder frozen: a new head would spoil the encoder."""
    settings = masked.settings
    set_seed(settings.seed)
    model = masked.to_device().train()
    rows, mask, head = masked.encode(texts), masked.masker(), masked.head_parameters()
    frozen = [p for p in model.base_model.parameters() if p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    optimiser = torch.optim.AdamW(head, lr=1e-3, weight_decay=0.0)
    order: list[int] = []
    for step in range(settings.head_steps):
        if len(order) < settings.batch_size:
            order = [*order, *torch.randperm(len(rows)).tolist()]
        batch = mask([rows[i] for i in order[: settings.batch_size]]).to(model.device)
        order = order[settings.batch_size :]
        with masked.autocast():
            loss = model(**batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        progress(step + 1, settings.head_steps, "the head")
    for p in frozen:
        p.requires_grad_(True)


def pretrain(
    masked: MaskedEncoder, texts: list[str], *, work: Path, progress: Progress = silent
) -> Pretraining:
    """Train `masked.model` in place; checkpoints are in `work`.

    At a SIGTERM the step in progress is finished and a checkpoint written. Raises UserError where the
    loss or a weight is not finite, or memory runs out.
    """
    try:
        with defer_sigterm() as stop:
            return _pretrain(
                masked, texts, work, [Reporter(Listeners(progress)), _Stop(stop)], stop
            )
    except NotFinite as e:
        fp32 = ", or set train.precision to fp32" if masked.bf16 else ""
        raise UserError(
            f"the adaptation failed: {e}; lower adapt.learning_rate (it is "
            f"{masked.settings.learning_rate:g}){fp32}"
        ) from None
    except RuntimeError as e:
        if not should_reduce_batch_size(e):
            raise
        raise UserError(
            f"the adaptation ran out of memory with {masked.settings.batch_size} texts per step: "
            f"lower adapt.batch_size or train.max_length"
        ) from None


def _pretrain(
    masked: MaskedEncoder, texts: list[str], work: Path, callbacks: list[Any], stop: StopRequest
) -> Pretraining:
    set_seed(masked.settings.seed)
    trainer = _SealingTrainer(
        model=masked.model,
        args=training_arguments(masked, work=work),
        train_dataset=masked.encode(texts),
        data_collator=masked.masker(),
        processing_class=masked.tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # it prints to standard output
    checkpoint = latest_checkpoint(work)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    step = trainer.state.global_step
    if stop.received:
        raise Terminated(f"stopped at step {step}")
    check_finite(trainer.model, step=step)
    resumed_from = step_of(checkpoint) if checkpoint else 0
    return Pretraining(step, resumed_from, points_of(trainer.state.log_history, CURVES))


def training_arguments(masked: MaskedEncoder, *, work: Path) -> Any:
    """The TrainingArguments of a masked-language training, on one device."""
    settings, on_gpu = masked.settings, torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        weight_decay=0.01,
        warmup_steps=0.06,  # these three, below 1, are shares of all steps
        save_steps=0.1,
        logging_steps=0.02,
        train_sampling_strategy="group_by_length",
        save_strategy="steps",
        logging_nan_inf_filter=False,  # a loss that is not finite ends the training
        remove_unused_columns=False,
        bf16=masked.bf16,
        use_cpu=not on_gpu,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=on_gpu,
        disable_tqdm=True,
        report_to="none",
    )
    return use_one_device(arguments)


class _SealingTrainer(Trainer):
    """A Trainer with complete checkpoints; a loss or weight that is not finite ends the training."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise NotFinite(f"the loss was not a number at step {self.state.global_step + 1}")
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        check_finite(self.model, step=step)
        super()._save_checkpoint(model, trial)
        seal_and_rotate(Path(self.args.output_dir) / f"checkpoint-{step}", best=None, keep=1)


class _Stop(TrainerCallback):
    """Ends the training with a checkpoint where it is asked to stop."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._stop.received:
            control.should_save = control.should_training_stop = True
