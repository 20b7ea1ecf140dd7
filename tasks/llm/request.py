"""Requests to a language model, their replies, and the cache of finished completions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from tasks import atomic
from tasks.atomic import digest_of
from tasks.figures import Figures
from tasks.stage import Metrics

TEMPLATE_TOKENS = 128  # what a chat template adds: a system prompt, role markers, a date
MESSAGE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Request:
    """One chat completion to ask for.

    `schema` is the canonical JSON text of a JSON schema that the reply must follow; `attempt` tells
    apart requests that are otherwise the same. `tag` is the caller's own data: it is neither sent
    nor part of the key, and `tag["label"]` is the request's label.
    """

    messages: tuple[tuple[str, str], ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    attempt: int = 0
    schema: str | None = None
    tag: Mapping[str, Any] = field(default_factory=dict)

    def key(self, endpoint: str, model: str) -> str:
        """SHA-256 (hex) of the endpoint's name, the model and all that decides the answer."""
        body = {name: getattr(self, name) for name in self.__slots__ if name != "tag"}
        return digest_of({"endpoint": endpoint, "model": model, **body})

    @property
    def label(self) -> str:
        """The label in its tag, or "" where there is none."""
        return str(self.tag.get("label", ""))

    @property
    def size(self) -> int:
        """UTF-8 bytes of its messages and schema."""
        parts = [text for message in self.messages for text in message] + [self.schema or ""]
        return sum(len(text.encode("utf-8", "replace")) for text in parts)

    @property
    def max_prompt_tokens(self) -> int:
        """An upper bound on the prompt's tokens: one per byte, and the chat template's."""
        return self.size + MESSAGE_TOKENS * len(self.messages) + TEMPLATE_TOKENS

    @property
    def expected_prompt_tokens(self) -> int:
        """An estimate of the prompt's tokens: one per four bytes, as in English prose."""
        return math.ceil(self.size / 4) + MESSAGE_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished chat completion, and what it cost when it was bought.

    `text` is None where the model sent none. Where the server reported no usage, `measured` is
    False and the token counts are upper bounds. `seconds` is the time from the request to its
    answer; None where it was not measured.
    """

    text: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    usd: float
    measured: bool
    seconds: float | None = None

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Completion):
    """The completion of a request; `bought` is False where it came from the cache for free."""

    request: Request
    key: str
    bought: bool


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run of requests left open.

    `lost` counts the requests without a reply, by label. `deferred` has the reason for each label
    that the endpoint deferred for too long. `stopped` says why the run ended early; `over_budget`
    is True where that was a limit of the budget.
    """

    lost: dict[str, int] = field(default_factory=dict)
    deferred: dict[str, str] = field(default_factory=dict)
    stopped: str | None = None
    over_budget: bool = False


class Usage(Figures):
    """How many requests were made, and what their replies cost when they were bought.

    `lost` counts requests without a reply; `measured` is False where any part was estimated.
    """

    requests: int
    lost: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    measured: bool

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    @classmethod
    def of(
        cls,
        requests: Sequence[Request],
        replies: Sequence[Reply],
        outcome: RunOutcome,
        /,
        **fields: Any,
    ) -> Self:
        """The usage of one generator, and the other fields of the class."""
        return cls(
            requests=len(requests),
            lost=sum(outcome.lost.values()),
            prompt_tokens=sum(r.prompt_tokens for r in replies),
            completion_tokens=sum(r.completion_tokens for r in replies),
            usd=round(sum(r.usd for r in replies), 9),
            measured=all(r.measured for r in replies),
            **fields,
        )

    @classmethod
    def total(cls, parts: Iterable[Usage], /, **fields: Any) -> Self:
        """The usage of several generators together, and the other fields of the class."""
        parts = list(parts)
        sums = {name: sum(getattr(u, name) for u in parts) for name in _COUNTS}
        return cls(**sums, measured=all(u.measured for u in parts), **fields)

    def metrics(self) -> Metrics:
        """The counts for MLflow, under `generate.`."""
        return {f"generate.{name}": float(getattr(self, name)) for name in _COUNTS}


_COUNTS = ("requests", "lost", "prompt_tokens", "completion_tokens", "usd")


class RowUsage(Usage):
    """A generator's usage, and the number of rows that it wrote."""

    rows: int


class ReplyCache:
    """Finished completions on disk, by the key of their request."""

    _completion = TypeAdapter(Completion)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """The file of the request `key`."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Completion | None:
        """The completion; None where there is none, or its file is damaged or of another format."""
        try:
            return self._completion.validate_json(self.path(key).read_bytes(), strict=True)
        except (OSError, ValueError):
            return None

    def put(self, key: str, completion: Completion) -> None:
        """Write the completion atomically."""
        atomic.write_json(self.path(key), asdict(completion))
