"""Ask an OpenAI-compatible endpoint, in parallel, within a budget, buying nothing twice.

Every finished answer is kept under the hash of (endpoint, model, messages, sampling); the same request is answered
from there. A passing fault (429, 5xx, no answer, not JSON) is tried again with exponential backoff and jitter,
Retry-After honoured up to a cap; a fault that no retry can mend (401, 403, 404, 400) stops everything at once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import openai
import tenacity

from tasks import files
from tasks.errors import TransientError, UserError
from tasks.records import digest_of, whole

RETRY_AFTER_CAP = 30.0
FAILURES_IN_A_ROW = 5  # requests, each with all its retries, that end the round


@dataclass(frozen=True, slots=True)
class Request:
    """One chat completion. `tag` travels with it and is not part of its key."""

    messages: tuple[tuple[str, str], ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    tag: Any = None

    def key(self, endpoint: str, model: str) -> str:
        body = asdict(self)
        body.pop("tag")
        return digest_of({"endpoint": endpoint, "model": model, **body})


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the text (None when the model sent none) and its cost in tokens."""

    request: Request
    key: str
    text: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    bought: bool  # False: it was found in the cache


class _BadAnswer(Exception):
    """Status 200, but not a chat completion."""


class Client:
    """A bounded, cached, patient caller of one endpoint and model.

    `name` stands for the endpoint in cache keys (`local` has another port each time). `sleep` is for tests.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        name: str,
        model: str,
        cache: Path,
        timeout: float,
        retries: int,
        concurrency: int,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._api = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=timeout)
        self._url, self._name, self._model, self._cache = base_url, name, model, cache
        self._concurrency = concurrency
        self._stop = threading.Event()
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(retries + 1),
            wait=_wait,
            retry=tenacity.retry_if_exception(_may_pass),
            reraise=True,
            sleep=sleep or self._wait_unless_stopped,
        )

    def _wait_unless_stopped(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def close(self) -> None:
        self._stop.set()
        self._api.close()

    def ask_all(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Replies as they arrive, at most `concurrency` in flight. What is bought is in the cache even after a failure.

        Raises UserError for a refused key, an unknown model or a request the endpoint won't take; TransientError when
        five requests in a row failed with all their retries, or none was answered; fewer lost ones leave no reply.
        """
        waiting = iter(requests)
        failures: list[Exception] = []
        answered = False
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="llm") as pool:
            running: set[Future[Reply]] = set()
            try:
                while True:
                    while len(running) < self._concurrency and (request := next(waiting, None)) is not None:
                        running.add(pool.submit(self._ask, request))
                    if not running:
                        break
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        error = future.exception()
                        if error is None:
                            failures.clear()
                            answered = True
                            yield future.result()
                        elif isinstance(error, UserError) or not isinstance(error, TransientError):
                            raise error
                        else:
                            failures.append(error)
                            if len(failures) >= FAILURES_IN_A_ROW:
                                raise failures[-1]
                if failures and not answered:
                    raise failures[-1]
            finally:
                self._stop.set()  # wakes whoever waits for a retry
                pool.shutdown(wait=True, cancel_futures=True)
                self._stop.clear()

    def _ask(self, request: Request) -> Reply:
        key = request.key(self._name, self._model)
        path = self._cache / key[:2] / f"{key}.json"
        kept = _read_kept(path)
        if kept is not None:
            return Reply(request, key, **kept, bought=False)
        try:
            kept = self._retrying(self._send, request)
        except openai.APIError as e:
            raise self._explained(e) from None
        except _BadAnswer as e:
            raise TransientError(f"the endpoint {self._url} {e}; is generate.endpoint its base URL (ending in /v1)?")
        files.write_json(path, kept)
        return Reply(request, key, **kept, bought=True)

    def _send(self, request: Request) -> dict[str, Any]:
        if self._stop.is_set():
            raise TransientError("stopped")
        try:
            answer = self._api.chat.completions.create(
                model=self._model,
                messages=[{"role": role, "content": text} for role, text in request.messages],  # type: ignore[misc]
                temperature=request.temperature,
                top_p=request.top_p,
                max_tokens=request.max_tokens,
                seed=request.seed,
            )
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise _BadAnswer("answered something that is not JSON (HTML?)") from None
        if isinstance(answer, str):  # the client hands on a body whose content type is not JSON
            raise _BadAnswer("answered something that is not JSON (HTML?)")
        choices = getattr(answer, "choices", None)
        if not isinstance(choices, list):
            raise _BadAnswer("answered JSON that is not a chat completion")
        usage = answer.usage
        first = choices[0] if choices else None
        text = getattr(getattr(first, "message", None), "content", None)
        return {
            "text": whole(text) if isinstance(text, str) else None,
            "finish_reason": getattr(first, "finish_reason", None),
            "prompt_tokens": _count(usage, "prompt_tokens"),
            "completion_tokens": _count(usage, "completion_tokens"),
        }

    def _explained(self, error: openai.APIError) -> Exception:
        where = f"the endpoint {self._url}"
        said = " ".join(str(getattr(error, "message", error)).split())[:200]
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            return UserError(
                f"{where} refused the key (status {error.status_code}): set generate.api_key_env to the "
                f"variable that holds it; it said: {said}"
            )
        if isinstance(error, openai.NotFoundError):
            return UserError(
                f"{where} knows no model {self._model!r} or no such path (status 404): check generate.model "
                f"and that generate.endpoint ends in /v1; it said: {said}"
            )
        if isinstance(error, openai.RateLimitError):
            return TransientError(
                f"{where} is at its rate limit (status 429) after every retry: lower "
                f"generate.concurrency or come back later; what was bought is kept; it said: {said}"
            )
        if isinstance(error, openai.APITimeoutError):
            return TransientError(
                f"{where} gave no answer within {self._api.timeout} s, retries included: is it up? "
                f"(generate.timeout_seconds); what was bought is kept"
            )
        if isinstance(error, openai.APIConnectionError):
            return TransientError(
                f"{where} can't be reached ({error.__cause__ or said}): is it up, and is the address "
                f"right? What was bought is kept"
            )
        if isinstance(error, openai.APIStatusError) and error.status_code < 500:
            return UserError(f"{where} won't take the request (status {error.status_code}): {said}")
        status = getattr(error, "status_code", None)
        return TransientError(
            f"{where} failed (status {status}) after every retry; what was bought is kept; it said: {said}"
        )


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in {408, 409, 425, 429} or error.status_code >= 500
    return isinstance(error, (openai.APIConnectionError, _BadAnswer))


_backoff = tenacity.wait_exponential_jitter(initial=0.5, max=RETRY_AFTER_CAP, jitter=0.5)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, openai.APIStatusError):
        try:
            return min(max(0.0, float(error.response.headers.get("retry-after", ""))), RETRY_AFTER_CAP)
        except ValueError:
            pass
    return _backoff(state)


def _count(usage: Any, name: str) -> int:
    n = getattr(usage, name, 0)  # the client doesn't check what it reads
    return n if isinstance(n, int) else 0


def _read_kept(path: Path) -> dict[str, Any] | None:
    try:
        kept = files.read_json(path)
    except (OSError, ValueError):
        return None
    fields = {"text", "finish_reason", "prompt_tokens", "completion_tokens"}
    return kept if isinstance(kept, dict) and set(kept) == fields else None
