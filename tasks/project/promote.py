"""`promote` and `schedule` of a project file: when a model is retrained and promoted."""

from __future__ import annotations

import re
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from tasks.project.base import Section


class Limits(Section):
    """How much worse than the champion a challenger may be; null: not limited."""

    label_f1: float | None = Field(0.1, gt=0, le=1)
    """largest fall of any label's F1"""
    slice_f1: float | None = Field(0.1, gt=0, le=1)
    """largest fall of macro-F1 in any of `evaluate.slices`"""
    ece: float | None = Field(0.05, ge=0, le=1)
    """largest rise of the expected calibration error"""
    latency: float | None = Field(None, gt=0)
    """largest ratio of 95th-percentile latencies, such as 1.2"""
    size: float | None = Field(None, gt=0)
    """largest ratio of bundle sizes"""
    robustness: float | None = Field(None, ge=0, le=1)
    """largest rise of the share of answers that perturbations flip"""


class Promote(Section):
    """When the challenger becomes the champion."""

    min_gain: float = Field(0.0, ge=0, lt=1)
    """macro-F1 gain that must be exceeded"""
    rule: Literal["bounds", "point"] = "bounds"
    """bounds: by the confidence bounds of the gain; point: by the gain alone"""
    confidence: float = Field(0.95, ge=0.5, lt=1)
    """with bounds: one-sided, over all verdicts on the same test set"""
    approval: Literal["none", "required"] = "none"
    """required: a person approves each promotion"""
    webhook: str | None = Field(None, pattern=r"^https?://\S+$")
    """URL to notify of promotions; {token} in it is replaced by RESEED_WEBHOOK_TOKEN"""
    export_to: str | None = Field(None, pattern=r"^s3://[^/\s]+(/\S*)?$")
    """s3://bucket/prefix to which each champion's bundle is copied"""
    limits: Limits = Limits()


class Schedule(Section):
    """When the deployment retrains."""

    cron: str = "0 3 * * 1"
    """five fields, as in crontab"""
    timezone: str = "UTC"
    """time zone of `schedule.cron`"""

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, value: str) -> str:
        if not re.fullmatch(r"[\d*/,\-A-Za-z#]+(?: [\d*/,\-A-Za-z#]+){4}", value):
            raise ValueError(
                "write five fields: minute hour day month weekday, such as '0 3 * * 1'"
            )
        return value

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(
                "it is no time zone: write UTC, or a name such as Europe/Berlin"
            ) from None
        return value
