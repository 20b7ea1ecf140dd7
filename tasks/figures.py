"""Typed figures: values that are parsed strictly from JSON and never change."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Figures(BaseModel):
    """The base of every model that is written as JSON and read back: unknown keys and other types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class Interval(Figures):
    """A figure with its 95% interval."""

    value: float
    ci_low: float
    ci_high: float
