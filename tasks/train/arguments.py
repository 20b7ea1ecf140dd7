"""The project's settings as transformers' TrainingArguments. What the installed transformers does not know is an error."""

from __future__ import annotations

import dataclasses
import inspect
import os
from pathlib import Path
from typing import Any

from tasks.encoder.embed import has_bf16
from tasks.errors import UserError, suggestion
from tasks.project.train import Train
from tasks.train.resume import Attempt

# fields that a key of ours sets, and the key
OURS = {
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
# fields that where a stage writes, whom it tells, how it resumes and what a batch is rest on, or that would send the model away
FIXED = {
    "output_dir", "report_to", "use_cpu", "disable_tqdm", "greater_is_better", "train_sampling_strategy",
    "length_column_name", "restore_callback_states_from_checkpoint", "remove_unused_columns", "logging_nan_inf_filter",
    "enable_jit_checkpoint", "auto_find_batch_size", "ignore_data_skip", "save_only_model", "push_to_hub", "deepspeed",
    "fsdp", "prediction_loss_only", "batch_eval_metrics", "resume_from_checkpoint", "do_train", "do_eval", "do_predict",
    "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "accelerator_config", "parallelism_config",
    "local_rank", "label_names", "eval_do_concat_batches", "eval_use_gather_object", "use_liger_kernel",
    "liger_kernel_config",
}  # fmt: skip
# fields that transformers knows and that would do harm here, or nothing, and why
REFUSED = {
    "neftune_noise_alpha": "its noise would hang on how many texts share a batch",
    "average_tokens_across_devices": "a step's loss is divided by the rows of all processes",
    "bf16_full_eval": "the model that is kept would be cut down to 16 bits",
    "fp16_full_eval": "the model that is kept would be cut down to 16 bits",
    "eval_on_start": "a training that goes on after a kill would look at dev once more",
    "dataloader_drop_last": "every row is learned from and every dev row is judged",
    "dataloader_in_order": "the order of rows hangs on the seed alone",
    "dataloader_prefetch_factor": "the batches of training don't heed it",
    "dataloader_multiprocessing_context": "the batches of training don't heed it",
    "include_for_metrics": "nothing reads it",
    "include_num_input_tokens_seen": "nothing reads it",
    "skip_memory_metrics": "nothing reads them: MLflow has the machine's memory",
    "run_name": "the run in MLflow is named by the retrain",
    "project": "the run in MLflow is named by the retrain",
    "use_cache": "a classifier has nothing to cache",
}
# curves that go by the figure of each look at dev
FOLLOWING = ("reduce_lr_on_plateau", "greedy")


def precision_of(settings: Train) -> str:
    """fp32, bf16 or fp16. Raises UserError for what this machine does not have."""
    import torch

    if settings.precision == "bf16" and not has_bf16():
        raise UserError(
            "train.precision is bf16, which this processor does not have: use auto or fp32"
        )
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise UserError("train.precision is fp16, which needs a CUDA device: use auto or fp32")
    if settings.precision == "auto":
        return "bf16" if has_bf16() else "fp32"
    return settings.precision


def training_arguments(settings: Train, *, work: Path, attempt: Attempt) -> Any:
    """TrainingArguments that write to `work`.

    Raises UserError where the installed transformers does not know a setting, or the settings contradict each other.
    """
    import transformers
    from transformers import TrainingArguments

    given = _given(settings, work, attempt)
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    for name in settings.arguments:
        _allow(name, given, known)
    given |= settings.arguments
    for name in given:
        if name not in known:
            key = {v: k for k, v in OURS.items()}.get(name, OURS.get(name, name))
            raise UserError(
                f"train.{key} needs {name}, which transformers {transformers.__version__} does not know: {UPDATE}"
            )
    _check_curve(settings)
    _draw_curve(settings, given["lr_scheduler_kwargs"])
    _check_optimiser(settings)
    try:
        made = TrainingArguments(**given)
    except (ValueError, TypeError) as e:
        raise UserError(
            f"the train settings don't fit transformers {transformers.__version__}: {' '.join(str(e).split())[:300]}"
        ) from None
    return on_one_device(made)


def on_one_device(arguments: Any) -> Any:
    """The TrainingArguments of a process that drives one device: Trainer would else multiply the batch by all it sees."""
    arguments._n_gpu = min(arguments._n_gpu, 1)
    return arguments


UPDATE = "install the version that requirements.lock names, or leave it out"


def _given(settings: Train, work: Path, attempt: Attempt) -> dict[str, Any]:
    import torch

    given: dict[str, Any] = {
        "output_dir": str(work),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": attempt.batch_size // processes(),
        "per_device_eval_batch_size": max(1, attempt.eval_batch_size // processes()),
        "gradient_accumulation_steps": attempt.accumulation,
        "warmup_steps": settings.warmup,  # below 1 it is a share of all steps
        "lr_scheduler_kwargs": _curve_options(settings),
        "bf16": attempt.precision == "bf16",
        "fp16": attempt.precision == "fp16",
        "greater_is_better": settings.metric_for_best_model != "loss",
        "restore_callback_states_from_checkpoint": True,  # or a resumed run has its whole patience again
        "logging_nan_inf_filter": False,  # a loss that is no number stops the run: see trainer.py
        "use_cpu": not torch.cuda.is_available(),
        "seed": settings.seeds[0],
        "data_seed": settings.seeds[0] if settings.data_seed is None else settings.data_seed,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
        **_saving(settings),
    }
    same = (
        "max_steps",
        "learning_rate",
        "weight_decay",
        "lr_scheduler_type",
        "optim",
        "max_grad_norm",
        "logging_steps",
    )
    given |= {
        name: getattr(settings, name) for name in (*same, "torch_compile", "metric_for_best_model")
    }
    if settings.gradient_checkpointing:
        given |= {
            "activation_checkpointing": True,
            "activation_checkpointing_kwargs": {"use_reentrant": False},
        }
    return given


def _saving(settings: Train) -> dict[str, Any]:
    """When to evaluate and save. To end with the best weights every look at dev is saved; trainer.py adds the rest."""
    best = settings.load_best_model_at_end and settings.save_strategy != "best"
    given: dict[str, Any] = {
        "eval_strategy": settings.eval_strategy,
        "save_strategy": settings.eval_strategy if best else settings.save_strategy,
        "load_best_model_at_end": settings.load_best_model_at_end,
    }
    save_steps = settings.eval_steps if best else settings.save_steps
    steps = {"eval_steps": settings.eval_steps, "save_steps": save_steps}
    return given | {name: value for name, value in steps.items() if value is not None}


def processes() -> int:
    """The number of processes that train together, as torchrun says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_batch(settings: Train) -> None:
    """Raises UserError when the batch can't be shared out evenly: all processes take the same number of rows."""
    if settings.batch_size % processes():
        raise UserError(
            f"train.batch_size is {settings.batch_size}, but {processes()} processes share it: give a multiple of that"
        )


def _allow(name: str, given: dict[str, Any], known: set[str]) -> None:
    import transformers

    where = f"train.arguments names {name!r}"
    if name in OURS or name in Train.model_fields:
        raise UserError(f"{where}, which is train.{OURS.get(name, name)}: set that")
    if name in REFUSED:
        raise UserError(f"{where}, which can't be chosen ({REFUSED[name]}): take it out")
    if name in FIXED or name in given or name.startswith(("hub_", "fsdp", "trackio")):
        raise UserError(f"{where}, which can't be chosen: take it out")
    if name not in known:
        raise UserError(
            f"{where}{suggestion(name, sorted(known))}, which transformers {transformers.__version__} does not know: take it out"
        )


def _check_curve(settings: Train) -> None:
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION as CURVES

    names = [str(c.value) for c in CURVES]
    if settings.lr_scheduler_type not in names:
        _unknown("lr_scheduler_type", settings.lr_scheduler_type, names)
    make = next(f for c, f in CURVES.items() if c.value == settings.lr_scheduler_type)
    takes = inspect.signature(make).parameters
    loose = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    own = [
        n
        for n in takes
        if n not in {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    ]
    for name in settings.lr_scheduler_kwargs:
        if name not in own and not loose:
            raise UserError(
                f"train.lr_scheduler_kwargs names {name!r}{suggestion(name, own)}, which {settings.lr_scheduler_type} does "
                f"not take: it takes {', '.join(own) or 'nothing'}"
            )


def _curve_options(settings: Train) -> dict[str, Any]:
    """What the curve is given. Curves that follow dev are told whether more is better: they would take F1 for a loss."""
    follows = settings.lr_scheduler_type in FOLLOWING
    mode = {"mode": "min" if settings.metric_for_best_model == "loss" else "max"} if follows else {}
    return {**mode, **settings.lr_scheduler_kwargs}


def _draw_curve(settings: Train, options: dict[str, Any], steps: int = 20) -> None:
    """Draw the curve over a few steps. Raises UserError where an option that it needs is missing, or has a value it can't take."""
    import torch
    from transformers import get_scheduler

    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=settings.learning_rate)
    told = (0.0,) if settings.lr_scheduler_type in FOLLOWING else ()
    try:
        curve = get_scheduler(settings.lr_scheduler_type, optimiser, steps // 10, steps, options)
        for _ in range(steps):
            optimiser.step()
            curve.step(*told)
    except (TypeError, ValueError, ArithmeticError) as e:
        raise UserError(
            f"train.lr_scheduler_kwargs is {settings.lr_scheduler_kwargs}, which {settings.lr_scheduler_type} can't be drawn "
            f"with: {' '.join(str(e).split())[:300]}; docs/training.md says what each curve takes"
        ) from None


def _check_optimiser(settings: Train) -> None:
    from transformers.training_args import OptimizerNames

    names = [str(o.value) for o in OptimizerNames]
    if settings.optim not in names:
        _unknown("optim", settings.optim, names)


def _unknown(key: str, value: str, names: list[str]) -> None:
    import transformers

    raise UserError(
        f"train.{key} is {value!r}{suggestion(value, names)}, which transformers {transformers.__version__} does not know: "
        f"it knows {', '.join(names)}"
    )
