"""Whom a client asks and with what: the same for requests one by one and for batches."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import openai
import tenacity

from tasks.llm import wire
from tasks.llm.budget import Ledger, Reservation
from tasks.llm.request import ReplyCache
from tasks.llm.throttle import ConcurrencyWindow, RateLimiter
from tasks.project import Endpoint

MAX_RETRY_AFTER = 30.0  # seconds; an endpoint that asks for more has its label parked

Sleep = Callable[[float], Awaitable[None]]
_backoff = tenacity.wait_exponential_jitter(initial=0.5, max=MAX_RETRY_AFTER, jitter=0.5)


@dataclass(frozen=True)
class Connection:
    """Whom to ask and with what: what the runs of one client share."""

    api: openai.AsyncOpenAI
    endpoint: Endpoint
    url: str
    name: str
    model: str
    cache: ReplyCache
    ledger: Ledger
    window: ConcurrencyWindow
    pace: RateLimiter
    disk: Executor
    sleep: Sleep

    def explained(self, error: BaseException) -> Exception:
        return wire.explain_error(
            error, url=self.url, model=self.model, timeout=self.endpoint.timeout_seconds
        )

    def found(self, key: str) -> dict[str, Any] | None:
        """The answer in the cache; what a run that ended early had set aside for it is settled."""
        kept = self.cache.find(key)
        if kept is not None and (orphan := self.ledger.orphan(key)):
            self.ledger.settle(orphan, **spent(kept))
        return kept

    def keep(self, key: str, kept: dict[str, Any], hold: Reservation | None) -> None:
        """Write an answer and then its cost: what is paid for must not be lost by a kill between the two."""
        self.cache.keep(key, kept)
        if hold:
            self.ledger.settle(hold, **spent(kept))


def spent(kept: dict[str, Any]) -> dict[str, Any]:
    """What the ledger books for an answer."""
    return {
        "tokens": kept["prompt_tokens"] + kept["completion_tokens"],
        "usd": kept["usd"],
        "measured": kept["measured"],
    }


def backoff_seconds(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try: what the endpoint asks for, up to the cap, otherwise growing ones with jitter."""
    wanted = wire.retry_after(state.outcome.exception() if state.outcome else None, now=time.time())
    return _backoff(state) if wanted is None else min(wanted, MAX_RETRY_AFTER)
