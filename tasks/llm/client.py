"""Ask an OpenAI-compatible endpoint, many requests at once, within a budget, buying nothing twice.

Every finished answer is kept under the hash of (endpoint, model, messages, sampling); the same request is answered
from there. A passing fault (429, 5xx, no answer, not JSON) is tried again with exponential backoff and jitter,
Retry-After honoured; a fault that no retry can mend (401, 403, 404, 400) stops everything at once. How: run.py, or
batch.py where the endpoint is asked through its Batch API.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import openai

from tasks.llm.batch import BatchRun
from tasks.llm.budget import Ledger
from tasks.llm.connection import Connection, Sleep
from tasks.llm.request import Reply, ReplyCache, Request, RunOutcome
from tasks.llm.run import ConcurrentRun
from tasks.llm.throttle import INITIAL_CONCURRENCY, ConcurrencyWindow, RateLimiter
from tasks.project import Endpoint


class Client:
    """A bounded, cached, patient caller of one endpoint and model; close it, or use it as a context manager.

    `name` stands for the endpoint in cache keys (`local` has another port each time). `sleep` is for tests. Its event
    loop runs in a thread of its own, so that the caller's code is plain.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        url: str,
        key: str,
        name: str,
        model: str,
        cache: Path,
        ledger: Ledger,
        sleep: Sleep | None = None,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._disk = concurrent.futures.ThreadPoolExecutor(4, thread_name_prefix="llm-disk")
        self._outcome = RunOutcome({}, {})
        # the local server has a slot for each request at once; what another bears is found out
        first = endpoint.concurrency if endpoint.endpoint == "local" else INITIAL_CONCURRENCY
        self._context = Connection(
            api=openai.AsyncOpenAI(
                base_url=url, api_key=key, max_retries=0, timeout=endpoint.timeout_seconds
            ),
            endpoint=endpoint,
            url=url,
            name=name,
            model=model,
            cache=ReplyCache(cache),
            ledger=ledger,
            window=ConcurrencyWindow(endpoint.concurrency, first=first),
            pace=RateLimiter(endpoint),
            disk=self._disk,
            sleep=sleep or asyncio.sleep,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its thread and connections. A second call does nothing."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._context.api.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        self._disk.shutdown()

    @property
    def outcome(self) -> RunOutcome:
        """What the last call of ask_all, once it ended, left open."""
        return self._outcome

    def ask_all(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Replies as they arrive, one call at a time. What is bought is in the cache, even after a failure.

        Nothing more is sent when a limit of the budget would be passed, or when over half of the last 20 requests
        failed: `outcome` says so, and which labels were put off for too long. Raises UserError for a refused key, an unknown
        model or a request the endpoint won't take; TransientError when none was answered, unless all were put off. Closing
        the iterator early cancels what is under way.
        """
        if not self._thread.is_alive():
            self._thread.start()
        self._outcome = RunOutcome({}, {})
        replies: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()
        waiting = iter(requests)
        kind = BatchRun if self._context.endpoint.batch else ConcurrentRun
        run = kind(self._context, emit=replies.put, unread=replies.qsize)

        future: concurrent.futures.Future[None] = concurrent.futures.Future()

        def finish(task: asyncio.Task[None]) -> None:
            self._outcome = run.outcome
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            future.set_exception(error) if error else future.set_result(None)
            replies.put(None)

        def start() -> None:
            tasks.append(self._loop.create_task(run.over(waiting)))
            tasks[0].add_done_callback(finish)

        tasks: list[asyncio.Task[None]] = []
        self._loop.call_soon_threadsafe(start)
        try:
            while (reply := replies.get()) is not None:
                self._loop.call_soon_threadsafe(run.wake)
                yield reply
            future.result()
        finally:
            self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            concurrent.futures.wait([future])
