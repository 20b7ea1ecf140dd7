"""Hard budgets: an upper bound is reserved before each attempt, its cost is booked afterwards.

The ledger is an append-only file with one line when an attempt is reserved and one when it is
settled, so a restarted run knows what was spent. An attempt whose process was killed before it was
settled counts with its upper bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from tasks import atomic
from tasks.figures import Figures
from tasks.llm.request import Completion, Request
from tasks.llm.wire import ChatResponse
from tasks.project import Budget, Endpoint, Price

BATCH_DISCOUNT = 0.5  # of the price of a request that is answered at once
_SLACK = 1e-9  # dollars: sums of fractions are not exact


class BudgetExhausted(Exception):
    """No further attempt fits; the message names the limit."""


class Spent(Figures):
    """What was used, over all endpoints; `measured` is False where a part is an upper bound."""

    requests: int = 0
    tokens: int = 0
    usd: float = 0.0
    measured: bool = True

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            requests=self.requests + other.requests,
            tokens=self.tokens + other.tokens,
            usd=self.usd + other.usd,
            measured=self.measured and other.measured,
        )


class Reservation(Figures):
    """One line of the ledger: what is reserved for an attempt, or once `settled` what it used."""

    key: str
    attempt: int
    tokens: int
    usd: float
    settled: bool = False
    measured: bool = False

    @property
    def id(self) -> tuple[str, int]:
        """The request's key and the number of the attempt."""
        return self.key, self.attempt


class Ledger:
    """The spending of one challenger over all its generators.

    Threads and event loops may share it; its file belongs to one process at a time.
    """

    def __init__(self, path: Path, limits: Budget) -> None:
        self._path, self._limits = path, limits
        self._lock = threading.Lock()
        self._attempts: Counter[str] = Counter()
        self._in_flight: dict[tuple[str, int], Reservation] = {}
        self._unsettled: dict[str, Reservation] = {}  # of a run that ended before they were settled
        self._settled = Spent()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._load()

    def _load(self) -> None:
        lines = list(_read_lines(self._path))
        settled = {line.id: line for line in lines if line.settled}
        for line in settled.values():
            self._book(line, measured=line.measured)
        for line in lines:
            self._attempts[line.key] = max(self._attempts[line.key], line.attempt)
            if line.id not in settled:
                self._leave_unsettled(line)
        with self._path.open("ab+") as f:
            if f.tell() and f.seek(-1, 2) >= 0 and f.read(1) != b"\n":
                f.write(b"\n")  # a killed process left half a line

    def _leave_unsettled(self, line: Reservation) -> None:
        if earlier := self._unsettled.get(line.key):  # only the later one may still be answered
            self._book(earlier, measured=False)
        self._unsettled[line.key] = line

    def _book(self, line: Reservation, *, measured: bool) -> None:
        self._settled += Spent(requests=1, tokens=line.tokens, usd=line.usd, measured=measured)

    @property
    def spent(self) -> Spent:
        """What is settled, and what killed processes had reserved; without attempts in flight."""
        with self._lock:
            return self._spent_with(self._unsettled.values())

    def _spent_with(self, reservations: Iterable[Reservation]) -> Spent:
        lines = list(reservations)
        tokens, usd = sum(line.tokens for line in lines), math.fsum(line.usd for line in lines)
        return self._settled + Spent(
            requests=len(lines), tokens=tokens, usd=usd, measured=not lines
        )

    def reserve(
        self, key: str, *, tokens: int, usd: float, wait: bool = True
    ) -> Reservation | None:
        """Reserve at most `tokens` and `usd` for one more attempt at the request `key`.

        None where it does not fit until an attempt in flight is settled. Raises BudgetExhausted
        where none is in flight, or without `wait`.
        """
        with self._lock:
            line = Reservation(key=key, attempt=self._attempts[key] + 1, tokens=tokens, usd=usd)
            if refusal := self._refusal(line):
                if self._in_flight and wait:
                    return None
                raise BudgetExhausted(refusal)
            self._attempts[key] += 1
            self._in_flight[line.id] = line
            # not synced to disk: it survives this process, and every settled line syncs it
            with self._path.open("ab") as f:
                f.write((json.dumps(line.model_dump(exclude_defaults=True)) + "\n").encode())
            return line

    def _refusal(self, line: Reservation) -> str:
        """Which limit the attempt would pass; empty where it fits."""
        used = self._spent_with([*self._unsettled.values(), *self._in_flight.values()])
        for name, need in {"requests": 1, "tokens": line.tokens, "usd": line.usd}.items():
            limit = getattr(self._limits, name)
            if limit is not None and getattr(used, name) + need > limit + _SLACK:
                amount = f"${need:.6f}" if name == "usd" else f"{need:,}"
                return (
                    f"generate.budget.{name} is spent: {used.requests:,} requests, {used.tokens:,} "
                    f"tokens and ${used.usd:.4f} are used, and the next attempt needs up to {amount} "
                    f"of {name} within the limit of {limit:,}; answers so far are kept"
                )
        return ""

    async def reserve_when_free(self, key: str, *, tokens: int, usd: float) -> Reservation:
        """`reserve`, after waiting for attempts in flight where that can make room."""
        event = asyncio.Event()
        waiter = (asyncio.get_running_loop(), event)
        with self._lock:
            self._waiting.add(waiter)
        try:
            while (reservation := self.reserve(key, tokens=tokens, usd=usd)) is None:
                await event.wait()
                event.clear()
            return reservation
        finally:
            with self._lock:
                self._waiting.discard(waiter)

    def settle(
        self, reservation: Reservation, *, tokens: int, usd: float, measured: bool = True
    ) -> None:
        """Replace the reservation by what the attempt used; on disk when this returns."""
        with self._lock:
            if self._unsettled.get(reservation.key) is reservation:
                del self._unsettled[reservation.key]
            elif self._in_flight.pop(reservation.id, None) is None:
                return  # it is settled already
            actual = {"tokens": tokens, "usd": usd, "settled": True, "measured": measured}
            line = reservation.model_copy(update=actual)
            self._book(line, measured=measured)
        atomic.append_line(self._path, line.model_dump(exclude_defaults=True))
        self._wake_waiting()

    def detach(self, reservation: Reservation) -> None:
        """Keep it reserved, but do not wait for it: a later run fetches its answer."""
        with self._lock:
            if self._in_flight.pop(reservation.id, None):
                self._leave_unsettled(reservation)
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # its loop was closed
                loop.call_soon_threadsafe(event.set)

    def unsettled(self, key: str) -> Reservation | None:
        """What an earlier run reserved for this request and did not settle."""
        return self._unsettled.get(key)


def _read_lines(path: Path) -> Iterator[Reservation]:
    for line in atomic.read_lines(path):
        with contextlib.suppress(ValidationError):  # a damaged line
            yield Reservation.model_validate(line)


def cost_usd(price: Price, prompt: int, completion: int, *, batch: bool = False) -> float:
    """Dollars for so many prompt and completion tokens."""
    dollars = (prompt * price.input + completion * price.output) / 1e6
    return dollars * (BATCH_DISCOUNT if batch else 1.0)


def price_response(
    response: ChatResponse,
    price: Price,
    bounds: tuple[int, int],
    *,
    batch: bool = False,
    seconds: float | None = None,
) -> Completion:
    """The completion with its cost; `bounds` are the tokens where the server reported none."""
    prompt, completion = response.prompt_tokens, response.completion_tokens
    measured = prompt is not None and completion is not None
    if prompt is None:
        prompt = bounds[0]
    if completion is None:
        completion = min(len((response.text or "").encode()), bounds[1])
    return Completion(
        text=response.text,
        finish_reason=response.finish_reason,
        prompt_tokens=prompt,
        completion_tokens=completion,
        usd=cost_usd(price, prompt, completion, batch=batch),
        measured=measured,
        seconds=seconds,
    )


class Estimate(Figures):
    """What requests are likely to use."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            usd=round(self.usd + other.usd, 6),
        )


def estimate_usage(
    requests: Sequence[Request], endpoint: Endpoint, acceptance: float = 1.0
) -> Estimate:
    """What the requests are likely to use, before any is sent.

    `acceptance` is the share of replies that become rows, where one request is planned per wanted
    row; the others are asked for again. Prompts count one token per four bytes, replies
    `max_tokens`.
    """
    factor = 1 / min(max(acceptance, 0.01), 1.0)
    prompt = math.ceil(sum(r.expected_prompt_tokens for r in requests) * factor)
    completion = math.ceil(sum(r.max_tokens for r in requests) * factor)
    usd = cost_usd(endpoint.price, prompt, completion, batch=endpoint.batch)
    return Estimate(
        requests=math.ceil(len(requests) * factor),
        prompt_tokens=prompt,
        completion_tokens=completion,
        usd=round(usd, 6),
    )
