"""What is told of a promotion: signed, until it was delivered, and read back where it is a copy."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.registry import notifications
from flows.registry.promotion_log import Intent
from flows.settings import Settings
from tasks import atomic
from tasks.project import Promote
from tasks.workspace import Workspace

INTENT = Intent("toy", "2", "1", "it is better", "2026-01-02T03:04:05.000006+00:00", 2, who="ada")
KEY = "a shared secret"


class Receiver:
    """A server that takes letters, once `broken` is over."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.broken = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.broken -= 1
                fine = owner.broken < 0
                if fine:
                    owner.taken.append((dict(self.headers), body))
                    owner.paths.append(self.path)
                self.send_response(204 if fine else 503)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv(notifications.SIGNED_WITH, KEY)
    found = Receiver()
    yield found
    found.server.shutdown()


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(Workspace(home), "sqlite://")


@pytest.fixture
def registry(tmp_path: Path) -> Any:
    """The registry as far as a delivery asks it: a bundle of two files."""
    (tmp_path / "bundle" / "onnx").mkdir(parents=True)
    (tmp_path / "bundle" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "bundle" / "onnx" / "model.onnx").write_bytes(b"graph")
    atomic.seal(tmp_path / "bundle")
    return SimpleNamespace(
        version=lambda name, version: (name, version), fetch=lambda _: tmp_path / "bundle"
    )


def test_a_webhook_is_signed_and_sent_once(
    settings: Settings, receiver: Receiver, registry: Any
) -> None:
    for _ in range(2):  # as when a promotion is carried out again after a kill
        notifications.enqueue(settings, INTENT, hooks={"webhook": receiver.url}, bundle="d" * 64)
    assert len(notifications.pending(settings)) == 1
    assert (
        notifications.deliver(settings, registry)[0].endswith(": done")
        and notifications.deliver(settings, registry) == []
    )
    [(headers, body)] = receiver.taken
    told = json.loads(body)
    assert (told["event"], told["model"], told["version"], told["before"]) == (
        "promoted",
        "toy",
        "2",
        "1",
    )
    assert (told["who"], told["reason"], told["bundle"]) == ("ada", "it is better", "d" * 64)
    stamp = headers["X-Reseed-Timestamp"]
    assert headers["X-Reseed-Signature"] == f"sha256={notifications.signature(KEY, stamp, body)}"
    assert headers["X-Reseed-Id"] == told["id"]


def test_a_receiver_that_falters_is_asked_again(
    settings: Settings, receiver: Receiver, registry: Any
) -> None:
    receiver.broken = 2
    notifications.enqueue(settings, INTENT, hooks={"webhook": receiver.url}, bundle="d" * 64)
    assert (
        notifications.deliver(settings, registry)[0].endswith(": done") and len(receiver.taken) == 1
    )


def test_what_can_not_be_delivered_waits(
    settings: Settings, receiver: Receiver, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.broken = 3
    notifications.enqueue(settings, INTENT, hooks={"webhook": receiver.url}, bundle="d" * 64)
    assert "waits in the outbox: it answered 503" in notifications.deliver(settings, registry)[0]
    with monkeypatch.context() as m:
        m.delenv(notifications.SIGNED_WITH)
        assert "set RESEED_WEBHOOK_SECRET" in notifications.deliver(settings, registry)[0]
    assert (
        notifications.deliver(settings, registry)[0].endswith(": done") and len(receiver.taken) == 1
    )


def test_a_token_in_the_address_is_neither_printed_nor_kept(
    settings: Settings, receiver: Receiver, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifications.enqueue(
        settings, INTENT, hooks={"webhook": receiver.url + "/{token}?key=K3Y"}, bundle="d" * 64
    )
    (waits,) = notifications.deliver(settings, registry)
    assert waits.endswith("asks for {token}: set RESEED_WEBHOOK_TOKEN in the environment")
    monkeypatch.setenv("RESEED_WEBHOOK_TOKEN", "T0KEN")
    assert all(
        "T0KEN" not in p.read_text() for p in settings.workspace.notifications.glob("[!.]*.json")
    )
    (done,) = notifications.deliver(settings, registry)
    assert done == f"webhook of toy 2 to {receiver.url.removesuffix('/hook')}: done"
    assert receiver.paths == ["/hook/T0KEN?key=K3Y"]
    assert "K3Y" not in waits
    assert (
        notifications.redact_url("https://me:secret@example.com:8443/x")
        == "https://example.com:8443"
    )
    assert notifications.redact_url("s3://bucket/prefix") == "s3://bucket/prefix"


def test_a_receiver_that_is_not_there_stops_nothing(
    settings: Settings, receiver: Receiver, registry: Any
) -> None:
    receiver.server.shutdown()
    receiver.server.server_close()
    notifications.enqueue(settings, INTENT, hooks={"webhook": receiver.url}, bundle="d" * 64)
    assert "waits in the outbox: ConnectError" in notifications.deliver(settings, registry)[0]


def test_a_signature_is_of_body_and_time() -> None:
    asked = [
        (KEY, "1", b"body"),
        (KEY, "2", b"body"),
        (KEY, "1", b"other"),
        ("another", "1", b"body"),
    ]
    assert len({notifications.signature(*a) for a in asked}) == 4


def test_a_copy_lies_under_name_and_version(
    settings: Settings, registry: Any, s3: Any, tmp_path: Path
) -> None:
    notifications.enqueue(settings, INTENT, hooks={"export": "s3://bucket/prod/"}, bundle="d" * 64)
    assert notifications.deliver(settings, registry)[0].endswith(": done")
    keys = {o["Key"] for o in s3.list_objects_v2(Bucket="bucket")["Contents"]}
    names = ("model.safetensors", "onnx/model.onnx", "manifest.json")
    assert keys == {f"prod/toy/2/{name}" for name in names}
    for name in names:
        body = s3.get_object(Bucket="bucket", Key=f"prod/toy/2/{name}")["Body"].read()
        assert body == (tmp_path / "bundle" / name).read_bytes()


def test_a_copy_that_reads_back_different_waits(
    settings: Settings, registry: Any, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import references

    class Torn:
        """A store that loses the last byte."""

        def upload_file(self, path: str, bucket_: str, key: str) -> None:
            s3.put_object(Bucket=bucket_, Key=key, Body=Path(path).read_bytes()[:-1])

        def get_object(self, **told: Any) -> Any:
            return s3.get_object(**told)

    notifications.enqueue(settings, INTENT, hooks={"export": "s3://bucket"}, bundle="d" * 64)
    with monkeypatch.context() as m:
        m.setattr(references, "s3_client", Torn)
        assert "reads back different" in notifications.deliver(settings, registry)[0]
    assert notifications.deliver(settings, registry)[0].endswith(": done")


def test_a_bucket_that_is_not_there_waits(settings: Settings, registry: Any, s3: Any) -> None:
    notifications.enqueue(settings, INTENT, hooks={"export": "s3://nothing/x"}, bundle="d" * 64)
    assert (
        "NoSuchBucket" in notifications.deliver(settings, registry)[0]
        and len(notifications.pending(settings)) == 1
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"webhook": "ftp://x"},
        {"webhook": "example.com"},
        {"export_to": "s3:/x"},
        {"export_to": "/tmp/x"},
    ],
)
def test_where_to_is_checked_when_the_project_is_read(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="String should match"):
        Promote.model_validate(wrong)
