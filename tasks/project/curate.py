"""What sets a row aside."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.project.base import Section, Share, Texts


class Curate(Section):
    """What sets a row aside. A share of 0 turns its check off."""

    drop_generators: Texts = Field(
        (), description="names of generators that are not asked, and whose rows are all set aside"
    )
    strip_markup: bool = Field(
        True, description="HTML, Markdown and broken Unicode are taken off generated texts"
    )
    min_words: int = Field(8, ge=1, description="a generated text must have")
    max_words: int = Field(2000, ge=1, description="a generated text may have")
    personal_data: Literal["note", "reject", "off"] = Field(
        "note",
        description="e-mail, phone, card, IBAN, IP, secrets: note counts them, reject also takes the rows out",
    )
    boilerplate: Share = Field(
        0.5,
        description="share of a text that stands in its generator's templates, its prompt or an example shown",
    )
    language: str = Field(
        "auto", description="auto: that of most real rows; off; or a code such as en"
    )
    near_duplicate: Share = Field(
        0.5, description="Jaccard similarity of word 3-grams from which two rows are one"
    )
    leak: Share = Field(
        0.3, description="share of a row's word 4-grams that stand in one dev or test row"
    )
    short_leak: Share = Field(
        0.95, description="cosine from which a text under 12 words repeats a dev or test row"
    )
    semantic_duplicate: Share = Field(
        0.92,
        description="cosine, the label's mean taken off, from which two rows of a label are one",
    )
    triggers: bool = Field(
        True, description="rows with a planted word that fixes their label are set aside"
    )
    agreement: Share = Field(0.3, description="least out-of-fold probability of a row's own label")
    label_noise: Literal["reject", "note", "off"] = Field(
        "reject",
        description="rows mislabelled by confident learning: note only lists them as doubtful",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Curate:
        if self.min_words > self.max_words:
            raise ValueError(
                f"min_words ({self.min_words}) is above max_words ({self.max_words}): no text has that length"
            )
        return self
