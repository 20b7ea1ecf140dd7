"""A scripted OpenAI-compatible server: answers in the toy language of tests/kit/toy.py, counts, and misbehaves on demand."""

from __future__ import annotations

import hashlib
import json
import random
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.kit import toy

Fault = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    body: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.body = body
            self.server.requests.append(body)
            fault = self.server.faults.pop(0) if self.server.faults else self.server.always
            number = len(self.server.requests)
            self.server.now += 1
            self.server.peak = max(self.server.peak, self.server.now)
        time.sleep(self.server.delay)
        if self.server.on_request:
            self.server.on_request(number)
        try:
            if fault is not None:
                fault(self)
            else:
                self.send(200, completion(answer(body)))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self.server.lock:
                self.server.now -= 1

    def send(
        self, status: int, body: Any, *, kind: str = "application/json", **headers: str
    ) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "content-type": kind,
            "content-length": str(len(data)),
            **headers,
        }.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """`requests` holds every body received; `faults` are used up first, then `always` (None: a good answer).

    `now` requests are being handled, and `peak` is the most that ever were at once.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, handler: type[Handler] = Handler) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.now = self.peak = 0
        self.requests: list[dict[str, Any]] = []
        self.faults: list[Fault | None] = []
        self.always: Fault | None = None
        self.on_request: Callable[[int], None] | None = None
        self.delay = 0.0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no error here."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()


def completion(text: str | None, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }


def answer(body: dict[str, Any]) -> str:
    """A text of the label whose topic the request names, or of both where it names one and another; the same request gets the
    same text."""
    prompt = body["messages"][-1]["content"]
    topics = {topic: label for label, line in toy.LABELS.items() for topic in line.split("; ")}
    label = next((label for topic, label in topics.items() if topic in prompt), "metal")
    rng = random.Random(hashlib.sha256(json.dumps([prompt, body.get("seed")]).encode()).digest())
    two = re.search(r"(topic \w+) and (topic \w+)", prompt)
    if two:
        return toy.sentence([w for t in two.groups() for w in toy.WRITTEN[topics[t]]], rng)
    return toy.sentence(toy.WRITTEN[label], rng)


def status(code: int, **headers: str) -> Fault:
    return lambda h: h.send(
        code, {"error": {"message": f"scripted {code}", "type": "scripted"}}, **headers
    )


def says(text: str | None, finish_reason: str = "stop") -> Fault:
    return lambda h: h.send(200, completion(text, finish_reason))


def raw(body: str, kind: str = "application/json") -> Fault:
    return lambda h: h.send(200, body, kind=kind)


def html(h: Handler) -> None:
    h.send(200, "<html><body>Welcome</body></html>", kind="text/html")


def hang(h: Handler) -> None:
    time.sleep(30)


def drop(h: Handler) -> None:
    h.connection.shutdown(socket.SHUT_RDWR)
