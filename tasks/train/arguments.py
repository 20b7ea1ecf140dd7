"""The project's settings as transformers' TrainingArguments; unknown or harmful ones are errors."""

from __future__ import annotations

import dataclasses
import inspect
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import TrainingArguments, get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.training_args import OptimizerNames

from tasks.encoder.embed import has_bf16
from tasks.errors import UserError, one_line, suggestion
from tasks.project.train import Train
from tasks.train.resume import Attempt

# fields of TrainingArguments that one of our keys sets, and the key
RENAMED = {
    "num_train_epochs": "epochs",
    "warmup_steps": "warmup",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "label_smoothing_factor": "label_smoothing",
    "bf16": "precision",
    "fp16": "precision",
    "activation_checkpointing": "gradient_checkpointing",
    "seed": "seeds",
}
# fields that are set as in the project file
SAME = {
    "max_steps", "learning_rate", "weight_decay", "lr_scheduler_type", "optim", "max_grad_norm",
    "logging_steps", "torch_compile", "metric_for_best_model",
}  # fmt: skip
# fields that decide where a stage writes, what it reports to, how it resumes and what a batch is, or
# that would upload the model
RESERVED = {
    "output_dir", "report_to", "use_cpu", "disable_tqdm", "greater_is_better",
    "train_sampling_strategy", "length_column_name", "restore_callback_states_from_checkpoint",
    "remove_unused_columns", "logging_nan_inf_filter", "enable_jit_checkpoint",
    "auto_find_batch_size", "ignore_data_skip", "save_only_model", "push_to_hub", "deepspeed", "fsdp",
    "prediction_loss_only", "batch_eval_metrics", "resume_from_checkpoint", "do_train", "do_eval",
    "do_predict", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs",
    "accelerator_config", "parallelism_config", "local_rank", "label_names", "eval_do_concat_batches",
    "eval_use_gather_object", "use_liger_kernel", "liger_kernel_config",
}  # fmt: skip
# fields that would do harm here, or nothing, and why
REFUSED = {
    "neftune_noise_alpha": "its noise would depend on how many texts share a batch",
    "average_tokens_across_devices": "a step's loss is divided by the rows of all processes",
    "bf16_full_eval": "the final model would be reduced to 16 bits",
    "fp16_full_eval": "the final model would be reduced to 16 bits",
    "eval_on_start": "a training that resumes would evaluate once more",
    "dataloader_drop_last": "every row is trained on and every dev row is scored",
    "dataloader_in_order": "the order of rows depends on the seed alone",
    "dataloader_prefetch_factor": "the batches of training ignore it",
    "dataloader_multiprocessing_context": "the batches of training ignore it",
    "include_for_metrics": "nothing reads it",
    "include_num_input_tokens_seen": "nothing reads it",
    "skip_memory_metrics": "nothing reads them: MLflow has the machine's memory",
    "run_name": "the retrain names the run in MLflow",
    "project": "the retrain names the run in MLflow",
    "use_cache": "a classifier has nothing to cache",
}
# learning-rate schedules that follow the metric of each evaluation on dev
METRIC_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
_SCHEDULER_INPUTS = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
_VERSION = f"transformers {transformers.__version__}"


def world_size() -> int:
    """The number of processes that train together, as torchrun sets it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_batch(settings: Train) -> None:
    """Raises UserError when processes cannot take equal shares of a batch."""
    if settings.batch_size % world_size():
        raise UserError(
            f"train.batch_size is {settings.batch_size}, but {world_size()} processes share it: use a "
            f"multiple of that"
        )


def resolve_precision(settings: Train) -> str:
    """fp32, bf16 or fp16. Raises UserError for what this machine does not have."""
    if settings.precision == "auto":
        return "bf16" if has_bf16() else "fp32"
    if settings.precision == "bf16" and not has_bf16():
        raise UserError(
            "train.precision is bf16, which this processor does not have: use auto or fp32"
        )
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise UserError("train.precision is fp16, which needs a CUDA device: use auto or fp32")
    return settings.precision


def training_arguments(settings: Train, *, work: Path, attempt: Attempt) -> Any:
    """TrainingArguments that write to `work`.

    Raises UserError where the installed transformers does not know a setting, or settings contradict
    each other.
    """
    fields = _fields(settings, work, attempt)
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    for name in settings.arguments:
        _check_argument(name, fields, known)
    for name in sorted(fields.keys() - known):
        raise UserError(
            f"train.{RENAMED.get(name, name)} needs {name}, which {_VERSION} does not know: install "
            f"the version that requirements.lock names, or leave it out"
        )
    _check_schedule(settings)
    _run_schedule(settings, fields["lr_scheduler_kwargs"])
    optimisers = [str(name.value) for name in OptimizerNames]
    if settings.optim not in optimisers:
        _raise_unknown("optim", settings.optim, optimisers)
    try:
        return use_one_device(TrainingArguments(**fields, **settings.arguments))
    except (ValueError, TypeError) as e:
        raise UserError(f"the train settings do not fit {_VERSION}: {one_line(e)}") from None


def use_one_device(arguments: Any) -> Any:
    """The TrainingArguments of one device; otherwise Trainer multiplies the batch by all that it sees."""
    arguments._n_gpu = min(arguments._n_gpu, 1)
    return arguments


def _fields(settings: Train, work: Path, attempt: Attempt) -> dict[str, Any]:
    on_gpu = torch.cuda.is_available()
    fields = {
        **{name: getattr(settings, name) for name in SAME},
        **_evaluation_fields(settings),
        "output_dir": str(work),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": attempt.batch_size // world_size(),
        "per_device_eval_batch_size": max(1, attempt.eval_batch_size // world_size()),
        "gradient_accumulation_steps": attempt.accumulation,
        "warmup_steps": settings.warmup,  # below 1 it is a share of all steps
        "lr_scheduler_kwargs": _schedule_options(settings),
        "bf16": attempt.precision == "bf16",
        "fp16": attempt.precision == "fp16",
        "greater_is_better": settings.metric_for_best_model != "loss",
        "restore_callback_states_from_checkpoint": True,  # a resumed run keeps the patience it used up
        "logging_nan_inf_filter": False,  # a loss that is not finite ends the run: see trainer.py
        "use_cpu": not on_gpu,
        "seed": settings.seeds[0],
        "data_seed": settings.seeds[0] if settings.data_seed is None else settings.data_seed,
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
        "report_to": "none",
    }
    if settings.gradient_checkpointing:
        fields["activation_checkpointing"] = True
        fields["activation_checkpointing_kwargs"] = {"use_reentrant": False}
    return fields


def _evaluation_fields(settings: Train) -> dict[str, Any]:
    """When to evaluate and save.

    To end with the best weights, each evaluation is saved; SaveSchedule in trainer.py adds the rest.
    """
    best = settings.load_best_model_at_end and settings.save_strategy != "best"
    steps = {
        "eval_steps": settings.eval_steps,
        "save_steps": settings.eval_steps if best else settings.save_steps,
    }
    return {
        "eval_strategy": settings.eval_strategy,
        "save_strategy": settings.eval_strategy if best else settings.save_strategy,
        "load_best_model_at_end": settings.load_best_model_at_end,
        **{name: value for name, value in steps.items() if value is not None},
    }


def _check_argument(name: str, fields: dict[str, Any], known: set[str]) -> None:
    where = f"train.arguments names {name!r}"
    if name in RENAMED or name in Train.model_fields:
        raise UserError(f"{where}, which is train.{RENAMED.get(name, name)}: set that")
    if name in REFUSED:
        raise UserError(f"{where}, which is not supported ({REFUSED[name]}): remove it")
    if name in RESERVED or name in fields or name.startswith(("hub_", "fsdp", "trackio")):
        raise UserError(f"{where}, which is not supported: remove it")
    if name not in known:
        raise UserError(
            f"{where}{suggestion(name, sorted(known))}, which {_VERSION} does not know: remove it"
        )


def _check_schedule(settings: Train) -> None:
    """Raises UserError for a learning-rate schedule that is unknown, or does not take an option."""
    functions = {str(name.value): f for name, f in TYPE_TO_SCHEDULER_FUNCTION.items()}
    if settings.lr_scheduler_type not in functions:
        _raise_unknown("lr_scheduler_type", settings.lr_scheduler_type, list(functions))
    parameters = inspect.signature(functions[settings.lr_scheduler_type]).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    options = [name for name in parameters if name not in _SCHEDULER_INPUTS]
    for name in settings.lr_scheduler_kwargs:
        if name not in options:
            raise UserError(
                f"train.lr_scheduler_kwargs names {name!r}{suggestion(name, options)}, which "
                f"{settings.lr_scheduler_type} does not take: it takes "
                f"{', '.join(options) or 'nothing'}"
            )


def _schedule_options(settings: Train) -> dict[str, Any]:
    """The schedule's options. One that follows dev needs its direction: it would take F1 for a loss."""
    follows = settings.lr_scheduler_type in METRIC_SCHEDULES
    mode = {"mode": "min" if settings.metric_for_best_model == "loss" else "max"} if follows else {}
    return {**mode, **settings.lr_scheduler_kwargs}


def _run_schedule(settings: Train, options: dict[str, Any], steps: int = 20) -> None:
    """Run the schedule for a few steps. Raises UserError where an option is missing or invalid."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=settings.learning_rate)
    metric = (0.0,) if settings.lr_scheduler_type in METRIC_SCHEDULES else ()
    try:
        schedule = get_scheduler(settings.lr_scheduler_type, optimiser, steps // 10, steps, options)
        for _ in range(steps):
            optimiser.step()
            schedule.step(*metric)
    except (TypeError, ValueError, ArithmeticError) as e:
        raise UserError(
            f"train.lr_scheduler_kwargs is {settings.lr_scheduler_kwargs}, which "
            f"{settings.lr_scheduler_type} does not accept: {one_line(e)}; "
            f"docs/training.md lists each schedule's options"
        ) from None


def _raise_unknown(key: str, value: str, names: list[str]) -> None:
    raise UserError(
        f"train.{key} is {value!r}{suggestion(value, names)}, which {_VERSION} does not know: "
        f"it knows {', '.join(names)}"
    )
