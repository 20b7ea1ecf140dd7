"""Many requests as one job: OpenAI's Batch API, at half the price, answered within a day.

Keys, cache and ledger are those of requests one by one. A batch that was begun is noted in `batches/` beside the cached
answers, with its keys, before it can cost anything; whoever later asks for one of those keys waits for that batch and
buys nothing anew. Between the upload and the note of the batch's id a kill leaves the uploaded file's id: the batch
is then looked for by it (https://platform.openai.com/docs/guides/batch).
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import openai
import tenacity

from tasks import atomic
from tasks.atomic import digest_of
from tasks.errors import TransientError, UserError
from tasks.llm import wire
from tasks.llm.budget import BudgetExhausted, Reservation, cost_usd, price_response
from tasks.llm.connection import Connection, backoff_seconds
from tasks.llm.request import Reply, Request, RunOutcome

POLL_SECONDS = 30.0  # seconds between two looks at a batch
MAX_REQUESTS = 50_000  # the API's limits for one batch; of 200 MB
MAX_BYTES = 150 << 20
ENDED = {"completed", "failed", "expired", "cancelled"}

T = TypeVar("T")


class BatchRun:
    """The requests of one call of ask_all, through batches. `emit` is given each reply."""

    def __init__(
        self, context: Connection, *, emit: Callable[[Reply], None], unread: Callable[[], int]
    ) -> None:
        self.c, self.emit = context, emit
        self._folder = context.cache.folder / "batches"
        self._holds: dict[str, Reservation] = {}
        self._taken: Counter[str] = Counter()
        self._replied: Counter[str] = Counter()
        self._bought: set[str] = set()
        self._last: Exception | None = None
        self._stopped: str | None = None

    def wake(self) -> None:
        """A reply was taken; a batch does not wait for that."""

    @property
    def outcome(self) -> RunOutcome:
        lost = {
            label: n for label, taken in self._taken.items() if (n := taken - self._replied[label])
        }
        return RunOutcome(
            dict(sorted(lost.items())), {}, self._stopped, over_budget=self._stopped is not None
        )

    async def over(self, waiting: Iterator[Request]) -> None:
        """Ask them all. Raises UserError for what no retry mends, TransientError when nothing was answered."""
        requests = [(request.key(self.c.name, self.c.model), request) for request in waiting]
        self._taken.update(request.label for _, request in requests)
        missing = self._hand_out(requests)
        try:
            for path, state in self._begun(set(missing)):
                await self._finish(path, state)
                missing = self._hand_out([item for item in requests if item[0] in missing])
                for key in state["keys"]:  # what it left unanswered is not asked again at once
                    missing.pop(key, None)
            while missing:
                chunk = self._reserved(missing)
                if not chunk:
                    break
                path = self._folder / f"{digest_of(sorted(chunk))}.json"
                await self._finish(path, await self._upload(path, chunk), fresh=True)
                self._hand_out([item for item in requests if item[0] in chunk])
                missing = {key: request for key, request in missing.items() if key not in chunk}
        finally:
            for hold in self._holds.values():
                self.c.ledger.abandon(hold)
        if self._last and not self._replied and not self._stopped:
            raise self._last

    def _hand_out(self, requests: list[tuple[str, Request]]) -> dict[str, Request]:
        """Emit what the cache has; the first request of each key that it has not."""
        missing: dict[str, Request] = {}
        for key, request in requests:
            kept = None if key in missing else self.c.found(key)
            if kept is None:
                missing.setdefault(key, request)
                continue
            self._replied[request.label] += 1
            self.emit(Reply(request, key, **kept, bought=key in self._bought))
            self._bought.discard(key)
        return missing

    def _begun(self, missing: set[str]) -> list[tuple[Path, dict[str, Any]]]:
        """The batches of this endpoint and model, begun earlier, that hold some of these keys."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                state = atomic.read_json(path)
                mine = (state["name"], state["model"]) == (self.c.name, self.c.model)
                if mine and missing & set(state["keys"]):
                    found.append((path, state))
                elif mine and all(map(self.c.cache.find, state["keys"])):
                    path.unlink(missing_ok=True)  # a kill came between its last answer and here
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return found

    def _reserved(self, missing: dict[str, Request]) -> dict[str, Request]:
        """As many of them as the budget and the API's limits let into one batch."""
        chunk: dict[str, Request] = {}
        size = 0
        for key, request in missing.items():
            size += request.size + 1000
            if chunk and (len(chunk) >= MAX_REQUESTS or size > MAX_BYTES):
                break
            prompt, completion = request.most_prompt_tokens(), request.max_tokens
            usd = cost_usd(self.c.endpoint.price, prompt=prompt, completion=completion, batch=True)
            try:
                hold = self.c.ledger.reserve(key, tokens=prompt + completion, usd=usd, wait=False)
            except BudgetExhausted as e:
                self._stopped = None if chunk else str(e)  # once the batch is settled more may fit
                break
            assert hold
            self._holds[key], chunk[key] = hold, request
        return chunk

    async def _upload(self, path: Path, chunk: dict[str, Request]) -> dict[str, Any]:
        lines = [
            {
                "custom_id": key,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": wire.chat_body(r, self.c.model),
            }
            for key, r in chunk.items()
        ]
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        name = (f"reseed-{path.stem[:16]}.jsonl", data)
        file = await self._patiently(lambda: self.c.api.files.create(file=name, purpose="batch"))
        keys = {key: [r.most_prompt_tokens(), r.max_tokens] for key, r in chunk.items()}
        state = {
            "name": self.c.name,
            "model": self.c.model,
            "file": file.id,
            "id": None,
            "keys": keys,
        }
        atomic.write_json(path, state)
        return state

    async def _finish(self, path: Path, state: dict[str, Any], *, fresh: bool = False) -> None:
        """Create the batch unless it was, wait for its end, and keep what it answered."""
        for key in state["keys"]:
            if key not in self._holds and (orphan := self.c.ledger.orphan(key)):
                self._holds[key] = orphan
        if not state["id"]:
            tries = itertools.count(0 if fresh else 1)
            state["id"] = await self._patiently(
                lambda: self._find_or_create(state["file"], look=next(tries) > 0)
            )
            atomic.write_json(path, state)
        try:
            while (
                batch := await self._patiently(lambda: self.c.api.batches.retrieve(state["id"]))
            ).status not in ENDED:
                await self.c.sleep(POLL_SECONDS)
            names = [name for name in (batch.output_file_id, batch.error_file_id) if name]
            texts = [await self._patiently(lambda name=name: self._content(name)) for name in names]  # type: ignore[misc]
        except UserError as e:
            raise UserError(
                f"{e}; the batch is {state['id']}: delete {path} to buy its requests anew"
            ) from None
        work = asyncio.get_running_loop().run_in_executor(
            self.c.disk, self._keep, state, batch, b"\n".join(texts)
        )
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            raise
        path.unlink(missing_ok=True)

    async def _content(self, name: str) -> bytes:
        return (await self.c.api.files.content(name)).content

    async def _find_or_create(self, file: str, *, look: bool) -> str:
        """The id of the batch of this file; `look` where an earlier call may have created it."""
        if look:
            async for batch in self.c.api.batches.list(limit=100):
                if batch.input_file_id == file:
                    return batch.id
        created = await self.c.api.batches.create(
            input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
        )
        return created.id

    def _keep(self, state: dict[str, Any], batch: Any, text: bytes) -> None:
        """Cache and book every answer; what has none is not billed."""
        left = dict(state["keys"])
        for key, (answer, fault) in _answers(text).items():
            if key not in left:
                continue
            prompt, completion = left.pop(key)
            hold = self._holds.pop(key, None)
            if answer:
                kept = price_response(
                    answer, self.c.endpoint.price, prompt=prompt, completion=completion, batch=True
                )
                self.c.keep(key, kept, hold)
                self._bought.add(key)
            else:
                self._last = TransientError(
                    f"the batch {batch.id} of {self.c.url} answered no request: {fault}"
                )
                if hold:
                    self.c.ledger.settle(hold, tokens=0, usd=0.0)
        for key in left:
            if hold := self._holds.pop(key, None):
                self.c.ledger.settle(hold, tokens=0, usd=0.0)
        if left:
            said = [
                str(e.message)[:200] for e in (batch.errors.data if batch.errors else None) or []
            ]
            why = f"{batch.status} ({'; '.join(said[:2])})" if said else batch.status
            self._last = TransientError(
                f"the batch {batch.id} of {self.c.url} left requests unanswered: it is {why}"
            )

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's result, tried again over passing faults. Raises UserError or TransientError."""
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.c.endpoint.retries + 1),
            wait=backoff_seconds,
            retry=tenacity.retry_if_exception(wire.is_transient),
            reraise=True,
            sleep=self.c.sleep,
        )

        async def once() -> T:
            return await call()

        try:
            return await retrying(once)
        except openai.NotFoundError as e:
            raise UserError(
                f"the endpoint {self.c.url} has no Batch API, or does not know this batch (status 404): remove "
                f"generate.batch, or check generate.api_key_env; it said: {str(e.message)[:200]}"
            ) from None
        except openai.APIError as e:
            raise self.c.explained(e) from None


def _answers(text: bytes) -> dict[str, tuple[wire.ChatResponse | None, str]]:
    """For each key in the output and error files: its answer, or None and what was said."""
    found: dict[str, tuple[wire.ChatResponse | None, str]] = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
            key, response = str(row["custom_id"]), row.get("response") or {}
            if response.get("status_code") == 200:
                found[key] = (_read(response.get("body")), "")
            else:
                said = row.get("error") or response.get("body")
                found.setdefault(
                    key, (None, f"status {response.get('status_code')}: {str(said)[:200]}")
                )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # not a line of a batch's file
    return found


def _read(body: Any) -> wire.ChatResponse:
    try:
        return wire.parse_response(body)
    except wire.MalformedResponse:  # it is billed all the same: an answer without a text
        return wire.ChatResponse(None, None, None, None)
