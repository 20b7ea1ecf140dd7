"""Notifications of a promotion: a signed webhook, and a verified copy of the bundle on S3.

A notification is written to the workspace while the aliases move, and deleted once it is delivered;
one that cannot be delivered is sent again at the next start. So a webhook may come twice, with the
same id, and a promotion neither waits for a receiver nor fails with it.

MLflow's own webhooks do not replace this: only its server sends them, for every model and alias and
without the reason; they are lost with the server's process, and need a public receiver.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import time
from typing import Any
from urllib.parse import urlsplit

from flows.registry.client import Registry
from flows.registry.promotion_log import Intent
from flows.settings import Settings
from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.errors import TransientError, UserError
from tasks.figures import Figures

SECRET = "RESEED_WEBHOOK_SECRET"  # noqa: S105  (the variable with the key of the signature)
TOKEN, TOKEN_VARIABLE = "{token}", "RESEED_WEBHOOK_TOKEN"
TIMEOUT = 20.0
TRIES = 3


class Notification(Figures):
    """A promotion to be sent to `target`: by `webhook` to an address, by `export` to an S3 prefix."""

    channel: str
    target: str
    promotion: Intent
    bundle: str

    @property
    def file_name(self) -> str:
        """The file in the workspace: the same one for a promotion that is carried out again."""
        return f"{self.promotion.id}-{self.channel}.json"

    @property
    def body(self) -> bytes:
        """The body of the webhook, as JSON."""
        p = self.promotion
        versions = {"model": p.name, "version": p.new, "before": p.old, "bundle": self.bundle}
        reason = {"kind": p.kind, "who": p.who, "reason": p.reason, "when": p.when}
        event = {"event": "promoted", "id": p.id, **versions, **reason}
        return json.dumps(event, ensure_ascii=False).encode()


def enqueue(settings: Settings, intent: Intent, *, targets: dict[str, str], bundle: str) -> None:
    """Write the notifications of a promotion; `targets` are by channel."""
    for channel, target in targets.items():
        new = Notification(channel=channel, target=target, promotion=intent, bundle=bundle)
        path = settings.workspace.notifications / new.file_name
        atomic.write_json(path, new.model_dump())


def pending(settings: Settings) -> list[Notification]:
    """The notifications that are not delivered, oldest first."""
    files = settings.workspace.notifications.glob("[!.]*.json")
    notifications = [Notification.model_validate_json(path.read_bytes()) for path in files]
    return sorted(notifications, key=lambda n: (n.promotion.when, n.channel))


def deliver(settings: Settings, registry: Registry) -> list[str]:
    """Send the pending notifications; a sentence on each. A receiver that fails raises nothing."""
    sentences, folder = [], settings.workspace.notifications
    if not folder.exists():
        return []
    with contextlib.suppress(UserError), atomic.exclusive_lock(folder / ".lock", "a delivery"):
        for notification in pending(settings):
            promotion, target = notification.promotion, redact_url(notification.target)
            title = f"{notification.channel} of {promotion.name} {promotion.new} to {target}"
            send = _send_webhook if notification.channel == "webhook" else _export_bundle
            try:
                send(notification, registry)
            except (TransientError, UserError, CorruptDirectory) as e:
                sentences.append(f"{title} is not delivered, and is sent again later: {e}")
                continue
            (folder / notification.file_name).unlink(missing_ok=True)
            sentences.append(f"{title}: done")
    return sentences


def redact_url(target: str) -> str:
    """The target for messages: of a webhook the host alone, as the rest often holds a token."""
    parts = urlsplit(target)
    if parts.scheme not in {"http", "https"}:
        return target
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 of timestamp, full stop and body, in hex; the timestamp guards against replay."""
    message = timestamp.encode() + b"." + body
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def _send_webhook(notification: Notification, registry: Registry) -> None:
    import httpx
    from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

    secret, token = os.environ.get(SECRET, ""), os.environ.get(TOKEN_VARIABLE, "")
    if not secret:
        raise UserError(f"promote.webhook is signed: set {SECRET} in the environment")
    if TOKEN in notification.target and not token:
        raise UserError(
            f"the address in promote.webhook has {TOKEN}: set {TOKEN_VARIABLE} in the environment"
        )
    body, url = notification.body, notification.target.replace(TOKEN, token)

    @retry(
        retry=retry_if_exception_type(TransientError),
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential_jitter(0.5, max=5),
        reraise=True,
    )
    def send() -> None:
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "X-Reseed-Id": notification.promotion.id,
            "X-Reseed-Timestamp": timestamp,
            "X-Reseed-Signature": f"sha256={signature(secret, timestamp, body)}",
        }
        try:
            response = httpx.post(url, content=body, headers=headers, timeout=TIMEOUT)
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise TransientError(f"{type(e).__name__}: {e}") from None
        if not response.is_success:
            raise TransientError(f"it answered {response.status_code}")

    send()


def _export_bundle(notification: Notification, registry: Registry) -> None:
    """Copy the bundle to TARGET/NAME/VERSION, then compare every object with the manifest."""
    from tasks.references import s3_client

    name, number = notification.promotion.name, notification.promotion.new
    bucket, _, prefix = notification.target.removeprefix("s3://").partition("/")
    base = "/".join(part for part in (prefix.strip("/"), name, number) if part)
    client, directory = s3_client(), registry.fetch(registry.version(name, number))
    files = atomic.read_json(directory / atomic.MANIFEST)["files"]
    try:
        for path in [*(file["path"] for file in files), atomic.MANIFEST]:  # the manifest last
            client.upload_file(str(directory / path), bucket, f"{base}/{path}")
        for file in files:
            body = client.get_object(Bucket=bucket, Key=f"{base}/{file['path']}")["Body"]
            if _sha256(body) != file["sha256"]:
                raise TransientError(f"{file['path']} reads back different from what was written")
    except TransientError:
        raise
    except Exception as e:  # botocore creates its exceptions at run time
        raise TransientError(f"{type(e).__name__}: {e}") from None


def _sha256(body: Any) -> str:
    digest = hashlib.sha256()
    for chunk in body.iter_chunks(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
