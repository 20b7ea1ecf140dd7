"""Notifications: a webhook is signed, an export is read back, and both are sent until they arrive."""

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

INTENT = Intent(
    name="toy",
    new="2",
    old="1",
    reason="it is better",
    when="2026-01-02T03:04:05.000006+00:00",
    number=2,
    who="ada",
)
KEY = "a shared secret"


class Receiver:
    """A server that accepts webhooks, after it has refused the next `failures`."""

    def __init__(self) -> None:
        self.accepted: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.failures = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.failures -= 1
                accepted = receiver.failures < 0
                if accepted:
                    receiver.accepted.append((dict(self.headers), body))
                    receiver.paths.append(self.path)
                self.send_response(204 if accepted else 503)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv(notifications.SECRET, KEY)
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(Workspace(home), "sqlite://")


@pytest.fixture
def registry(tmp_path: Path) -> Any:
    """What an export needs of the registry: a bundle of two files."""
    (tmp_path / "bundle" / "onnx").mkdir(parents=True)
    (tmp_path / "bundle" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "bundle" / "onnx" / "model.onnx").write_bytes(b"graph")
    atomic.seal(tmp_path / "bundle")
    return SimpleNamespace(
        version=lambda name, version: (name, version), fetch=lambda _: tmp_path / "bundle"
    )


def enqueue(settings: Settings, channel: str, target: str) -> None:
    notifications.enqueue(settings, INTENT, targets={channel: target}, bundle="d" * 64)


def deliver_one(settings: Settings, registry: Any) -> str:
    (sentence,) = notifications.deliver(settings, registry)
    return sentence


def test_a_webhook_is_signed_and_sent_once(
    settings: Settings, receiver: Receiver, registry: Any
) -> None:
    for _ in range(2):  # as when a promotion is carried out again after a kill
        enqueue(settings, "webhook", receiver.url)
    assert len(notifications.pending(settings)) == 1
    assert deliver_one(settings, registry).endswith(": done")
    assert notifications.deliver(settings, registry) == []
    [(headers, body)] = receiver.accepted
    event = json.loads(body)
    assert event == {
        "event": "promoted",
        "id": headers["X-Reseed-Id"],
        "model": "toy",
        "version": "2",
        "before": "1",
        "bundle": "d" * 64,
        "kind": "verdict",
        "who": "ada",
        "reason": "it is better",
        "when": INTENT.when,
    }
    timestamp = headers["X-Reseed-Timestamp"]
    signature = notifications.signature(KEY, timestamp, body)
    assert headers["X-Reseed-Signature"] == f"sha256={signature}"


def test_a_failing_receiver_is_retried(
    settings: Settings, receiver: Receiver, registry: Any
) -> None:
    receiver.failures = 2
    enqueue(settings, "webhook", receiver.url)
    assert deliver_one(settings, registry).endswith(": done") and len(receiver.accepted) == 1


def test_an_undelivered_notification_is_sent_again(
    settings: Settings, receiver: Receiver, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.failures = 3
    enqueue(settings, "webhook", receiver.url)
    assert "sent again later: it answered 503" in deliver_one(settings, registry)
    with monkeypatch.context() as m:
        m.delenv(notifications.SECRET)
        assert "set RESEED_WEBHOOK_SECRET" in deliver_one(settings, registry)
    assert deliver_one(settings, registry).endswith(": done") and len(receiver.accepted) == 1


def test_a_token_in_the_address_is_neither_printed_nor_stored(
    settings: Settings, receiver: Receiver, registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(settings, "webhook", receiver.url + "/{token}?key=K3Y")
    without_token = deliver_one(settings, registry)
    assert without_token.endswith("has {token}: set RESEED_WEBHOOK_TOKEN in the environment")
    monkeypatch.setenv("RESEED_WEBHOOK_TOKEN", "T0KEN")
    files = settings.workspace.notifications.glob("[!.]*.json")
    assert all("T0KEN" not in path.read_text() for path in files)
    done = deliver_one(settings, registry)
    assert done == f"webhook of toy 2 to {receiver.url.removesuffix('/hook')}: done"
    assert receiver.paths == ["/hook/T0KEN?key=K3Y"]
    assert "K3Y" not in without_token


def test_an_address_is_redacted() -> None:
    redact = notifications.redact_url
    assert redact("https://me:secret@example.com:8443/x") == "https://example.com:8443"
    assert redact("s3://bucket/prefix") == "s3://bucket/prefix"


def test_a_missing_receiver_raises_nothing(
    settings: Settings, receiver: Receiver, registry: Any
) -> None:
    receiver.server.shutdown()
    receiver.server.server_close()
    enqueue(settings, "webhook", receiver.url)
    assert "sent again later: ConnectError" in deliver_one(settings, registry)


def test_a_signature_depends_on_key_time_and_body() -> None:
    arguments = [
        (KEY, "1", b"body"),
        (KEY, "2", b"body"),
        (KEY, "1", b"other"),
        ("another", "1", b"body"),
    ]
    assert len({notifications.signature(*a) for a in arguments}) == 4


def test_an_export_is_stored_under_name_and_version(
    settings: Settings, registry: Any, s3: Any, tmp_path: Path
) -> None:
    enqueue(settings, "export", "s3://bucket/prod/")
    assert deliver_one(settings, registry).endswith(": done")
    keys = {o["Key"] for o in s3.list_objects_v2(Bucket="bucket")["Contents"]}
    names = ("model.safetensors", "onnx/model.onnx", "manifest.json")
    assert keys == {f"prod/toy/2/{name}" for name in names}
    for name in names:
        body = s3.get_object(Bucket="bucket", Key=f"prod/toy/2/{name}")["Body"].read()
        assert body == (tmp_path / "bundle" / name).read_bytes()


def test_an_export_that_reads_back_different_is_repeated(
    settings: Settings, registry: Any, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import references

    class Torn:
        """A store that loses the last byte."""

        def upload_file(self, path: str, bucket: str, key: str) -> None:
            s3.put_object(Bucket=bucket, Key=key, Body=Path(path).read_bytes()[:-1])

        def get_object(self, **arguments: Any) -> Any:
            return s3.get_object(**arguments)

    enqueue(settings, "export", "s3://bucket")
    with monkeypatch.context() as m:
        m.setattr(references, "s3_client", Torn)
        assert "reads back different" in deliver_one(settings, registry)
    assert deliver_one(settings, registry).endswith(": done")


def test_a_missing_bucket_leaves_the_export_pending(
    settings: Settings, registry: Any, s3: Any
) -> None:
    enqueue(settings, "export", "s3://nothing/x")
    assert "NoSuchBucket" in deliver_one(settings, registry)
    assert len(notifications.pending(settings)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"webhook": "ftp://x"},
        {"webhook": "example.com"},
        {"export_to": "s3:/x"},
        {"export_to": "/tmp/x"},
    ],
)
def test_a_target_is_checked_when_the_project_is_read(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="String should match"):
        Promote.model_validate(wrong)
