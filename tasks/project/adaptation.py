"""How the encoder is adapted to the project's own text before it is fine-tuned."""

from __future__ import annotations

from pydantic import Field

from tasks.project.base import Positive, Section


class Adapt(Section):
    """How the encoder is adapted to the project's text, before it is fine-tuned."""

    epochs: int = Field(
        0,
        ge=0,
        description="over the unlabelled and the training text; 0 leaves the encoder as it is",
    )
    max_steps: Positive | None = Field(None, description="in place of the epochs' own number")
    learning_rate: float = Field(5e-5, gt=0, description="at its height, after the warm-up")
    batch_size: Positive = Field(16, description="texts a step")
    mlm_probability: float = Field(0.15, ge=0.1, le=0.4, description="of the tokens, to be guessed")
    max_rows: Positive = Field(20_000, description="texts, at most: the first by content hash")
    held_out: Positive = Field(
        200,
        description="texts kept out, to measure the perplexity; at most a fifth of the unlabelled",
    )
    head_steps: Positive = Field(
        200, description="that train a head alone, for an encoder that has none"
    )
    seed: int = Field(0, description="of the order of texts and of the masks")
