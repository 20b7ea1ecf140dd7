"""One attempt at a chat completion, and what its errors mean."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from tasks.errors import TransientError, UserError
from tasks.llm.request import Request
from tasks.text.tokens import replace_surrogates

_NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout"}
_MAX_TOKEN_COUNT = 10**9  # a larger one is not a count


class MalformedResponse(Exception):
    """Status 200, but not a chat completion."""


class AttemptTimeout(Exception):
    """The time for one attempt is over."""


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """A chat completion as the server sent it; a token count is None where it reported none."""

    text: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


def chat_body(request: Request, model: str) -> dict[str, Any]:
    """The JSON body of the chat completion."""
    body = {
        "model": model,
        "messages": [
            {"role": role, "content": replace_surrogates(text)} for role, text in request.messages
        ],
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "seed": request.seed,
    }
    if request.schema is not None:
        schema = {"name": "reply", "strict": True, "schema": json.loads(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


async def send_chat(api: openai.AsyncOpenAI, body: dict[str, Any]) -> ChatResponse:
    """The response to one attempt. Raises openai.APIError or MalformedResponse."""
    response = await api.chat.completions.with_raw_response.create(**body)
    try:
        completion = json.loads(response.http_response.content)
    except (ValueError, RecursionError):
        raise MalformedResponse("answered something that is not JSON (HTML?)") from None
    return parse_response(completion)


def parse_response(body: Any) -> ChatResponse:
    """The response in a chat completion's JSON, validated. Raises MalformedResponse."""
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list):
        raise MalformedResponse("answered JSON that is not a chat completion")
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    message = first.get("message")
    usage = body.get("usage")
    return ChatResponse(
        _text(message.get("content") if isinstance(message, dict) else None),
        _text(first.get("finish_reason")),
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
    )


def _text(value: Any) -> str | None:
    return replace_surrogates(value) if isinstance(value, str) else None


def _count(usage: Any, name: str) -> int | None:
    n = usage.get(name) if isinstance(usage, dict) else None
    valid = isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _MAX_TOKEN_COUNT
    return n if valid else None


def is_transient(error: BaseException) -> bool:
    """True where another attempt may succeed."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in {408, 409, 425, 429} or error.status_code >= 500
    return isinstance(error, (openai.APIConnectionError, MalformedResponse, AttemptTimeout))


def may_be_billed(error: BaseException) -> bool:
    """False where the provider answered with an error status or was never reached."""
    if isinstance(error, openai.APIStatusError):
        return False
    return type(error.__cause__).__name__ not in _NEVER_SENT


def is_overload(error: BaseException) -> bool:
    """True where the endpoint is likely to want fewer requests at once."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in {408, 425, 429} or error.status_code >= 500
    return isinstance(error, (AttemptTimeout, openai.APITimeoutError))


def retry_after(error: BaseException | None, *, now: float) -> float | None:
    """Seconds that the endpoint asks to wait (Retry-After); None where it asks for nothing usable.

    A date counts from the response's own Date where it has one, otherwise from `now` (Unix
    seconds).
    """
    if not isinstance(error, openai.APIStatusError):
        return None
    headers = error.response.headers
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        until, sent = _unix(value), _unix(headers.get("date", ""))
        return None if until is None else max(0.0, until - (now if sent is None else sent))
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _unix(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def explain_error(error: BaseException, *, url: str, model: str, timeout: float) -> Exception:
    """The error for the user: UserError where only they can fix it, TransientError otherwise."""
    where = f"the endpoint {url}"
    detail = " ".join(str(getattr(error, "message", error)).split())[:200]
    match error:
        case MalformedResponse():
            return TransientError(
                f"{where} {error}: is generate.endpoint its base URL (ending in /v1)?"
            )
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return UserError(
                f"{where} refused the key (status {error.status_code}): set generate.api_key_env to "
                f"the variable that holds it; the endpoint's message: {detail}"
            )
        case openai.NotFoundError():
            return UserError(
                f"{where} has no model {model!r} or no such path (status 404): check generate.model, "
                f"and that generate.endpoint ends in /v1; the endpoint's message: {detail}"
            )
        case openai.RateLimitError():
            return TransientError(
                f"{where} is at its rate limit (status 429) after every retry: lower "
                f"generate.concurrency or generate.requests_per_minute, or run it again later; "
                f"answers so far are kept; the endpoint's message: {detail}"
            )
        case openai.APITimeoutError() | AttemptTimeout():
            return TransientError(
                f"{where} did not answer any attempt within {timeout:g} s (generate.timeout_seconds): "
                f"check that it is running; answers so far are kept"
            )
        case openai.APIConnectionError():
            return TransientError(
                f"{where} cannot be reached ({error.__cause__ or detail}): check that it is running "
                f"and that the address is right; answers so far are kept"
            )
        case openai.APIStatusError() if not is_transient(error):
            return UserError(f"{where} refused the request (status {error.status_code}): {detail}")
    status = getattr(error, "status_code", None)
    return TransientError(
        f"{where} failed (status {status}) after every retry: run it again later; answers so far are "
        f"kept; the endpoint's message: {detail}"
    )
