"""How fast an endpoint is asked: requests at once by what it bears, requests and tokens a minute by its limits."""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

from tasks.llm.request import Request
from tasks.project import Endpoint

INITIAL_CONCURRENCY = 4  # requests at once before anything is known
_NOISE = 0.8  # of the best throughput: rounds are short, and replies differ in length


class ConcurrencyWindow:
    """Requests at once: more while the throughput does not fall, half as many when the endpoint falters.

    Additive increase, multiplicative decrease (Chiu and Jain 1989, "Analysis of the Increase and Decrease Algorithms
    for Congestion Avoidance"), with a doubling start until the first fall, as in TCP's slow start. A round is as many
    replies as the window is wide. Times are seconds of any steady clock.
    """

    def __init__(self, most: int, *, first: int = INITIAL_CONCURRENCY) -> None:
        self.size = min(first, most)
        self._most = most
        self._starting = True
        self._began: float | None = None
        self._replies = 0
        self._tokens = 0
        self._best = 0.0  # tokens a second, and the size that had them
        self._best_size = 0
        self._halved = float("-inf")

    def answered(self, tokens: int, *, sent: float, now: float) -> None:
        """Note a reply of so many written tokens whose try was sent at `sent`."""
        if self._began is None:
            self._began = sent
        self._replies += 1
        self._tokens += max(tokens, 1)
        if self._replies < self.size:
            return
        rate = self._tokens / max(now - self._began, 1e-6)
        fell = rate < _NOISE * self._best
        if rate > self._best or (
            fell and self.size <= self._best_size
        ):  # at this size once more: it became slower
            self._best, self._best_size = rate, self.size
        if not fell:
            self.size = min(self._most, self.size * 2 if self._starting else self.size + 1)
        elif self.size > self._best_size:
            self._starting, self.size = False, self._best_size
        self._round(now)

    def faltered(self, *, sent: float, now: float) -> None:
        """Note an overload (429, 5xx, no answer); those of tries sent before the last halving are the same one."""
        if sent <= self._halved:
            return
        self._starting, self._halved = False, now
        self.size = max(1, self.size // 2)
        self._best = 0.0
        self._round(now)

    def _round(self, now: float) -> None:
        self._began, self._replies, self._tokens = now, 0, 0


class RateLimiter:
    """Requests and tokens a minute, never more in any minute; tokens count by a bound that learns from the replies."""

    def __init__(self, endpoint: Endpoint, *, minute: float = 60.0) -> None:
        rpm, tpm = endpoint.requests_per_minute, endpoint.tokens_per_minute
        self._requests = AsyncLimiter(1, minute / rpm) if rpm else None  # evenly spaced
        # a full bucket and what runs in during a minute are together the limit
        self._chunk = tpm / 61 if tpm else 0.0
        self._tokens = AsyncLimiter(self._chunk, minute / 60) if tpm else None
        self.excess = 0  # tokens of a chat template above the margin that prompts are given
        self._turn = (
            asyncio.Lock()
        )  # one after the other, or shares of many would add up to a burst
        self._share = 0.0  # largest share of prompt tokens to their bound that was seen

    async def admit(self, request: Request) -> None:
        """Wait until the limits let this request through."""
        async with self._turn:
            if self._tokens:
                left = request.most_prompt_tokens() * (self._share or 1.0) + request.max_tokens
                while left > 0:
                    await self._tokens.acquire(min(left, self._chunk))
                    left -= self._chunk
            if self._requests:
                await self._requests.acquire()

    def learn(self, request: Request, prompt_tokens: int) -> None:
        """Note how many tokens the prompt really had."""
        self.excess = max(self.excess, prompt_tokens - request.most_prompt_tokens())
        self._share = max(self._share, prompt_tokens / request.most_prompt_tokens())
