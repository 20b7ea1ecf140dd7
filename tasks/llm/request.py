"""What is asked of a language model and what comes back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.atomic import digest_of
from tasks.figures import Figures
from tasks.stage import Metrics

TEMPLATE_TOKENS = (
    128  # a chat template's own words: a system prompt that it adds, role marks, a date
)
MESSAGE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Request:
    """One chat completion. `tag` travels with it and is not part of its key; `tag["label"]` is its label.

    `schema` is the canonical JSON text of a JSON schema that the reply must follow; `attempt` tells apart requests
    that are otherwise the same.
    """

    messages: tuple[tuple[str, str], ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    attempt: int = 0
    schema: str | None = None
    tag: Any = None

    def key(self, endpoint: str, model: str) -> str:
        """SHA-256 (hex) of the endpoint's name, the model and everything that decides the answer."""
        body = {name: getattr(self, name) for name in self.__slots__ if name != "tag"}
        return digest_of({"endpoint": endpoint, "model": model, **body})

    @property
    def label(self) -> str:
        """The label in its tag, or "" where there is none."""
        return str(self.tag.get("label", "")) if isinstance(self.tag, dict) else ""

    @property
    def size(self) -> int:
        """UTF-8 bytes of its messages and schema."""
        parts = [text for message in self.messages for text in message] + [self.schema or ""]
        return sum(len(text.encode("utf-8", "replace")) for text in parts)

    def most_prompt_tokens(self) -> int:
        """No tokenizer makes more tokens of the prompt: a token is a byte at least, and the chat template has a margin."""
        return self.size + MESSAGE_TOKENS * len(self.messages) + TEMPLATE_TOKENS

    def likely_prompt_tokens(self) -> int:
        """About four bytes a token, as in English prose."""
        return math.ceil(self.size / 4) + MESSAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the text (None when the model sent none) and what it cost when it was bought.

    `measured` is False where the server told no usage: the tokens are then the most that they can have been.
    `bought` is False where it was found in the cache and cost nothing now.
    """

    request: Request
    key: str
    text: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    usd: float
    measured: bool
    bought: bool


@dataclass(frozen=True)
class RunOutcome:
    """What a run of requests left open: how many of each label have no reply, and why.

    `lost` counts them for whatever reason; `parked` has a sentence for each label that the endpoint put off for too
    long; `stopped` says why the run ended early, `over_budget` whether that was a limit of the budget.
    """

    lost: dict[str, int]
    parked: dict[str, str]
    stopped: str | None = None
    over_budget: bool = False


class Usage(Figures):
    """What generators were asked, and what their replies cost when they were bought.

    `lost` counts requests without a reply; `measured` is False where any part of it was estimated.
    """

    requests: int
    lost: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    measured: bool

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @classmethod
    def of(
        cls, requests: Sequence[Request], replies: Sequence[Reply], outcome: RunOutcome
    ) -> Usage:
        """The usage of one generator."""
        return Usage(
            requests=len(requests),
            lost=sum(outcome.lost.values()),
            prompt_tokens=sum(r.prompt_tokens for r in replies),
            completion_tokens=sum(r.completion_tokens for r in replies),
            usd=round(sum(r.usd for r in replies), 9),
            measured=all(r.measured for r in replies),
        )

    @classmethod
    def total(cls, parts: Iterable[Usage]) -> Usage:
        """The usage of several generators together."""
        parts = list(parts)
        return Usage(
            requests=sum(u.requests for u in parts),
            lost=sum(u.lost for u in parts),
            prompt_tokens=sum(u.prompt_tokens for u in parts),
            completion_tokens=sum(u.completion_tokens for u in parts),
            usd=sum(u.usd for u in parts),
            measured=all(u.measured for u in parts),
        )

    def metrics(self) -> Metrics:
        """The usage under `generate.`, for MLflow."""
        names = ("requests", "lost", "prompt_tokens", "completion_tokens", "usd")
        return {f"generate.{name}": float(getattr(self, name)) for name in names}


class RowUsage(Usage):
    """A generator's usage, and the rows that it wrote."""

    rows: int


class ReplyCache:
    """Finished answers on the disk, by the key of their request.

    Beside the fields of an answer a file may hold `seconds`, from sending the request to its answer: nothing hangs on it.
    """

    FIELDS = frozenset(
        {"text", "finish_reason", "prompt_tokens", "completion_tokens", "usd", "measured"}
    )

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def find(self, key: str) -> dict[str, Any] | None:
        """The fields of the answer, or None: a file that is torn or of another shape counts as none."""
        try:
            kept = atomic.read_json(self._path(key))
        except (OSError, ValueError):
            return None
        if not isinstance(kept, dict) or set(kept) - {"seconds"} != self.FIELDS:
            return None
        return {name: kept[name] for name in kept if name != "seconds"}

    def timing(self, key: str) -> tuple[float, float | None]:
        """When the answer of a finished request came (Unix seconds), and the seconds it took where they were measured."""
        seconds = atomic.read_json(self._path(key)).get("seconds")
        return self._path(key).stat().st_mtime, float(seconds) if isinstance(
            seconds, int | float
        ) else None

    def keep(self, key: str, kept: dict[str, Any]) -> None:
        atomic.write_json(self._path(key), kept)
