"""Requests one by one, many at once: which is sent next, and when the whole run ends."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import openai

from tasks.errors import TransientError, UserError
from tasks.llm import wire
from tasks.llm.budget import BudgetExhausted
from tasks.llm.request import Reply, Request, RunOutcome
from tasks.llm.run import Connection, Run
from tasks.llm.sender import Deferred, Pending, Sender

FIRST_FAILURES = 5  # failed requests that end a run in which none was answered
RECENT = 20  # finished requests that the circuit breaker considers
MIN_RECENT = 10


class CircuitBreaker:
    """Decides from the last finished requests whether the endpoint is asked any further."""

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=RECENT)  # True: answered
        self._answered = False

    def record_success(self) -> None:
        """Count an answered request."""
        self._answered = True
        self._recent.append(True)

    def record_failure(self, error: Exception) -> str | None:
        """Count a failed request. Returns why the run should stop, if it should.

        Raises `error` where the run's first requests have all failed.
        """
        self._recent.append(False)
        failed, total = self._recent.count(False), len(self._recent)
        if not self._answered and failed >= FIRST_FAILURES:
            raise error
        if total < MIN_RECENT or 2 * failed <= total:
            return None
        return f"{failed} of the last {total} requests failed after every retry: {error}"


class DeferredLabels:
    """The requests that wait for each deferred label, and the reason for each label given up.

    The waits of one label are added up: together they may last `max_wait` seconds.
    """

    def __init__(self, *, url: str, max_wait: float) -> None:
        self.waiting: dict[str, list[Pending]] = {}
        self.given_up: dict[str, str] = {}
        self._url, self._max_wait = url, max_wait
        self._until: dict[str, float] = {}
        self._waited: dict[str, float] = defaultdict(float)

    def defer(self, label: str, seconds: float) -> bool:
        """Defer the label for `seconds`. False where it was given up, now or before."""
        if label not in self.waiting and label not in self.given_up:
            waited = self._waited[label] + seconds
            if waited > self._max_wait:
                self.given_up[label] = (
                    f"the endpoint {self._url} asked to wait {waited:.0f} s (Retry-After), longer than "
                    f"generate.deadline_seconds {self._max_wait:g}: run it again later; answers so "
                    f"far are kept"
                )
            else:
                self.waiting[label], self._waited[label] = [], waited
                self._until[label] = asyncio.get_running_loop().time() + seconds
        return label in self.waiting

    def pop_first(self) -> tuple[float, list[Pending]]:
        """Remove the label whose wait ends first: the time when it ends, and its requests."""
        label = min(self._until, key=self._until.__getitem__)
        return self._until.pop(label), self.waiting.pop(label)


class ParallelRun(Run):
    """Requests sent one by one, as many at once as the endpoint can take.

    `unread` counts the replies that the caller has not taken yet: nothing is bought far ahead of
    it.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        emit: Callable[[Reply], None],
        unread: Callable[[], int],
    ) -> None:
        super().__init__(connection, emit=emit)
        self._unread = unread
        self._running: set[asyncio.Task[None]] = set()
        self._duplicates: dict[str, list[Pending]] = {}  # of requests that are running
        self._resumed: deque[Pending] = deque()  # deferred ones whose wait is over
        self._deferred = DeferredLabels(
            url=connection.url, max_wait=connection.endpoint.deadline_seconds
        )
        self._sender = Sender(connection, defer=self._deferred.defer)
        self._breaker = CircuitBreaker()
        self._exhausted = False
        self._fatal: BaseException | None = None

    @property
    def outcome(self) -> RunOutcome:
        """What is open so far."""
        return replace(super().outcome, deferred=dict(self._deferred.given_up))

    async def ask_all(self, requests: Iterator[Request]) -> None:
        """See Run.ask_all."""
        try:
            self._start(requests)
            while not self._is_done():
                if self._running or self._resumed or not self._exhausted:
                    await self._changed.wait()
                    self._changed.clear()
                else:
                    await self._resume_deferred()
                self._start(requests)
        finally:
            await self._cancel()
        for request in requests:  # left after an early end: those in the cache cost nothing
            key = self._take(request)
            if completion := self._connection.find(key):
                self._deliver(request, key, completion, bought=False)
        self._raise_unless_answered()

    def _start(self, requests: Iterator[Request]) -> None:
        """Start as many requests as there is room for."""
        while self._has_room() and (pending := self._next(requests)):
            task = asyncio.create_task(self._ask(pending))
            self._running.add(task)
            task.add_done_callback(self._on_done)

    def _is_done(self) -> bool:
        """True where nothing is left to do. Raises the error that ends the run."""
        if self._fatal:
            raise self._fatal
        finished = self._exhausted and not self._resumed and not self._deferred.waiting
        return not self._running and (finished or self._stopped is not None)

    def _has_room(self) -> bool:
        return (
            not (self._stopped or self._fatal)
            and len(self._running) < self._connection.window.size
            and self._unread() <= 2 * self._connection.endpoint.concurrency
        )

    def _next(self, requests: Iterator[Request]) -> Pending | None:
        """The next request to buy. Those in the cache are delivered on the way."""
        while self._has_room():
            pending = self._resumed.popleft() if self._resumed else self._take_next(requests)
            if pending is None:
                return None
            label = pending.request.label
            if pending.key in self._duplicates:
                self._duplicates[pending.key].append(pending)
            elif completion := self._connection.find(pending.key):
                self._deliver(pending.request, pending.key, completion, bought=False)
            elif label in self._deferred.waiting:
                self._deferred.waiting[label].append(pending)
            elif label not in self._deferred.given_up:
                self._duplicates[pending.key] = []
                return pending
        return None

    def _take_next(self, requests: Iterator[Request]) -> Pending | None:
        request = next(requests, None)
        self._exhausted = request is None
        return Pending(request, self._take(request)) if request else None

    async def _resume_deferred(self) -> None:
        """Wait for the label whose wait ends first, and make its requests ready again."""
        until, requests = self._deferred.pop_first()
        seconds = until - asyncio.get_running_loop().time()
        if seconds > 0:
            await self._connection.sleep(seconds)
        self._resumed.extend(requests)

    async def _ask(self, pending: Pending) -> None:
        """Send one request, and do what follows from its end."""
        request, key, endpoint = pending.request, pending.key, self._connection.endpoint
        try:
            completion = await self._sender.send(pending)
        except Deferred:
            self._deferred.waiting[request.label] += [pending, *self._duplicates.pop(key)]
        except BudgetExhausted as e:
            self._stop(str(e), over_budget=True)
        except TimeoutError:
            self._fail(
                TransientError(
                    f"the endpoint {self._connection.url} did not answer a request within "
                    f"{endpoint.deadline_seconds:g} s, retries and waits included: raise "
                    f"generate.deadline_seconds, or run it again later"
                )
            )
        except (openai.APIError, wire.MalformedResponse, wire.AttemptTimeout) as e:
            error = self._connection.explain(e)
            self._fail(error, deferred=request.label in self._deferred.given_up)
        else:
            self._breaker.record_success()
            self._deliver(request, key, completion, bought=True)
            for duplicate in self._duplicates.pop(key, []):
                self._deliver(duplicate.request, key, completion, bought=False)
        finally:
            self._duplicates.pop(key, None)

    def _fail(self, error: Exception, *, deferred: bool = False) -> None:
        if isinstance(error, UserError):
            raise error
        self._last_error = error
        if deferred:  # the endpoint works; it wants this label later
            return
        if reason := self._breaker.record_failure(error):
            self._stop(reason)

    def _stop(self, reason: str, *, over_budget: bool = False) -> None:
        """Send nothing more. Attempts in flight are waited for, as they may be billed."""
        if not self._stopped:
            self._stopped, self._over_budget = reason, over_budget
        self._sender.stop()
        for task in self._running - {asyncio.current_task()} - self._sender.in_flight:
            task.cancel()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fatal = self._fatal or error
        self._changed.set()

    async def _cancel(self) -> None:
        for task in self._running:
            task.cancel()
        while self._running:
            await asyncio.wait(set(self._running))
