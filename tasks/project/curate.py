"""`curate`, `review` and `self_training` of a project file: which rows are trained on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.project.base import Positive, Section, Share, Texts


class Curate(Section):
    """Which checks reject a row. A share of 0 switches its check off."""

    drop_generators: Texts = ()
    """names of generators that are not used and whose rows are rejected"""
    strip_markup: bool = True
    """remove HTML, Markdown and broken Unicode from synthetic texts"""
    min_words: int = Field(8, ge=1)
    """minimum words of a synthetic text"""
    max_words: int = Field(2000, ge=1)
    """maximum words of a synthetic text"""
    personal_data: Literal["note", "reject", "off"] = "note"
    """e-mail, phone, card, IBAN, IP, secrets: note counts such rows, reject removes them"""
    boilerplate: Share = 0.5
    """largest share of a text that may repeat its generator's templates, the prompt or an example"""
    language: str = "auto"
    """auto: the language of most real rows; off; or a code such as en"""
    near_duplicate: Share = 0.5
    """Jaccard similarity of word 3-grams at which two rows are duplicates"""
    leak: Share = 0.3
    """share of a row's word 4-grams in one dev or test row at which it is a leak"""
    short_leak: Share = 0.95
    """cosine with a dev or test row at which a text under 12 words is a leak"""
    semantic_duplicate: Share = 0.92
    """cosine, after centring per label, at which two rows of a label are duplicates"""
    triggers: bool = True
    """reject rows with a planted word that determines their label"""
    agreement: Share = 0.3
    """lowest out-of-fold probability of a row's own label"""
    label_noise: Literal["reject", "note", "off"] = "reject"
    """rows that confident learning finds mislabelled: note only lists them as doubtful"""

    @model_validator(mode="after")
    def _check_words(self) -> Curate:
        if self.min_words > self.max_words:
            raise ValueError(
                f"min_words ({self.min_words}) is above max_words ({self.max_words}): lower "
                "min_words"
            )
        return self


class Review(Section):
    """What a person reviews."""

    required_rows: int = Field(0, ge=0)
    """doubtful rows that a person must review before training"""


class SelfTraining(Section):
    """How unlabelled text is labelled by the model and added to the training rows."""

    rounds: int = Field(1, ge=0, le=5)
    """rounds of labelling, adding and training; 0: no self-training"""
    confidence: Share = 0.8
    """minimum geometric mean of the probabilities that model and probe give the label"""
    share: Share = 0.6
    """largest share of the unlabelled rows to add, in the labels' estimated proportions"""
    per_label: Positive = 150
    """maximum rows to add per label"""
