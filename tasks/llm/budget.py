"""Budgets that are never passed: an upper bound is set aside before each try, and what it really cost is booked after.

The book is an append-only file, a line when a try is reserved and a line when it is settled, so a restarted run knows
what was spent. A try that was reserved and never settled (its process was killed) counts with its upper bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.figures import Figures
from tasks.llm.request import Request
from tasks.llm.wire import ChatResponse
from tasks.project import Budget, Endpoint, Price

BATCH_PRICE = 0.5  # of the price of a request that is answered at once
_SLACK = 1e-9  # dollars: sums of fractions are not exact


class BudgetExhausted(Exception):
    """Nothing more fits; the sentence says into which limit."""


class Spent(Figures):
    """What was used so far, over all endpoints; `measured` is False where a part of it is an upper estimate."""

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


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is set aside for one try of a request."""

    key: str
    n: int
    tokens: int
    usd: float


class Ledger:
    """The spending of one challenger over all its generators; safe to share between threads and event loops.

    The file `path` belongs to one process at a time.
    """

    def __init__(self, path: Path, limits: Budget) -> None:
        self._path, self._limits = path, limits
        self._lock = threading.Lock()
        self._tries: Counter[str] = Counter()
        self._open: dict[tuple[str, int], Reservation] = {}  # in flight now
        self._orphans: dict[str, Reservation] = {}  # reserved by a process that was killed
        self._settled = Spent()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._read()

    def _read(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        reserved: dict[tuple[str, int], Reservation] = {}
        settled: dict[tuple[str, int], dict[str, Any]] = {}
        for line in atomic.read_lines(self._path):
            try:
                key, n, tokens, usd = (
                    str(line["key"]),
                    int(line["try"]),
                    int(line["tokens"]),
                    float(line["usd"]),
                )
            except (KeyError, TypeError, ValueError):
                continue  # not a line of ours
            if line.get("settled"):
                settled[key, n] = line
            else:
                reserved[key, n] = Reservation(key, n, tokens, usd)
        for (key, n), line in settled.items():
            self._book(int(line["tokens"]), float(line["usd"]), measured=bool(line.get("measured")))
            self._tries[key] = max(self._tries[key], n)
        for (key, n), hold in reserved.items():
            self._tries[key] = max(self._tries[key], n)
            if (key, n) not in settled:
                self._orphan(hold)
        with self._path.open("ab+") as f:
            if f.tell() and f.seek(-1, 2) >= 0 and f.read(1) != b"\n":
                f.write(b"\n")  # a kill tore the last line

    def _orphan(self, hold: Reservation) -> None:
        if earlier := self._orphans.get(hold.key):  # of two, the later may have been answered
            self._book(earlier.tokens, earlier.usd, measured=False)
        self._orphans[hold.key] = hold

    def _book(self, tokens: int, usd: float, *, measured: bool) -> None:
        s = self._settled
        self._settled = Spent(
            requests=s.requests + 1,
            tokens=s.tokens + tokens,
            usd=s.usd + usd,
            measured=s.measured and measured,
        )

    @property
    def spent(self) -> Spent:
        """What is settled, and what killed processes had reserved; without what is in flight."""
        with self._lock:
            return self._with(self._orphans.values(), measured=not self._orphans)

    def _with(self, holds: Any, *, measured: bool = True) -> Spent:
        s, holds = self._settled, list(holds)
        tokens, usd = sum(h.tokens for h in holds), math.fsum(h.usd for h in holds)
        return Spent(
            requests=s.requests + len(holds),
            tokens=s.tokens + tokens,
            usd=s.usd + usd,
            measured=s.measured and measured,
        )

    def reserve(
        self, key: str, *, tokens: int, usd: float, wait: bool = True
    ) -> Reservation | None:
        """Set aside at most so much for one more try of the request `key`; None when it does not fit just now.

        Raises BudgetSpent when nothing is in flight whose end could make room, or when there is no use in waiting.
        """
        with self._lock:
            limits, used = self._limits, self._with([*self._orphans.values(), *self._open.values()])
            full = (
                (limits.requests is not None and used.requests + 1 > limits.requests and "requests")
                or (limits.tokens is not None and used.tokens + tokens > limits.tokens and "tokens")
                or (limits.usd is not None and used.usd + usd > limits.usd + _SLACK and "usd")
            )
            if full:
                if self._open and wait:
                    return None
                raise BudgetExhausted(
                    self._sentence(full, used, {"requests": 1, "tokens": tokens, "usd": usd}[full])
                )
            self._tries[key] += 1
            hold = Reservation(key, self._tries[key], tokens, usd)
            self._open[key, hold.n] = hold
            # not forced to the disk: it outlives this process all the same, and every settled line forces it
            with self._path.open("ab") as f:
                f.write(
                    (
                        json.dumps({"key": key, "try": hold.n, "tokens": tokens, "usd": usd}) + "\n"
                    ).encode()
                )
            return hold

    def _sentence(self, name: str, used: Spent, need: float) -> str:
        limit = getattr(self._limits, name)
        told = f"{used.requests:,} requests, {used.tokens:,} tokens and ${used.usd:.4f}"
        least = f"${need:.6f}" if name == "usd" else f"{need:,}"
        return (
            f"generate.budget.{name} is spent: {told} are used, and the next try needs up to {least} of {name} "
            f"within the limit of {limit:,}; what was bought is kept"
        )

    async def admitted(self, key: str, *, tokens: int, usd: float) -> Reservation:
        """`reserve`, after waiting for tries in flight to settle where that can make room. Raises BudgetSpent."""
        event = asyncio.Event()
        waiting = (asyncio.get_running_loop(), event)
        with self._lock:
            self._waiting.add(waiting)
        try:
            while (hold := self.reserve(key, tokens=tokens, usd=usd)) is None:
                await event.wait()
                event.clear()
            return hold
        finally:
            with self._lock:
                self._waiting.discard(waiting)

    def settle(self, hold: Reservation, *, tokens: int, usd: float, measured: bool = True) -> None:
        """Book what the try really used in place of what was set aside for it; on the disk when this returns."""
        with self._lock:
            if self._orphans.get(hold.key) is hold:
                del self._orphans[hold.key]
            elif self._open.pop((hold.key, hold.n), None) is None:
                return  # it is settled
            self._book(tokens, usd, measured=measured)
        line = {
            "key": hold.key,
            "try": hold.n,
            "settled": True,
            "tokens": tokens,
            "usd": usd,
            "measured": measured,
        }
        atomic.append_line(self._path, line)
        self._wake()

    def abandon(self, hold: Reservation) -> None:
        """Leave it set aside, but let nobody wait for it: its answer is fetched by a later run."""
        with self._lock:
            if self._open.pop((hold.key, hold.n), None):
                self._orphan(hold)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # its loop was closed
                loop.call_soon_threadsafe(event.set)

    def orphan(self, key: str) -> Reservation | None:
        """What a run that ended early had set aside for this request and never settled."""
        return self._orphans.get(key)


def cost_usd(price: Price, *, prompt: int, completion: int, batch: bool = False) -> float:
    """Dollars for so many tokens."""
    return (
        (prompt * price.input + completion * price.output) / 1e6 * (BATCH_PRICE if batch else 1.0)
    )


def price_response(
    answer: ChatResponse, price: Price, *, prompt: int, completion: int, batch: bool = False
) -> dict[str, Any]:
    """The answer as the cache keeps it. Where the server told no usage, at most `prompt` and `completion` tokens."""
    told, written = answer.prompt_tokens, answer.completion_tokens
    prompt = prompt if told is None else told
    completion = min(len((answer.text or "").encode()), completion) if written is None else written
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "usd": cost_usd(price, prompt=prompt, completion=completion, batch=batch),
        "measured": told is not None and written is not None,
    }


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
    """What the requests are likely to use before any is sent: requests, prompt and written tokens, dollars.

    `acceptance` is the share of replies that become rows, where the requests are one for each row wanted: the others
    are asked for again. Prompts count a token for four bytes, replies their `max_tokens`.
    """
    again = 1 / min(max(acceptance, 0.01), 1.0)
    n = math.ceil(len(requests) * again)
    prompt = math.ceil(sum(r.likely_prompt_tokens() for r in requests) * again)
    completion = math.ceil(sum(r.max_tokens for r in requests) * again)
    usd = cost_usd(endpoint.price, prompt=prompt, completion=completion, batch=endpoint.batch)
    return Estimate(
        requests=n, prompt_tokens=prompt, completion_tokens=completion, usd=round(usd, 6)
    )
