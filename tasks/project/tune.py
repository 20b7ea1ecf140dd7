"""How better settings for the fine-tuning are searched."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from tasks.project.base import Integers, Positive, Section, _tuple

Range = Annotated[tuple[float, float], BeforeValidator(_tuple)]
IntRange = Annotated[tuple[int, int], BeforeValidator(_tuple)]


class Space(Section):
    """Where the settings of `train` are searched; a key that is `null` keeps the project's own value."""

    learning_rate: Range | None = Field(
        (1e-5, 3e-4), description="lowest and highest; searched by its logarithm"
    )
    epochs: IntRange | None = Field((2, 8), description="lowest and highest")
    batch_size: Integers | None = Field((8, 16, 32), description="the values to choose from")
    weight_decay: Range | None = Field((0.0, 0.1), description="lowest and highest")
    warmup: Range | None = Field((0.0, 0.2), description="lowest and highest")
    label_smoothing: Range | None = Field((0.0, 0.2), description="lowest and highest")
    others: dict[str, list[Any]] = Field(
        {}, description="any other key of `train`, with the values to choose from"
    )

    @field_validator("learning_rate", "epochs", "weight_decay", "warmup", "label_smoothing")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value and value[0] > value[1]:
            raise ValueError(f"write the lower one first: [{value[1]}, {value[0]}]")
        return value

    @field_validator("others")
    @classmethod
    def _some(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in value.items():
            if key == "seeds":
                raise ValueError("'seeds' is no setting to search: the first one is used")
            if key in cls.model_fields:
                raise ValueError(f"{key!r} has a key of its own in tune.space")
            if not values or not all(
                v is None or isinstance(v, (str, int, float, bool)) for v in values
            ):
                raise ValueError(f"give {key!r} a list of plain values to choose from")
        return value

    @field_validator("batch_size")
    @classmethod
    def _any(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value == ():
            raise ValueError("give the values to choose from, or null")
        return value

    def values(self) -> dict[str, list[Any]]:
        """The ends of each range and the values of each choice, by the key of `train`."""
        own = {
            k: list(v)
            for k in type(self).model_fields
            if k != "others" and (v := getattr(self, k)) is not None
        }
        return own | self.others


class Tune(Section):
    """How better settings for the fine-tuning are searched, by `reseed tune`."""

    trials: Positive = Field(
        20, description="trainings, pruned ones included; failed ones are not counted"
    )
    timeout_seconds: Positive | None = Field(None, description="after which no trial begins")
    folds: int = Field(
        0,
        ge=0,
        le=20,
        description="2 and more: real training rows are held out in turn and judged beside dev",
    )
    prune: bool = Field(
        True,
        description="stop a trial whose dev F1 is below the median of the others' at that share of their training",
    )
    storage: str | None = Field(
        None,
        description="a database URL that several machines share; a SQLite file in the workspace without it",
    )
    seed: int = Field(0, description="of the search")
    space: Space = Field(Space(), description="where it is searched")

    @field_validator("folds")
    @classmethod
    def _two(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one fold holds nothing out: use 0, or 2 and more")
        return value

    @field_validator("storage")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        if value and "://" not in value:
            raise ValueError("write a database URL, such as postgresql://host/reseed")
        if value and urlsplit(value).password:
            raise ValueError(
                "it holds a password: put the URL into the environment as RESEED_TUNE_STORAGE"
            )
        return value

    def check(self, train: Section) -> None:
        """Raise ValueError for a key or a value that `train` does not take."""
        for key, values in self.space.values().items():
            if key not in type(train).model_fields:
                raise ValueError(f"tune.space.others names {key!r}, which is no key of train")
            for value in values:
                try:
                    type(train).model_validate({**train.model_dump(), key: value})
                except ValidationError as e:
                    why = e.errors()[0]["msg"].removeprefix("Value error, ")
                    raise ValueError(
                        f"tune.space.{key} holds {value!r}: {why[:1].lower() + why[1:]}"
                    ) from None
