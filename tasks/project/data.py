"""`data` of a project file: where real text comes from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.project.base import Positive, Section, Texts


class Split(Section):
    """How `data.pool` is split: rows per label, or whole groups with `data.group_column`."""

    train: int = Field(0, ge=0)
    """rows per label to train on and to show to the LLM as examples"""
    dev: Positive = 20
    """rows per label for early stopping and calibration"""
    test: Positive = 100
    """rows per label for the sealed test set; unused with `data.test`"""
    rest: Literal["unlabelled", "train", "drop"] = "unlabelled"
    """what the other rows become; drop: they are not used"""


class Data(Section):
    """One `pool` to split, with or without `test`; or `dev` and `test`, with or without `train`."""

    pool: str | None = None
    """labelled rows to split as `data.split` says"""
    split: Split = Split()
    """how the pool is split"""
    train: str | None = None
    """labelled rows to train on and to show to the LLM as examples"""
    dev: str | None = None
    """labelled rows for early stopping and calibration"""
    test: str | None = None
    """labelled rows for the sealed test set"""
    unlabelled: str | None = None
    """texts without labels"""
    text_column: str = "text"
    """column of the texts in a table"""
    label_column: str = "label"
    """column of the labels in a table"""
    label_separator: str | None = Field(None, min_length=1)
    """with `multi_label`: what separates labels in the column; null: it holds lists"""
    one_column_per_label: bool = False
    """with `multi_label`: each label has a column of 0 and 1 with its name"""
    id_column: str | None = None
    """column of ids, which must be unique"""
    group_column: str | None = None
    """rows with the same value (an author, a thread) are in the same split"""
    keep_columns: Texts = ()
    """columns of metadata to keep; scores are also given by their values"""
    encoding: str = "utf-8"
    """encoding of CSV, JSONL and text files: latin-1, cp1252, utf-16"""
    ignore_labels: Texts = ()
    """labels that are not the project's and whose rows are rejected"""
    bad_rows: Literal["reject", "stop"] = "reject"
    """unusable rows are rejected, or stop the run"""

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str) -> str:
        try:
            "a".encode(value)
        except (LookupError, ValueError):  # a NUL in the name is a ValueError
            raise ValueError("no such encoding: use utf-8, latin-1, cp1252 or utf-16") from None
        return value

    @model_validator(mode="after")
    def _check_columns(self) -> Data:
        if self.pool and (self.train or self.dev):
            raise ValueError("give data.pool, or data.train, data.dev and data.test, not both")
        if self.one_column_per_label and self.label_separator is not None:
            raise ValueError(
                "label_separator has no effect with one_column_per_label: give one of the two"
            )
        for name in self.keep_columns:
            if name in (self.text_column, self.label_column):
                raise ValueError(
                    f"keep_columns names {name!r}, which is the text or the label itself: remove it"
                )
        if len(set(self.keep_columns)) != len(self.keep_columns):
            raise ValueError(
                f"keep_columns names a column twice ({', '.join(self.keep_columns)}): remove one"
            )
        return self

    def references(self) -> dict[str, str]:
        """The references to data that are set, by their keys."""
        keys = ("pool", "train", "dev", "test", "unlabelled")
        return {key: value for key in keys if (value := getattr(self, key))}

    @property
    def has_held_out(self) -> bool:
        """Whether there is text for dev and test."""
        return bool(self.pool or (self.dev and self.test))
