"""What every section of a project is: strict and frozen."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
# strict models take no list for a tuple, and YAML has only lists
Texts = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
Integers = Annotated[tuple[int, ...], BeforeValidator(_tuple)]


class Section(BaseModel):
    """Strict and frozen: an unknown key or a wrong type is an error, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
