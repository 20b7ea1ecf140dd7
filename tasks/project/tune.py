"""`tune` of a project file: how better settings for the fine-tuning are searched."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from tasks.errors import suggestion
from tasks.project.base import Integers, Positive, Section
from tasks.project.train import Train

Range = Annotated[tuple[float, float], Field(strict=False)]
IntRange = Annotated[tuple[int, int], Field(strict=False)]


class Space(Section):
    """The values of `train` that are searched. A key that is `null` keeps the project's value."""

    learning_rate: Range | None = (1e-5, 3e-4)
    """lowest and highest; log scale"""
    epochs: IntRange | None = (2, 8)
    """lowest and highest"""
    batch_size: Integers | None = (8, 16, 32)
    """values to choose from"""
    weight_decay: Range | None = (0.0, 0.1)
    """lowest and highest"""
    warmup: Range | None = (0.0, 0.2)
    """lowest and highest"""
    label_smoothing: Range | None = (0.0, 0.2)
    """lowest and highest"""
    others: dict[str, list[Any]] = Field({})
    """other keys of `train`, each with the values to choose from"""

    @field_validator("learning_rate", "epochs", "weight_decay", "warmup", "label_smoothing")
    @classmethod
    def _check_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value and value[0] > value[1]:
            raise ValueError(f"write the lower one first: [{value[1]}, {value[0]}]")
        return value

    @field_validator("others")
    @classmethod
    def _check_others(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in value.items():
            if key == "seeds":
                raise ValueError("'seeds' cannot be searched: remove it; the first seed is used")
            if key in cls.model_fields:
                raise ValueError(f"{key!r} is a key of tune.space: set it there")
            if not values or any(isinstance(v, (list, dict)) for v in values):
                raise ValueError(f"give {key!r} a list of plain values to choose from")
        return value

    @field_validator("batch_size")
    @classmethod
    def _check_batch_size(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value == ():
            raise ValueError("give the values to choose from, or null")
        return value

    def values(self) -> dict[str, list[Any]]:
        """The ends of each range and the values of each choice, by the key of `train`."""
        named = {k: getattr(self, k) for k in type(self).model_fields if k != "others"}
        return {k: list(v) for k, v in named.items() if v is not None} | self.others


class Tune(Section):
    """How better settings for the fine-tuning are searched by `reseed tune`."""

    trials: Positive = 20
    """trials to run, pruned ones included, failed ones not"""
    timeout_seconds: Positive | None = None
    """time after which no new trial is started"""
    folds: int = Field(0, ge=0, le=20)
    """2 and more: folds of the real training rows, scored as well as dev"""
    prune: bool = True
    """stop a trial whose dev F1 is below the median of the others at that step"""
    storage: str | None = None
    """database URL for several machines; null: a SQLite file in the workspace"""
    seed: int = 0
    """random seed of the search"""
    space: Space = Space()
    """what is searched"""

    @field_validator("folds")
    @classmethod
    def _check_folds(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one fold holds nothing out: use 0, or 2 and more")
        return value

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, value: str | None) -> str | None:
        if value and "://" not in value:
            raise ValueError("write a database URL, such as postgresql://host/reseed")
        if value and urlsplit(value).password:
            raise ValueError(
                "it holds a password: set the environment variable RESEED_TUNE_STORAGE instead"
            )
        return value

    def check_space(self, train: Train) -> None:
        """Raise ValueError for a key or a value that `train` does not accept."""
        for key, values in self.space.values().items():
            if key not in Train.model_fields:
                raise ValueError(
                    f"tune.space.others names {key!r}{suggestion(key, list(Train.model_fields))}, "
                    "which is no key of train: rename or remove it"
                )
            for value in values:
                try:
                    Train.model_validate({**train.model_dump(), key: value})
                except ValidationError as e:
                    why = e.errors()[0]["msg"].removeprefix("Value error, ")
                    raise ValueError(
                        f"tune.space.{key} holds {value!r}: {why[:1].lower() + why[1:]}"
                    ) from None
