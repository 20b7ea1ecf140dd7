"""`adapt` of a project file: masked-language training on the project's own text."""

from __future__ import annotations

from pydantic import Field

from tasks.project.base import Positive, Section


class Adapt(Section):
    """How the encoder is adapted to the project's text before it is fine-tuned."""

    epochs: int = Field(0, ge=0)
    """over unlabelled and training text; 0: no adaptation"""
    max_steps: Positive | None = None
    """optimiser steps; overrides `adapt.epochs`"""
    learning_rate: float = Field(5e-5, gt=0)
    """peak learning rate, after the warm-up"""
    batch_size: Positive = 16
    """texts per step"""
    mlm_probability: float = Field(0.15, ge=0.1, le=0.4)
    """share of tokens to mask"""
    max_rows: Positive = 20_000
    """maximum texts to train on, in content-hash order"""
    held_out: Positive = 200
    """texts to measure perplexity on; at most a fifth of the unlabelled text"""
    head_steps: Positive = 200
    """steps that train only the head, for an encoder published without one"""
    seed: int = 0
    """random seed for the order of texts and the masks"""
