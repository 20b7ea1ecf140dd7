"""The scripted server with OpenAI's Batch API: /files and /batches, whose jobs end after so many looks at them."""

from __future__ import annotations

import json
from collections.abc import Callable
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

from tests.kit import scripted

Answer = Callable[[dict[str, Any]], tuple[int, Any] | None]


class BatchHandler(scripted.Handler):
    server: BatchServer

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        self.handle_call("POST", raw)

    def do_GET(self) -> None:
        self.handle_call("GET", b"")

    def handle_call(self, method: str, raw: bytes) -> None:
        server, path = self.server, self.path.split("?")[0].removeprefix("/v1")
        with server.lock:
            server.calls.append(f"{method} {path}")
            fault = server.faults.pop(0) if server.faults else server.always
        if fault:
            fault(self)
            return
        _, what, *rest = path.split("/")
        if (method, what) == ("POST", "files"):
            self.send(200, server.upload(self.parts(raw)))
        elif (method, what) == ("POST", "batches"):
            self.send(200, server.create(json.loads(raw)))
        elif what == "batches" and not rest:
            self.send(200, {"object": "list", "data": server.newest_first(), "has_more": False})
        elif what == "batches" and rest[0] in server.batches:
            self.send(200, server.look(rest[0]))
        elif what == "files" and rest[0] in server.files:
            self.send(200, server.files[rest[0]].decode(), kind="application/octet-stream")
        else:
            self.send(404, {"error": {"message": f"no {path}"}})

    def parts(self, raw: bytes) -> dict[str, bytes]:
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        form = BytesParser(policy=HTTP).parsebytes(head + raw)
        return {
            str(p.get_param("name", header="content-disposition")): p.get_payload(decode=True)
            for p in form.iter_parts()
        }


class BatchServer(scripted.Server):
    """`looks` polls find a batch in progress, then it ends as `ends`; `answers` decides each line (None: unanswered).

    `bought` counts how often each custom_id was paid for; `files` and `batches` are what it holds.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.bought: dict[str, int] = {}
        self.looks, self.ends = 2, "completed"
        self.answers: Answer = lambda body: (200, scripted.completion(scripted.answer(body)))
        self.message: str | None = None
        super().__init__(BatchHandler)

    def upload(self, parts: dict[str, bytes]) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        self.files[name] = parts["file"]
        assert parts["purpose"] == b"batch"
        about = {
            "bytes": len(parts["file"]),
            "created_at": 0,
            "filename": "f",
            "purpose": "batch",
            "status": "processed",
        }
        return {"id": name, "object": "file", **about}

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
        name = f"batch_{len(self.batches)}"
        about = {
            "created_at": len(self.batches),
            "status": "validating",
            "object": "batch",
            "left": self.looks,
        }
        self.batches[name] = {"id": name, **body, **about}
        return self.batches[name]

    def newest_first(self) -> list[dict[str, Any]]:
        return list(reversed(self.batches.values()))

    def look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        batch["left"] -= 1
        if batch["left"] >= 0:
            batch["status"] = "in_progress"
        elif batch["status"] in {"validating", "in_progress"}:
            self.finish(batch)
        return batch

    def finish(self, batch: dict[str, Any]) -> None:
        good, bad = [], []
        for line in self.files[batch["input_file_id"]].decode().splitlines():
            row = json.loads(line)
            answer = self.answers(row["body"])
            if answer is None:
                continue
            status, body = answer
            out = {
                "custom_id": row["custom_id"],
                "response": {"status_code": status, "body": body},
                "error": None,
            }
            (good if status == 200 else bad).append(json.dumps(out))
            if status == 200:
                self.bought[row["custom_id"]] = self.bought.get(row["custom_id"], 0) + 1
        batch["status"] = self.ends
        for kind, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[kind] = f"file-{len(self.files)}"
                self.files[batch[kind]] = ("\n".join(lines) + "\n").encode()
        if self.message:
            batch["errors"] = {"object": "list", "data": [{"code": "x", "message": self.message}]}
