"""What all runs of requests share: a connection with cache and ledger, and what is missing."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import openai
import tenacity

from tasks.llm import wire
from tasks.llm.budget import Ledger, Reservation
from tasks.llm.request import Completion, Reply, ReplyCache, Request, RunOutcome
from tasks.llm.throttle import ConcurrencyWindow, RateLimiter
from tasks.project import Endpoint

MAX_RETRY_AFTER = 30.0  # seconds; where an endpoint asks for more, the label is deferred

Sleep = Callable[[float], Awaitable[None]]
_backoff = tenacity.wait_exponential_jitter(initial=0.5, max=MAX_RETRY_AFTER, jitter=0.5)


@dataclass(frozen=True)
class Connection:
    """One endpoint and model at `url`, with the cache, ledger and limits that its runs share."""

    api: openai.AsyncOpenAI
    endpoint: Endpoint
    url: str
    model: str
    cache: ReplyCache
    ledger: Ledger
    window: ConcurrencyWindow
    limiter: RateLimiter
    sleep: Sleep

    def explain(self, error: BaseException) -> Exception:
        """The error for the user, see wire.explain_error."""
        return wire.explain_error(
            error, url=self.url, model=self.model, timeout=self.endpoint.timeout_seconds
        )

    def find(self, key: str) -> Completion | None:
        """The completion in the cache; what an earlier run left reserved for it is settled."""
        completion = self.cache.get(key)
        if completion and (reservation := self.ledger.unsettled(key)):
            self._settle(reservation, completion)
        return completion

    def store(self, key: str, completion: Completion, reservation: Reservation | None) -> None:
        """Write a completion, then its cost: if killed in between, what was bought is not lost."""
        self.cache.put(key, completion)
        if reservation:
            self._settle(reservation, completion)

    def _settle(self, reservation: Reservation, completion: Completion) -> None:
        self.ledger.settle(
            reservation,
            tokens=completion.tokens,
            usd=completion.usd,
            measured=completion.measured,
        )

    async def on_disk(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread, to its end even where this task is cancelled meanwhile."""
        done = asyncio.get_running_loop().run_in_executor(None, work)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait({done})
            raise

    def retrying(self, stop: Callable[[tenacity.RetryCallState], bool]) -> tenacity.AsyncRetrying:
        """Retries of transient errors, with exponential backoff and jitter, until `stop`."""
        return tenacity.AsyncRetrying(
            stop=stop,
            wait=_backoff_seconds,
            retry=tenacity.retry_if_exception(wire.is_transient),
            reraise=True,
            sleep=self.sleep,
        )


def requested_wait(state: tenacity.RetryCallState) -> float | None:
    """Seconds that the endpoint asked to wait in its last response, if any."""
    error = state.outcome.exception() if state.outcome else None
    return wire.retry_after(error, now=time.time())


def _backoff_seconds(state: tenacity.RetryCallState) -> float:
    requested = requested_wait(state)
    return _backoff(state) if requested is None else min(requested, MAX_RETRY_AFTER)


class Run(ABC):
    """The requests of one call of Client.ask_all, on the client's event loop.

    Each reply is passed to `emit` as it arrives.
    """

    def __init__(self, connection: Connection, *, emit: Callable[[Reply], None]) -> None:
        self._connection = connection
        self._emit = emit
        self._changed = asyncio.Event()
        self._taken: Counter[str] = Counter()
        self._replied: Counter[str] = Counter()
        self._last_error: Exception | None = None
        self._stopped: str | None = None
        self._over_budget = False

    @abstractmethod
    async def ask_all(self, requests: Iterator[Request]) -> None:
        """Emit every reply.

        Raises UserError for what no retry fixes, and TransientError where nothing was answered,
        unless all that is missing was deferred for too long.
        """

    def wake(self) -> None:
        """Look for something to do: the caller has taken a reply."""
        self._changed.set()

    @property
    def outcome(self) -> RunOutcome:
        """What is open so far."""
        lost = {label: n for label in sorted(self._taken) if (n := self._missing(label))}
        return RunOutcome(lost, {}, self._stopped, self._over_budget)

    def _missing(self, label: str) -> int:
        return self._taken[label] - self._replied[label]

    def _take(self, request: Request) -> str:
        """Count the request. Returns its key."""
        self._taken[request.label] += 1
        return request.key(self._connection.endpoint.endpoint, self._connection.model)

    def _deliver(self, request: Request, key: str, completion: Completion, *, bought: bool) -> None:
        self._replied[request.label] += 1
        fields = {name: getattr(completion, name) for name in Completion.__slots__}
        self._emit(Reply(request=request, key=key, bought=bought, **fields))

    def _raise_unless_answered(self) -> None:
        outcome = self.outcome
        deferred = outcome.lost.keys() <= outcome.deferred.keys()
        if self._last_error and not self._replied and not self._stopped and not deferred:
            raise self._last_error
