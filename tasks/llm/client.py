"""A client of an OpenAI-compatible endpoint: concurrent, cached and within a budget.

Every finished completion is cached under the hash of (endpoint, model, messages, sampling), and the
same request is answered from there. A transient error (429, 5xx, no answer, not JSON) is retried
with exponential backoff and jitter, or after Retry-After; an error that no retry fixes (400, 401,
403, 404) stops everything at once.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import openai

from tasks.llm.batch import BatchRun
from tasks.llm.budget import Ledger
from tasks.llm.parallel import ParallelRun
from tasks.llm.request import Reply, ReplyCache, Request, RunOutcome
from tasks.llm.run import Connection, Run, Sleep
from tasks.llm.throttle import INITIAL_CONCURRENCY, ConcurrencyWindow, RateLimiter
from tasks.project import Endpoint

T = TypeVar("T")


class Client:
    """A client of one endpoint and model; close it, or use it as a context manager.

    It is asked at `url`, and called by `endpoint.endpoint` in cache keys: a local server has
    another port each time. `sleep` is for tests. The event loop runs in its own thread, so callers
    need no async code.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        url: str,
        key: str,
        model: str,
        cache: Path,
        ledger: Ledger,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._outcome = RunOutcome()
        # a local server has a slot for each request at once; what another can take is found out
        is_local = endpoint.endpoint == "local"
        initial = endpoint.concurrency if is_local else INITIAL_CONCURRENCY
        self._connection = Connection(
            api=openai.AsyncOpenAI(
                base_url=url, api_key=key, max_retries=0, timeout=endpoint.timeout_seconds
            ),
            endpoint=endpoint,
            url=url,
            model=model,
            cache=ReplyCache(cache),
            ledger=ledger,
            window=ConcurrencyWindow(endpoint.concurrency, initial=initial),
            limiter=RateLimiter(endpoint),
            sleep=sleep,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and the connections. A second call does nothing."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self._in_loop(self._connection.api.close())
            self._in_loop(self._loop.shutdown_default_executor())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    @property
    def outcome(self) -> RunOutcome:
        """What the last call of ask_all left open, once it has ended."""
        return self._outcome

    def ask_all(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Replies as they arrive. One call at a time; bought replies are cached in any case.

        Nothing more is sent where a limit of the budget would be passed, or where over half of the
        last 20 requests failed: `outcome` says so, and which labels were deferred for too long.
        Raises UserError for a refused key, an unknown model or a request that the endpoint refuses,
        and TransientError where none was answered, unless all were deferred. Closing the iterator
        early cancels the requests in flight.
        """
        if not self._thread.is_alive():
            self._thread.start()
        replies: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()
        run: Run
        if self._connection.endpoint.batch:
            run = BatchRun(self._connection, emit=replies.put)
        else:
            run = ParallelRun(self._connection, emit=replies.put, unread=replies.qsize)
        task = self._in_loop(self._start(run, requests, replies))
        try:
            while (reply := replies.get()) is not None:
                self._loop.call_soon_threadsafe(run.wake)
                yield reply
        finally:
            self._loop.call_soon_threadsafe(task.cancel)
            self._in_loop(asyncio.wait({task}))
            self._outcome = run.outcome
        task.result()

    async def _start(
        self, run: Run, requests: Iterable[Request], replies: queue.SimpleQueue[Reply | None]
    ) -> asyncio.Task[None]:
        """The run's task, which ends the replies with None."""
        task = asyncio.create_task(run.ask_all(iter(requests)))
        task.add_done_callback(lambda _: replies.put(None))
        return task

    def _in_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
