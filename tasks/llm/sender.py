"""All attempts at one request: with retries and backoff, within its deadline and the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import tenacity

from tasks.llm import wire
from tasks.llm.budget import Reservation, cost_usd, price_response
from tasks.llm.request import Completion, Request
from tasks.llm.run import MAX_RETRY_AFTER, Connection, requested_wait


@dataclass(slots=True)
class Pending:
    """A request without a reply: when its first attempt was sent, and how many there were."""

    request: Request
    key: str
    first_sent: float | None = None
    attempts: int = 0


class Deferred(Exception):
    """The endpoint asks to wait longer than MAX_RETRY_AFTER."""


class Sender:
    """Sends requests until they are answered.

    `defer(label, seconds)` is called where the endpoint asks for a long wait: False where the label
    is given up. `in_flight` are the tasks whose attempt may be billed.
    """

    def __init__(self, connection: Connection, *, defer: Callable[[str, float], bool]) -> None:
        self.in_flight: set[asyncio.Task[Any] | None] = set()
        self._connection = connection
        self._endpoint = connection.endpoint
        self._defer = defer
        self._stopped = False

    def stop(self) -> None:
        """Make no further retries."""
        self._stopped = True

    async def send(self, pending: Pending) -> Completion:
        """The completion, cached and booked.

        Raises Deferred, BudgetExhausted, TimeoutError after the request's deadline, or the error of
        the last attempt (openai.APIError, MalformedResponse, AttemptTimeout).
        """
        retrying = self._connection.retrying(partial(self._is_last, pending))
        async with asyncio.timeout(None) as deadline:
            if pending.first_sent is not None:
                deadline.reschedule(self._deadline(pending.first_sent))
            return await retrying(self._attempt, pending, deadline)

    def _deadline(self, first_sent: float) -> float:
        return first_sent + self._endpoint.deadline_seconds

    def _is_last(self, pending: Pending, state: tenacity.RetryCallState) -> bool:
        """True where no attempt follows. Raises Deferred where the label has to wait."""
        if self._stopped:
            return True
        now = asyncio.get_running_loop().time()
        is_last = pending.attempts > self._endpoint.retries
        wait = requested_wait(state)
        if wait is not None and wait > MAX_RETRY_AFTER:
            if self._defer(pending.request.label, wait) and not is_last:
                raise Deferred
            return True
        next_attempt = now + state.upcoming_sleep
        return is_last or next_attempt > self._deadline(pending.first_sent or now)

    async def _attempt(self, pending: Pending, deadline: asyncio.Timeout) -> Completion:
        """One attempt, reserved before it and settled after it, whatever happens."""
        connection, request, loop = self._connection, pending.request, asyncio.get_running_loop()
        await connection.limiter.acquire(request)
        bounds, price = connection.limiter.token_bounds(request), self._endpoint.price
        reservation = await connection.ledger.reserve_when_free(
            pending.key, tokens=sum(bounds), usd=cost_usd(price, *bounds)
        )
        sent, task = loop.time(), asyncio.current_task()
        if pending.first_sent is None:
            pending.first_sent = sent
            deadline.reschedule(self._deadline(sent))
        pending.attempts += 1
        self.in_flight.add(task)
        try:
            response = await self._respond(request)
            deadline.reschedule(None)  # what is paid for is kept
            seconds = round(loop.time() - sent, 3)
            completion = price_response(response, price, bounds, seconds=seconds)
            store = partial(connection.store, pending.key, completion, reservation)
            await connection.on_disk(store)
        except BaseException as error:
            await self._settle_failure(reservation, error)
            if wire.is_overload(error):
                connection.window.record_overload(sent=sent, now=loop.time())
            raise
        finally:
            self.in_flight.discard(task)
        connection.window.record_reply(completion.completion_tokens, sent=sent, now=loop.time())
        if completion.measured:
            connection.limiter.learn(request, completion.prompt_tokens)
        return completion

    async def _respond(self, request: Request) -> wire.ChatResponse:
        body = wire.chat_body(request, self._connection.model)
        try:
            async with asyncio.timeout(self._endpoint.timeout_seconds):
                return await wire.send_chat(self._connection.api, body)
        except TimeoutError:
            raise wire.AttemptTimeout from None

    async def _settle_failure(self, reservation: Reservation, error: BaseException) -> None:
        """Book the whole reservation where the attempt may be billed, otherwise nothing."""
        billed = wire.may_be_billed(error)
        tokens, usd = (reservation.tokens, reservation.usd) if billed else (0, 0.0)
        settle = self._connection.ledger.settle
        await self._connection.on_disk(
            partial(settle, reservation, tokens=tokens, usd=usd, measured=not billed)
        )
