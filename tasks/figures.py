"""Typed figures: values that are parsed strictly from JSON and never change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict


class Figures(BaseModel):
    """The base of models that are written as JSON and read back strictly."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    @classmethod
    def from_json(cls, values: object) -> Self:
        """The model of values that were read from JSON, with lists for tuples.

        Raises pydantic.ValidationError where they do not fit.
        """
        return cls.model_validate_json(json.dumps(values))


class Interval(Figures):
    """A figure with its 95% interval."""

    value: float
    ci_low: float
    ci_high: float


def format_counts(counts: Mapping[str, int]) -> str:
    """`3 sport, 2 tech`, or `none`."""
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "none"
