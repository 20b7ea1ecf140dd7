"""How the model answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.project.base import Positive, Section, Share


class Predict(Section):
    """What the model answers with, wherever it is asked: evaluation, `reseed predict`, `reseed serve`, MLflow."""

    backend: Literal["auto", "torch", "onnx", "onnx-int8"] = Field(
        "auto",
        description="auto: the fastest on this machine that agrees with torch in float32 on dev",
    )
    agreement: Share = Field(0.995, description="least share of equal dev labels that auto accepts")
    threads: int = Field(0, ge=0, description="of the processor; 0 takes every core")
    batch_tokens: Positive = Field(
        4096, description="tokens a batch, padding included, where torch answers"
    )
