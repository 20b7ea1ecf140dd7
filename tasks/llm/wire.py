"""One try of a request, and what its failures mean: whether they may pass, what they may have cost, what to say."""

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
_MOST_TOKENS = 10**9  # a count above it is no count


class MalformedResponse(Exception):
    """Status 200, but not a chat completion."""


class AttemptTimeout(Exception):
    """The time for one try was over."""


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """A chat completion; the token counts are None where the server told none."""

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
    """The answer to one try. Raises openai.APIError or BadAnswer."""
    response = await api.chat.completions.with_raw_response.create(**body)
    try:
        answer = json.loads(response.http_response.content)
    except (ValueError, RecursionError):
        raise MalformedResponse("answered something that is not JSON (HTML?)") from None
    return parse_response(answer)


def parse_response(body: Any) -> ChatResponse:
    """The answer in a chat completion's JSON, whose fields nobody has checked. Raises BadAnswer."""
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list):
        raise MalformedResponse("answered JSON that is not a chat completion")
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    message = first.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    reason = first.get("finish_reason")
    prompt, completion = (
        _count(body.get("usage"), name) for name in ("prompt_tokens", "completion_tokens")
    )
    return ChatResponse(
        replace_surrogates(text) if isinstance(text, str) else None,
        replace_surrogates(reason) if isinstance(reason, str) else None,
        prompt,
        completion,
    )


def _count(usage: Any, name: str) -> int | None:
    n = usage.get(name) if isinstance(usage, dict) else None
    return n if isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _MOST_TOKENS else None


def is_transient(error: BaseException) -> bool:
    """Whether another try may succeed."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in {408, 409, 425, 429} or error.status_code >= 500
    return isinstance(error, (openai.APIConnectionError, MalformedResponse, AttemptTimeout))


def may_be_billed(error: BaseException) -> bool:
    """Whether the provider may bill the try: not when it answered with an error status or was never reached."""
    if isinstance(error, openai.APIStatusError):
        return False
    return type(error.__cause__).__name__ not in _NEVER_SENT


def is_overload(error: BaseException) -> bool:
    """Whether the endpoint is likely to want fewer requests at once."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in {408, 425, 429} or error.status_code >= 500
    return isinstance(error, (AttemptTimeout, openai.APITimeoutError))


def retry_after(error: BaseException | None, *, now: float) -> float | None:
    """Seconds that the endpoint asks to wait, from either form of Retry-After; None where it says nothing usable.

    A date is read against the response's own Date where it has one, otherwise against `now` (Unix seconds).
    """
    if not isinstance(error, openai.APIStatusError):
        return None
    headers = error.response.headers
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        until = _unix(said)
        began = _unix(headers.get("date", ""))
        return None if until is None else max(0.0, until - (now if began is None else began))
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _unix(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def explain_error(error: BaseException, *, url: str, model: str, timeout: float) -> Exception:
    """The error for the user: UserError where only he can mend it, TransientError where it may pass."""
    where = f"the endpoint {url}"
    said = " ".join(str(getattr(error, "message", error)).split())[:200]
    if isinstance(error, MalformedResponse):
        return TransientError(
            f"{where} {error}; is generate.endpoint its base URL (ending in /v1)?"
        )
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        return UserError(
            f"{where} refused the key (status {error.status_code}): set generate.api_key_env to the "
            f"variable that holds it; it said: {said}"
        )
    if isinstance(error, openai.NotFoundError):
        return UserError(
            f"{where} knows no model {model!r} or no such path (status 404): check generate.model "
            f"and that generate.endpoint ends in /v1; it said: {said}"
        )
    if isinstance(error, openai.RateLimitError):
        return TransientError(
            f"{where} is at its rate limit (status 429) after every retry: lower generate.concurrency or "
            f"generate.requests_per_minute, or come back later; what was bought is kept; it said: {said}"
        )
    if isinstance(error, (openai.APITimeoutError, AttemptTimeout)):
        return TransientError(
            f"{where} gave no answer within {timeout:g} s, retries included: is it up? "
            f"(generate.timeout_seconds); what was bought is kept"
        )
    if isinstance(error, openai.APIConnectionError):
        return TransientError(
            f"{where} can't be reached ({error.__cause__ or said}): is it up, and is the address "
            f"right? What was bought is kept"
        )
    if isinstance(error, openai.APIStatusError) and not is_transient(error):
        return UserError(f"{where} won't take the request (status {error.status_code}): {said}")
    status = getattr(error, "status_code", None)
    return TransientError(
        f"{where} failed (status {status}) after every retry; what was bought is kept; it said: {said}"
    )
