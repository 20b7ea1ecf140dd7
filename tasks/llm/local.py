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
SLOT_TOKENS = 1024  # room for a request and its answer
HEADER_BYTES = 64 << 20  # a GGUF file's metadata, its vocabulary included, end before
# for a base model: llama.cpp would put in marks that the model has never seen, and that it goes on with
BASE_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Question: {{ m['content'] }}\n\nAnswer:"
    "{% else %}{{ m['content'] }}\n\n{% endif %}{% endfor %}"
)


@contextlib.contextmanager
def local_server(model: Path, *, slots: int, tokens: int = SLOT_TOKENS) -> Iterator[str]:
    """The base URL (ending in /v1) of a server that answers with the GGUF file `model`; it ends with the body.

    `slots` requests are answered at once, each with room for `tokens`, its answer included. A model that carries no
    chat template is shown `Question:` and `Answer:`.
    Raises UserError when the file is no GGUF model.
    """
    import xllamacpp

    with model.open("rb") as f:
        if f.read(4) != b"GGUF":
            raise UserError(
                f"{model} is not a GGUF model: give generate.model a .gguf file, or set generate.endpoint"
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
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = cores
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as e:
        raise UserError(f"{model} can't be loaded by llama.cpp: {e}") from None
    address, held = f"{server.listening_address}/v1", [server]
    del server
    try:
        _wait_until_it_answers(address)
        yield address
    finally:
        # the destructor stops the threads and frees the port
        end = threading.Thread(target=held.clear, name="end of the local LLM", daemon=True)
        end.start()
        end.join(STOP_SECONDS)


def _wait_until_it_answers(address: str) -> None:
    """Have one token written: a server that is told to stop before its loop runs waits for the loop for ever."""
    import httpx

    told = {"prompt": "a", "max_tokens": 1, "temperature": 0}
    try:
        httpx.post(f"{address}/completions", json=told, timeout=START_SECONDS).raise_for_status()
    except httpx.HTTPError as e:
        raise TransientError(f"llama.cpp's server at {address} does not answer: {e}") from None


def has_chat_template(model: Path) -> bool:
    """Whether the GGUF file says how a conversation is written; base models do not."""
    with model.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"tokenizer.chat_template", 0, HEADER_BYTES) >= 0
