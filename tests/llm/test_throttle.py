"""The concurrency window and the rate limiter."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tasks.llm.request import Request
from tasks.llm.throttle import ConcurrencyWindow, RateLimiter
from tasks.project import Endpoint


def request(max_tokens: int = 50) -> Request:
    return Request((("user", "about topic one"),), 1.0, 0.9, max_tokens, seed=0)


class TestConcurrencyWindow:
    def test_it_doubles_then_rises_by_one_to_the_limit(self) -> None:
        window, now, sizes = ConcurrencyWindow(24), 0.0, []
        for i in range(20):
            now += 1.0
            for _ in range(window.size):
                window.record_reply(10, sent=now - 1.0, now=now)
            if i == 1:
                window.record_overload(sent=now, now=now)
            sizes.append(window.size)
        assert sizes == [8, 8, *range(9, 25), 24, 24]

    def test_one_overload_of_many_in_flight_halves_it_once(self) -> None:
        window = ConcurrencyWindow(64, initial=32)
        for _ in range(32):
            window.record_overload(sent=1.0, now=2.0)
        assert window.size == 16
        window.record_overload(sent=2.5, now=3.0)
        assert window.size == 8

    def test_it_rises_while_the_throughput_does_and_steps_back_when_it_falls(self) -> None:
        """A server with 10 tokens per second for each of up to 12 requests, slower above."""
        window, now, sizes = ConcurrencyWindow(64), 0.0, []
        for _ in range(60):
            n = window.size
            seconds = 1.0 if n <= 12 else (n / 12) ** 2
            now += seconds
            for _ in range(n):
                window.record_reply(10, sent=now - seconds, now=now)
            sizes.append(window.size)
        assert sizes[1] == 16 and 8 <= sum(sizes[20:]) / 40 <= 20, sizes

    @given(
        st.lists(st.tuples(st.booleans(), st.integers(0, 500), st.floats(0, 5)), max_size=300),
        st.integers(1, 64),
    )
    def test_it_is_always_between_one_and_the_limit(
        self, events: list[tuple[bool, int, float]], limit: int
    ) -> None:
        window, now = ConcurrencyWindow(limit), 0.0
        for answered, tokens, seconds in events:
            now += seconds
            if answered:
                window.record_reply(tokens, sent=now - seconds, now=now)
            else:
                window.record_overload(sent=now - 1, now=now)
            assert 1 <= window.size <= limit


class TestRateLimiter:
    """With minutes that last one second."""

    @staticmethod
    def acquire(n: int, max_tokens: int = 50, **limits: float) -> list[float]:
        """The seconds after which each of `n` requests may be sent."""

        async def acquire_all() -> list[float]:
            limiter, loop = RateLimiter(Endpoint(**limits), minute=1.0), asyncio.get_running_loop()
            began = loop.time()

            async def acquire_one() -> float:
                await limiter.acquire(request(max_tokens))
                return loop.time() - began

            return await asyncio.gather(*(acquire_one() for _ in range(n)))

        return asyncio.run(acquire_all())

    def test_requests_per_minute(self) -> None:
        times = self.acquire(60, requests_per_minute=40)
        assert times[-1] >= 59 / 40 * 0.99
        assert all(b - a >= 0.99 for a, b in zip(times, times[40:], strict=False)), (
            "41 in less than a minute"
        )

    def test_tokens_per_minute(self) -> None:
        each = request().max_prompt_tokens + 50
        times = self.acquire(30, tokens_per_minute=20 * each)
        assert all(b - a >= 0.99 * 0.95 for a, b in zip(times, times[20:], strict=False))

    def test_a_request_larger_than_the_limit_waits_but_passes(self) -> None:
        (seconds,) = self.acquire(1, max_tokens=1000, tokens_per_minute=800)
        assert seconds >= 1.0

    def test_it_learns_how_large_prompts_are(self) -> None:
        limiter = RateLimiter(Endpoint(tokens_per_minute=600))
        limiter.learn(request(), 20)
        assert 0 < limiter._share < 0.2
