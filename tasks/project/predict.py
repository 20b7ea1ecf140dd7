"""`predict` of a project file: how the model is run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.project.base import Positive, Section, Share


class Predict(Section):
    """How the model is run in evaluation, `reseed predict`, `reseed serve` and MLflow."""

    backend: Literal["auto", "torch", "onnx", "onnx-int8"] = "auto"
    """auto: the fastest here whose dev labels agree with torch in float32"""
    agreement: Share = 0.995
    """share of dev labels that must agree, for auto"""
    threads: int = Field(0, ge=0)
    """CPU threads; 0: one per core"""
    batch_tokens: Positive = 4096
    """tokens per batch, padding included, for the torch backend"""
