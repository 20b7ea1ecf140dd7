"""Requests as jobs of OpenAI's Batch API: at half the price, answered within a day.

Keys, cache and ledger are those of requests sent one by one. Before a batch can cost anything, its
keys are noted in `batches/` next to the cached completions; whoever asks for one of these keys later
waits for that batch and buys nothing anew. A process killed between the upload and the note of the
batch's id leaves the id of the uploaded file: the batch is then found by it
(https://platform.openai.com/docs/guides/batch).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import openai
import tenacity
from openai.types import Batch
from pydantic import ValidationError

from tasks import atomic
from tasks.atomic import digest_of
from tasks.errors import TransientError, UserError
from tasks.figures import Figures
from tasks.llm import wire
from tasks.llm.budget import BudgetExhausted, Reservation, cost_usd, price_response
from tasks.llm.request import Reply, Request
from tasks.llm.run import Connection, Run

POLL_SECONDS = 30.0
MAX_REQUESTS = 50_000  # the API's limit for one batch
MAX_BYTES = 150 << 20  # the API's limit is 200 MB
_LINE_BYTES = 1000  # of a request's line besides its text
_ENDED = {"completed", "failed", "expired", "cancelled"}
_PATH: Final = "/v1/chat/completions"

Missing = dict[str, Request]  # the first request of each key without a completion
T = TypeVar("T")


class BatchNote(Figures):
    """A batch that was begun: its uploaded file, and its id once it is known.

    `keys` holds the upper bounds of prompt and completion tokens by request.
    """

    endpoint: str
    model: str
    file: str
    id: str | None
    keys: dict[str, tuple[int, int]]


class BatchRun(Run):
    """Requests sent as batches."""

    def __init__(self, connection: Connection, *, emit: Callable[[Reply], None]) -> None:
        super().__init__(connection, emit=emit)
        self._folder = connection.cache.folder / "batches"
        self._reservations: dict[str, Reservation] = {}
        self._bought: set[str] = set()

    async def ask_all(self, requests: Iterator[Request]) -> None:
        """See Run.ask_all."""
        items = [(self._take(request), request) for request in requests]
        missing = self._deliver_found(items)
        try:
            for path, note in self._begun(missing):
                await self._finish(path, note)
                missing = self._deliver_found([item for item in items if item[0] in missing])
                for key in note.keys:  # what it left unanswered is not asked again at once
                    missing.pop(key, None)
            while missing and (chunk := self._reserve(missing)):
                path = self._folder / f"{digest_of(sorted(chunk))}.json"
                await self._finish(path, await self._upload(path, chunk), is_new=True)
                self._deliver_found([item for item in items if item[0] in chunk])
                missing = {key: request for key, request in missing.items() if key not in chunk}
        finally:
            for reservation in self._reservations.values():
                self._connection.ledger.detach(reservation)
        self._raise_unless_answered()

    def _deliver_found(self, items: list[tuple[str, Request]]) -> Missing:
        """Deliver what is in the cache. Returns what is not."""
        missing: Missing = {}
        for key, request in items:
            completion = None if key in missing else self._connection.find(key)
            if completion is None:
                missing.setdefault(key, request)
                continue
            self._deliver(request, key, completion, bought=key in self._bought)
            self._bought.discard(key)
        return missing

    def _begun(self, missing: Missing) -> list[tuple[Path, BatchNote]]:
        """The batches of this endpoint and model, begun earlier, that have some of these keys."""
        begun, endpoint = [], self._connection.endpoint.endpoint
        for path in sorted(self._folder.glob("*.json")):
            try:
                note = BatchNote.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                continue
            if (note.endpoint, note.model) != (endpoint, self._connection.model):
                continue
            if missing.keys() & note.keys.keys():
                begun.append((path, note))
            elif all(map(self._connection.cache.get, note.keys)):
                path.unlink(missing_ok=True)  # killed between its last answer and its removal
        return begun

    def _reserve(self, missing: Missing) -> Missing:
        """Reserve as many requests as the budget and the API's limits allow in one batch."""
        chunk: Missing = {}
        size = 0
        for key, request in missing.items():
            size += request.size + _LINE_BYTES
            if chunk and (len(chunk) >= MAX_REQUESTS or size > MAX_BYTES):
                break
            bounds = request.max_prompt_tokens, request.max_tokens
            usd = cost_usd(self._connection.endpoint.price, *bounds, batch=True)
            try:
                reservation = self._connection.ledger.reserve(
                    key, tokens=sum(bounds), usd=usd, wait=False
                )
            except BudgetExhausted as e:
                if not chunk:  # otherwise more may fit once this batch is settled
                    self._stopped, self._over_budget = str(e), True
                break
            assert reservation
            self._reservations[key], chunk[key] = reservation, request
        return chunk

    async def _upload(self, path: Path, chunk: Missing) -> BatchNote:
        """Upload the batch's file and note it."""
        connection = self._connection
        lines = [
            {
                "custom_id": key,
                "method": "POST",
                "url": _PATH,
                "body": wire.chat_body(request, connection.model),
            }
            for key, request in chunk.items()
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = (f"reseed-{path.stem[:16]}.jsonl", content)
        upload = partial(connection.api.files.create, file=file, purpose="batch")
        uploaded = await self._call(upload)
        note = BatchNote(
            endpoint=connection.endpoint.endpoint,
            model=connection.model,
            file=uploaded.id,
            id=None,
            keys={key: (r.max_prompt_tokens, r.max_tokens) for key, r in chunk.items()},
        )
        atomic.write_json(path, note.model_dump(mode="json"))
        return note

    async def _finish(self, path: Path, note: BatchNote, *, is_new: bool = False) -> None:
        """Create the batch unless that was done, wait for its end, and keep its answers."""
        for key in note.keys:
            if key not in self._reservations and (left := self._connection.ledger.unsettled(key)):
                self._reservations[key] = left
        if not note.id:
            note = note.model_copy(update={"id": await self._create(note.file, is_new=is_new)})
            atomic.write_json(path, note.model_dump(mode="json"))
        try:
            batch, content = await self._wait(str(note.id))
        except UserError as e:
            raise UserError(
                f"{e}; the batch is {note.id}: delete {path} to buy its requests anew"
            ) from None
        await self._connection.on_disk(partial(self._keep, note, batch, content))
        path.unlink(missing_ok=True)

    async def _create(self, file: str, *, is_new: bool) -> str:
        """The id of the file's batch, which an earlier call may have created unless it `is_new`."""
        attempts = itertools.count(0 if is_new else 1)
        batches = self._connection.api.batches

        async def find_or_create() -> str:
            if next(attempts):
                async for batch in batches.list(limit=100):
                    if batch.input_file_id == file:
                        return batch.id
            created = await batches.create(
                input_file_id=file, endpoint=_PATH, completion_window="24h"
            )
            return created.id

        return await self._call(find_or_create)

    async def _wait(self, batch_id: str) -> tuple[Batch, bytes]:
        """The batch once it has ended, and the lines of its output and error files."""
        api = self._connection.api
        retrieve = partial(api.batches.retrieve, batch_id)
        while (batch := await self._call(retrieve)).status not in _ENDED:
            await self._connection.sleep(POLL_SECONDS)
        contents = []
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            contents.append((await self._call(partial(api.files.content, file))).content)
        return batch, b"\n".join(contents)

    def _keep(self, note: BatchNote, batch: Batch, content: bytes) -> None:
        """Cache and book every answer. A request without one is not billed."""
        connection = self._connection
        unanswered = dict(note.keys)
        for key, (response, error) in _read_answers(content).items():
            if key not in unanswered:
                continue
            bounds = unanswered.pop(key)
            if response is None:
                self._last_error = TransientError(
                    f"the batch {batch.id} of {connection.url} answered no request: {error}"
                )
                self._settle_unbilled(key)
                continue
            completion = price_response(response, connection.endpoint.price, bounds, batch=True)
            connection.store(key, completion, self._reservations.pop(key, None))
            self._bought.add(key)
        for key in unanswered:
            self._settle_unbilled(key)
        if unanswered:
            errors = (batch.errors.data if batch.errors else None) or []
            details = "; ".join(str(e.message)[:200] for e in errors[:2])
            status = f"{batch.status} ({details})" if details else batch.status
            self._last_error = TransientError(
                f"the batch {batch.id} of {connection.url} left requests unanswered: it is {status}"
            )

    def _settle_unbilled(self, key: str) -> None:
        if reservation := self._reservations.pop(key, None):
            self._connection.ledger.settle(reservation, tokens=0, usd=0.0)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call, with retries. Raises UserError or TransientError."""
        stop = tenacity.stop_after_attempt(self._connection.endpoint.retries + 1)
        try:
            return await self._connection.retrying(stop)(call)
        except openai.NotFoundError as e:
            raise UserError(
                f"the endpoint {self._connection.url} has no Batch API, or does not know this batch "
                f"(status 404): remove generate.batch, or check generate.api_key_env; the endpoint's "
                f"message: {str(e.message)[:200]}"
            ) from None
        except openai.APIError as e:
            raise self._connection.explain(e) from None


def _read_answers(content: bytes) -> dict[str, tuple[wire.ChatResponse | None, str]]:
    """For each key in the output and error files: its response, or None and the error."""
    answers: dict[str, tuple[wire.ChatResponse | None, str]] = {}
    for line in content.splitlines():
        try:
            row = json.loads(line)
            key, response = str(row["custom_id"]), row.get("response") or {}
            status, body = response.get("status_code"), response.get("body")
            if status == 200:
                answers[key] = (_read_body(body), "")
            else:
                error = str(row.get("error") or body)[:200]
                answers.setdefault(key, (None, f"status {status}: {error}"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # not a line of a batch's file
    return answers


def _read_body(body: Any) -> wire.ChatResponse:
    try:
        return wire.parse_response(body)
    except wire.MalformedResponse:  # it is billed all the same: an answer without a text
        return wire.ChatResponse(None, None, None, None)
