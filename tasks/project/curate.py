"""What sets a row aside."""

from __future__ import annotations

from pydantic import Field, model_validator

from tasks.project.base import Section, Share


class Curate(Section):
    """What sets a row aside."""

    min_words: int = Field(8, ge=1, description="a generated text must have")
    max_words: int = Field(2000, ge=1, description="a generated text may have")
    near_duplicate: Share = Field(0.7, description="Jaccard similarity of word 3-grams from which two rows are one")
    leak: Share = Field(0.3, description="share of a row's word 4-grams that stand in one dev or test row")
    agreement: Share = Field(0.3, description="least out-of-fold probability of a row's own label")

    @model_validator(mode="after")
    def _ordered(self) -> Curate:
        if self.min_words > self.max_words:
            raise ValueError(
                f"min_words ({self.min_words}) is above max_words ({self.max_words}): no text has that length"
            )
        return self
