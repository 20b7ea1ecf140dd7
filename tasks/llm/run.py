"""One run over many requests: which is asked next, how often each is tried, and when the whole run is to end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import tenacity

from tasks.errors import TransientError, UserError
from tasks.llm import wire
from tasks.llm.budget import BudgetExhausted, cost_usd, price_response
from tasks.llm.connection import MAX_RETRY_AFTER, Connection, backoff_seconds
from tasks.llm.deferral import DeferredLabels
from tasks.llm.request import Reply, Request, RunOutcome

FIRST_FAILURES = 5  # requests, each with all its tries, that end a run in which none was answered
WATCHED = 20  # finished requests that the breaker looks at
LEAST_WATCHED = 10


@dataclass(slots=True)
class _Ask:
    request: Request
    key: str
    began: float | None = None  # its first try, from which its deadline counts
    tries: int = 0


class _PutOff(Exception):
    """The endpoint asks to wait longer than the cap."""


class ConcurrentRun:
    """The requests of one call of ask_all, on the client's event loop. `emit` is given each reply.

    `unread` tells how many of them wait to be taken: nothing more is bought for a caller who does not come.
    """

    def __init__(
        self, context: Connection, *, emit: Callable[[Reply], None], unread: Callable[[], int]
    ) -> None:
        self.c = context
        self.emit, self._unread = emit, unread
        self._wake = asyncio.Event()
        self._running: dict[asyncio.Task[None], _Ask] = {}
        self._sending: set[asyncio.Task[Any] | None] = set()
        self._twins: dict[str, list[_Ask]] = {}  # the same request again, while the first is asked
        self._ready: deque[_Ask] = deque()
        self._exhausted = False
        self._parking: DeferredLabels[_Ask] = DeferredLabels(context.endpoint.deadline_seconds)
        self._taken: Counter[str] = Counter()
        self._replied: Counter[str] = Counter()
        self._finished: deque[bool] = deque(maxlen=WATCHED)  # True: answered
        self._answered = False
        self._last: Exception | None = None
        self._fatal: BaseException | None = None
        self._stopped: str | None = None
        self._over_budget = False

    def wake(self) -> None:
        """Look again for something to do: a reply was taken."""
        self._wake.set()

    @property
    def outcome(self) -> RunOutcome:
        lost = {
            label: n for label, taken in self._taken.items() if (n := taken - self._replied[label])
        }
        return RunOutcome(
            dict(sorted(lost.items())), dict(self._parking.closed), self._stopped, self._over_budget
        )

    async def over(self, waiting: Iterator[Request]) -> None:
        """Ask them all. Raises UserError for what no retry mends, TransientError when nothing was answered, unless all that is
        missing was put off for too long: `outcome` says for how long."""
        try:
            while True:
                self._fill(waiting)
                if self._fatal:
                    raise self._fatal
                if not self._running and self._stopped:
                    break
                if not self._running and self._exhausted and not self._ready:
                    if not self._parking.asks:
                        break
                    await self._unpark()
                    continue
                await self._wake.wait()
                self._wake.clear()
        finally:
            await self._end()
        self._hand_out_rest(waiting)
        put_off = self.outcome.lost.keys() <= self._parking.closed.keys()
        if self._last and not self._replied and not self._stopped and not put_off:
            raise self._last

    async def _end(self) -> None:
        for task in self._running:
            task.cancel()
        while self._running:
            await asyncio.wait(set(self._running))

    def _room(self) -> bool:
        return (
            not (self._stopped or self._fatal)
            and len(self._running) < self.c.window.size
            and self._unread() <= 2 * self.c.endpoint.concurrency
        )

    def _fill(self, waiting: Iterator[Request]) -> None:
        while self._room() and (ask := self._next(waiting)) is not None:
            task = asyncio.create_task(self._ask(ask))
            self._running[task] = ask
            task.add_done_callback(self._ended)

    def _next(self, waiting: Iterator[Request]) -> _Ask | None:
        """The next request that must be bought; those found in the cache are handed out on the way."""
        while self._room():
            if self._ready:
                ask = self._ready.popleft()
            else:
                request = next(waiting, None)
                if request is None:
                    self._exhausted = True
                    return None
                ask = self._begun(request)
            label = ask.request.label
            if ask.key in self._twins:
                self._twins[ask.key].append(ask)
            elif (kept := self.c.found(ask.key)) is not None:
                self._hand_out(ask, kept, bought=False)
            elif label in self._parking.asks:
                self._parking.asks[label].append(ask)
            elif label not in self._parking.closed:
                self._twins[ask.key] = []
                return ask
        return None

    def _begun(self, request: Request) -> _Ask:
        self._taken[request.label] += 1
        return _Ask(request, request.key(self.c.name, self.c.model))

    def _hand_out(self, ask: _Ask, kept: dict[str, Any], *, bought: bool) -> None:
        self._replied[ask.request.label] += 1
        self.emit(Reply(ask.request, ask.key, **kept, bought=bought))

    def _hand_out_rest(self, waiting: Iterator[Request]) -> None:
        """After an early end, what an earlier run bought: nothing that is paid for is left behind."""
        for request in waiting:
            ask = self._begun(request)
            if (kept := self.c.found(ask.key)) is not None:
                self._hand_out(ask, kept, bought=False)

    async def _unpark(self) -> None:
        """Wait for the label whose time is over first, and make its requests ready again."""
        until, asks = self._parking.first()
        rest = until - asyncio.get_running_loop().time()
        if rest > 0:
            await self.c.sleep(rest)
        self._ready.extend(asks)

    async def _ask(self, ask: _Ask) -> None:
        """All tries of one request, and what follows from their end."""
        try:
            kept = await self._tried(ask)
        except _PutOff:
            self._parking.asks[ask.request.label] += [ask, *self._twins.pop(ask.key)]
        except BudgetExhausted as e:
            self._stop(str(e), over_budget=True)
        except TimeoutError:
            self._failed(
                TransientError(
                    f"the endpoint {self.c.url} did not answer a request within its deadline of "
                    f"{self.c.endpoint.deadline_seconds:g} s, tries and waits included (generate.deadline_seconds)"
                )
            )
        except (openai.APIError, wire.MalformedResponse, wire.AttemptTimeout) as e:
            self._failed(self.c.explained(e), parked=ask.request.label in self._parking.closed)
        else:
            self._answered = True
            self._finished.append(True)
            self._hand_out(ask, kept, bought=True)
            for twin in self._twins.pop(ask.key, []):
                self._hand_out(twin, kept, bought=False)
        finally:
            self._twins.pop(ask.key, None)

    def _failed(self, error: Exception, *, parked: bool = False) -> None:
        if isinstance(error, UserError):
            raise error
        self._last = error
        if parked:
            return  # the endpoint is up; it wants this label later
        self._finished.append(False)
        failed = self._finished.count(False)
        if not self._answered and failed >= FIRST_FAILURES:
            raise error
        if len(self._finished) >= LEAST_WATCHED and 2 * failed > len(self._finished):
            self._stop(
                f"{failed} of the last {len(self._finished)} requests failed with all their tries: {error}"
            )

    def _stop(self, why: str, *, over_budget: bool = False) -> None:
        """Send nothing more; what is on its way is waited for, as it may be billed."""
        if not self._stopped:
            self._stopped, self._over_budget = why, over_budget
        current = asyncio.current_task()
        for task in self._running:
            if task is not current and task not in self._sending:
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()):
            self._fatal = self._fatal or error
        self._wake.set()

    async def _tried(self, ask: _Ask) -> dict[str, Any]:
        retrying = tenacity.AsyncRetrying(
            stop=lambda state: self._no_more(ask, state),
            wait=backoff_seconds,
            retry=tenacity.retry_if_exception(wire.is_transient),
            reraise=True,
            sleep=self.c.sleep,
        )
        async with asyncio.timeout(None) as deadline:
            if ask.began is not None:
                deadline.reschedule(ask.began + self.c.endpoint.deadline_seconds)
            return await retrying(self._try, ask, deadline)

    def _no_more(self, ask: _Ask, state: tenacity.RetryCallState) -> bool:
        """Whether this was the last try. Raises _PutOff when the next one comes after the other labels' requests."""
        if self._stopped:
            return True
        now, last = asyncio.get_running_loop().time(), ask.tries > self.c.endpoint.retries
        wanted = wire.retry_after(
            state.outcome.exception() if state.outcome else None, now=time.time()
        )
        if wanted is not None and wanted > MAX_RETRY_AFTER:
            if (
                self._parking.park(ask.request.label, seconds=wanted, now=now, url=self.c.url)
                and not last
            ):
                raise _PutOff
            return True
        # where the wait would outlast the deadline there is no use in waiting
        return (
            last
            or now + state.upcoming_sleep > (ask.began or now) + self.c.endpoint.deadline_seconds
        )

    async def _try(self, ask: _Ask, deadline: asyncio.Timeout) -> dict[str, Any]:
        """One try, with its reservation before and its settlement after, whatever happens."""
        request, loop = ask.request, asyncio.get_running_loop()
        await self.c.pace.admit(request)
        prompt, completion = request.most_prompt_tokens() + self.c.pace.excess, request.max_tokens
        usd = cost_usd(self.c.endpoint.price, prompt=prompt, completion=completion)
        hold = await self.c.ledger.admitted(ask.key, tokens=prompt + completion, usd=usd)
        sent, task = loop.time(), asyncio.current_task()
        if ask.began is None:
            ask.began = sent
            deadline.reschedule(sent + self.c.endpoint.deadline_seconds)
        ask.tries += 1
        self._sending.add(task)
        try:
            answer = await self._sent(request)
            deadline.reschedule(None)  # what is paid for is kept
            kept = price_response(
                answer, self.c.endpoint.price, prompt=prompt, completion=completion
            )
            took = {"seconds": round(loop.time() - sent, 3)}
            await self._on_disk(self.c.keep, ask.key, kept | took, hold)
        except BaseException as e:
            charged = wire.may_be_billed(e)
            tokens, usd = (hold.tokens, hold.usd) if charged else (0, 0.0)
            await self._on_disk(
                self.c.ledger.settle, hold, tokens=tokens, usd=usd, measured=not charged
            )
            if wire.is_overload(e):
                self.c.window.faltered(sent=sent, now=loop.time())
            raise
        finally:
            self._sending.discard(task)
        self.c.window.answered(kept["completion_tokens"], sent=sent, now=loop.time())
        if kept["measured"]:
            self.c.pace.learn(request, kept["prompt_tokens"])
        return kept

    async def _sent(self, request: Request) -> wire.ChatResponse:
        try:
            async with asyncio.timeout(self.c.endpoint.timeout_seconds):
                return await wire.send_chat(self.c.api, wire.chat_body(request, self.c.model))
        except TimeoutError:
            raise wire.AttemptTimeout from None

    async def _on_disk(self, work: Callable[..., None], *args: Any, **values: Any) -> None:
        """`work` in a thread, to its end even when this request is cancelled meanwhile."""
        done = asyncio.get_running_loop().run_in_executor(
            self.c.disk, lambda: work(*args, **values)
        )
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait({done})
            raise
