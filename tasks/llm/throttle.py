"""How fast an endpoint is asked: a concurrency window and a limiter of rates per minute."""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

from tasks.llm.request import Request
from tasks.project import Endpoint

INITIAL_CONCURRENCY = 4
_TOLERANCE = 0.8  # of the best throughput: rounds are short, and replies differ in length


class ConcurrencyWindow:
    """How many requests may be in flight: more while throughput rises, half after an overload.

    Additive increase, multiplicative decrease (Chiu and Jain 1989, "Analysis of the Increase and
    Decrease Algorithms for Congestion Avoidance"), doubling until throughput first falls, as in
    TCP's slow start. A round has as many replies as the window is wide. Times are seconds of a
    steady clock.
    """

    def __init__(self, limit: int, *, initial: int = INITIAL_CONCURRENCY) -> None:
        self.size = min(initial, limit)
        self._limit = limit
        self._slow_start = True
        self._round_began: float | None = None
        self._replies = 0
        self._tokens = 0
        self._best_rate = 0.0  # tokens per second
        self._best_size = 0
        self._halved_at = float("-inf")

    def record_reply(self, tokens: int, *, sent: float, now: float) -> None:
        """Count a reply of `tokens` tokens to a request that was sent at `sent`."""
        if self._round_began is None:
            self._round_began = sent
        self._replies += 1
        self._tokens += max(tokens, 1)
        if self._replies < self.size:
            return
        rate = self._tokens / max(now - self._round_began, 1e-6)
        fell = rate < _TOLERANCE * self._best_rate
        slower = fell and self.size <= self._best_size  # than at this size before
        if rate > self._best_rate or slower:
            self._best_rate, self._best_size = rate, self.size
        if not fell:
            self.size = min(self._limit, self.size * 2 if self._slow_start else self.size + 1)
        elif self.size > self._best_size:
            self._slow_start, self.size = False, self._best_size
        self._start_round(now)

    def record_overload(self, *, sent: float, now: float) -> None:
        """Halve the window, once for all requests that were in flight at the time."""
        if sent <= self._halved_at:
            return
        self._slow_start, self._halved_at = False, now
        self.size = max(1, self.size // 2)
        self._best_rate = 0.0
        self._start_round(now)

    def _start_round(self, now: float) -> None:
        self._round_began, self._replies, self._tokens = now, 0, 0


class RateLimiter:
    """Keeps to an endpoint's requests and tokens per minute, in any minute.

    Tokens are counted by an upper bound, which is learned from the replies.
    """

    def __init__(self, endpoint: Endpoint, *, minute: float = 60.0) -> None:
        rpm, tpm = endpoint.requests_per_minute, endpoint.tokens_per_minute
        self._requests = AsyncLimiter(1, minute / rpm) if rpm else None  # evenly spaced
        # a full bucket and what flows in during a minute are together the limit
        self._chunk = tpm / 61 if tpm else 0.0
        self._tokens = AsyncLimiter(self._chunk, minute / 60) if tpm else None
        self._turn = asyncio.Lock()  # the chunks of several requests would add up to a burst
        self._excess = 0  # largest number of prompt tokens above the bound
        self._share = 0.0  # largest ratio of prompt tokens to the bound

    async def acquire(self, request: Request) -> None:
        """Wait until the limits allow this request."""
        async with self._turn:
            if self._tokens:
                left = request.max_prompt_tokens * (self._share or 1.0) + request.max_tokens
                while left > 0:
                    await self._tokens.acquire(min(left, self._chunk))
                    left -= self._chunk
            if self._requests:
                await self._requests.acquire()

    def learn(self, request: Request, prompt_tokens: int) -> None:
        """Note how many tokens the prompt had."""
        bound = request.max_prompt_tokens
        self._excess = max(self._excess, prompt_tokens - bound)
        self._share = max(self._share, prompt_tokens / bound)

    def token_bounds(self, request: Request) -> tuple[int, int]:
        """Upper bounds on prompt and completion tokens, also with a long chat template."""
        return request.max_prompt_tokens + self._excess, request.max_tokens
