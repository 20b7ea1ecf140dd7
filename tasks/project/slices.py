"""Which test rows are also looked at apart: rules of the project's own, checked when the file is read."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from tasks.project.base import Section


class SliceRule(Section):
    """The test rows for which everything that is given here holds."""

    min_words: int | None = Field(None, ge=1, description="the text has so many words, or more")
    max_words: int | None = Field(None, ge=1, description="the text has so many words, or fewer")
    pattern: str | None = Field(
        None, min_length=1, description="a regular expression that is found in the text"
    )
    column: str | None = Field(None, description="one of data.keep_columns")
    equals: str | None = Field(None, description="the value that the row has in `column`")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, RecursionError, OverflowError) as e:
            raise ValueError(
                f"it is no regular expression of Python's: {e}; mend it (in YAML '\\d' stands in single quotes)"
            )
        return value

    @field_validator("equals", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        if value is not None and not isinstance(value, str):
            raise ValueError(
                "YAML reads it as no text: put it in quotes, as columns are read as text"
            )
        return value

    @model_validator(mode="after")
    def _something(self) -> SliceRule:
        if all(v is None for v in self.model_dump().values()):
            raise ValueError(
                "a slice needs a rule: min_words, max_words, pattern, or column with equals"
            )
        if (self.column is None) != (self.equals is None):
            raise ValueError("column and equals go together: give both, or neither")
        if self.min_words and self.max_words and self.min_words > self.max_words:
            raise ValueError(
                f"min_words {self.min_words} is above max_words {self.max_words}: no text has both"
            )
        return self


def check_slice_name(name: str) -> str:
    """The name of a slice. Raises ValueError for one that could not stand in a metric's name, or that looks like `column=value`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,59}", name) or name in {"ci_low", "ci_high"}:
        raise ValueError(
            f"the slice {name!r} needs another name: up to 60 letters, digits, ' ', '_', '.' and '-'"
        )
    return name
