"""Where a project's real text comes from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.project.base import Positive, Section, Texts


class Split(Section):
    """How a pool is split: rows a label, fixed by content hash; of whole groups where `data.group_column` is set."""

    train: int = Field(
        0, ge=0, description="rows a label that may be shown to the LLM and trained on"
    )
    dev: Positive = Field(20, description="rows a label for early stopping and calibration")
    test: Positive = Field(
        100, description="rows a label, sealed for evaluation; not used where `data.test` is given"
    )
    rest: Literal["unlabelled", "train", "drop"] = Field(
        "unlabelled", description="what the other rows become"
    )


class Data(Section):
    """Where real text comes from: one `pool` to split, `test` apart or not; or `dev` and `test` (and `seed`) apart."""

    pool: str | None = Field(None, description="labelled rows to be split by `split`")
    split: Split = Field(Split(), description="how the pool is split")
    train: str | None = Field(
        None, description="labelled rows that may be shown to the LLM and trained on"
    )
    dev: str | None = Field(None, description="labelled rows for early stopping and calibration")
    test: str | None = Field(None, description="labelled rows, sealed for evaluation")
    unlabelled: str | None = Field(None, description="text without labels")
    text_column: str = Field("text", description="the column of texts, in a table")
    label_column: str = Field("label", description="the column of labels, in a table")
    label_separator: str | None = Field(
        None,
        min_length=1,
        description="between a text's labels, where `multi_label`; null: the column holds lists",
    )
    one_column_per_label: bool = Field(
        False,
        description="where `multi_label`: a column of 0 and 1 for each label, of its name, in place of label_column",
    )
    id_column: str | None = Field(None, description="a column of ids that must be unique")
    group_column: str | None = Field(
        None,
        description="rows that share its value (an author, a thread, a question) never stand in two splits",
    )
    keep_columns: Texts = Field(
        (),
        description="columns of metadata that go with each real row; the scores are shown by their values",
    )
    encoding: str = Field(
        "utf-8", description="of CSV, JSONL and text files: latin-1, cp1252, utf-16"
    )
    ignore_labels: Texts = Field(
        (), description="labels in the data that are not the project's: set aside"
    )
    bad_rows: Literal["reject", "stop"] = Field("reject", description="what an unusable row does")

    @field_validator("encoding")
    @classmethod
    def _codec(cls, value: str) -> str:
        try:
            "a".encode(value)
        except (LookupError, ValueError):  # a NUL in the name is a ValueError
            raise ValueError("no such encoding: use utf-8, latin-1, cp1252 or utf-16") from None
        return value

    @model_validator(mode="after")
    def _either(self) -> Data:
        if self.pool and (self.train or self.dev):
            raise ValueError(
                "give data.pool, which is split, or data.train, dev and test apart, not both"
            )
        if self.one_column_per_label and self.label_separator is not None:
            raise ValueError(
                "one_column_per_label reads a column a label, which has nothing to separate: give one of the two"
            )
        for name in self.keep_columns:
            if name in (self.text_column, self.label_column):
                raise ValueError(
                    f"keep_columns names {name!r}, which is the text or the label itself: leave it out there"
                )
        if len(set(self.keep_columns)) != len(self.keep_columns):
            raise ValueError(
                f"keep_columns names a column twice ({', '.join(self.keep_columns)}): leave one out"
            )
        return self

    @property
    def given(self) -> bool:
        """Whether there is text for dev and test."""
        return bool(self.pool or (self.dev and self.test))
