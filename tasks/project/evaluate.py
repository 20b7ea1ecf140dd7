"""`evaluate` of a project file: how scores get their intervals, and what else is measured."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tasks.project.base import Section

Perturbation = Literal[
    "typos", "casing", "punctuation", "whitespace", "truncation", "entities", "negation"
]


class SliceRule(Section):
    """The test rows that meet every condition given here."""

    min_words: int | None = Field(None, ge=1)
    """the text has this many words or more"""
    max_words: int | None = Field(None, ge=1)
    """the text has this many words or fewer"""
    pattern: str | None = Field(None, min_length=1)
    """a regular expression that matches in the text"""
    column: str | None = None
    """one of data.keep_columns"""
    equals: str | None = None
    """the row's value in `column`"""

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, RecursionError, OverflowError) as e:
            raise ValueError(
                f"it is no regular expression: {e}; fix it (in YAML, write '\\d' in single quotes)"
            ) from None
        return value

    @field_validator("equals", mode="before")
    @classmethod
    def _check_equals(cls, value: object) -> object:
        if value is not None and not isinstance(value, str):
            raise ValueError(
                "columns are read as text, and YAML reads this as no text: put it in quotes"
            )
        return value

    @model_validator(mode="after")
    def _check_rule(self) -> SliceRule:
        if all(v is None for v in self.model_dump().values()):
            raise ValueError(
                "a slice needs a rule: min_words, max_words, pattern, or column with equals"
            )
        if (self.column is None) != (self.equals is None):
            raise ValueError("column and equals go together: give both, or neither")
        if self.min_words and self.max_words and self.min_words > self.max_words:
            raise ValueError(
                f"min_words {self.min_words} is above max_words {self.max_words}: lower min_words"
            )
        return self


class Evaluate(Section):
    """How scores get their intervals, and what else is measured."""

    lift: Literal["full", "quick", "off"] = "quick"
    """gain from synthetic and harvested rows: quick by linear heads, full by fine-tuning"""
    bootstrap_samples: int = Field(5000, ge=100)
    """resamples of the test rows"""
    seed: int = 0
    """random seed for the resamples"""
    slices: dict[str, SliceRule] = Field({})
    """named subsets of the test rows, scored and judged on their own"""
    robustness_rows: int = Field(100, ge=0)
    """test rows that are perturbed and classified again; 0: none"""
    perturbations: Annotated[tuple[Perturbation, ...], Field(strict=False)] = (
        "typos",
        "casing",
        "punctuation",
        "whitespace",
        "truncation",
        "entities",
    )
    """kinds of perturbation; negation keeps the label only where labels are topics"""
    cases: str | None = None
    """file of behavioural tests"""
    serving_rows: int = Field(100, ge=0)
    """dev texts whose latency is measured, 50 or more; 0: none"""
    static_model: str = "encoder"
    """word vectors of the baseline: `encoder` (its input embeddings), a model2vec folder, or `off`"""
    zero_shot: str | None = None
    """an NLI checkpoint that classifies by the label descriptions, untrained"""
    llm_rows: int = Field(0, ge=0)
    """test rows that the first generator classifies, as a baseline"""

    @field_validator("serving_rows")
    @classmethod
    def _check_serving_rows(cls, value: int) -> int:
        if 0 < value < 50:
            raise ValueError("too few for a 95th percentile: write 50 or more, or 0")
        return value

    @field_validator("slices")
    @classmethod
    def _check_slices(cls, value: dict[str, SliceRule]) -> dict[str, SliceRule]:
        for name in value:  # a part of metric names, and never like `column=value`
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,59}", name) or name in {
                "ci_low",
                "ci_high",
            }:
                raise ValueError(
                    f"the slice {name!r} needs another name: up to 60 letters, digits, ' ', '_', "
                    "'.' and '-'"
                )
        return value
