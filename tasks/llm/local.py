"""A small LLM on this machine: llama.cpp's OpenAI-compatible server on a free loopback port."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import TransientError, UserError

START_SECONDS, STOP_SECONDS = 300.0, 60.0
SLOT_TOKENS = 1024  # for a request and its answer
HEADER_BYTES = 64 << 20  # a GGUF file's metadata, with its vocabulary, end before
# for a base model: llama.cpp's default would add markup that the model has never seen, and repeats
BASE_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\n\nAnswer:"
    "{% else %}{{ m['content'] }}\n\n{% endif %}{% endfor %}"
)


@contextlib.contextmanager
def local_server(model: Path, *, slots: int, tokens: int = SLOT_TOKENS) -> Iterator[str]:
    """The base URL (ending in /v1) of a server of the GGUF file `model`, which ends with the body.

    It answers `slots` requests at once, each with room for `tokens`, its answer included. A model
    without a chat template gets `Question:` and `Answer:`. Raises UserError where the file is not a
    GGUF model.
    """
    import xllamacpp

    with model.open("rb") as f:
        if f.read(4) != b"GGUF":
            raise UserError(
                f"{model} is not a GGUF model: set generate.model to a .gguf file, or set "
                f"generate.endpoint"
            )
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    if not has_chat_template(model):
        params.chat_template = BASE_TEMPLATE
    params.port = 0
    params.n_parallel = slots
    params.n_ctx = slots * tokens
    params.warmup = False
    params.verbosity = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = _cores()
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as e:
        raise UserError(f"{model} cannot be loaded by llama.cpp: {e}") from None
    url, references = f"{server.listening_address}/v1", [server]
    del server
    try:
        _wait_until_ready(url)
        yield url
    finally:
        # the server's destructor, which stops its threads and frees the port, may hang
        end = threading.Thread(target=references.clear, name="end of the local LLM", daemon=True)
        end.start()
        end.join(STOP_SECONDS)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _wait_until_ready(url: str) -> None:
    """Generate one token: a server that is stopped before its loop has started never ends."""
    import httpx

    body = {"prompt": "a", "max_tokens": 1, "temperature": 0}
    try:
        httpx.post(f"{url}/completions", json=body, timeout=START_SECONDS).raise_for_status()
    except httpx.HTTPError as e:
        raise TransientError(f"llama.cpp's server at {url} does not answer: {e}") from None


def has_chat_template(model: Path) -> bool:
    """True where the GGUF file says how a conversation is written; base models do not."""
    with model.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"tokenizer.chat_template", 0, HEADER_BYTES) >= 0
