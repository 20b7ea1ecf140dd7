"""What the world is told of a promotion: a signed webhook, and a verified copy of the bundle on S3.

A letter is written to the workspace's outbox in the same breath as the aliases move, and stays there until it was
delivered; what could not be is tried again at the next start. So a webhook may come twice, with the same id, and a promotion
never waits for it or fails by it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.registry.promotion_log import Intent
from flows.settings import Settings
from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.errors import TransientError, UserError

SIGNED_WITH = (
    "RESEED_WEBHOOK_SECRET"  # in the environment; its HMAC-SHA256 of the body signs a webhook
)
TOKEN, FROM = (
    "{token}",
    "RESEED_WEBHOOK_TOKEN",
)  # in a webhook's address, and what stands there when it is sent
TIMEOUT = 20.0
TRIES = 3


def enqueue(settings: Settings, intent: Intent, *, hooks: dict[str, str], bundle: str) -> None:
    """Write the letters of a promotion that was carried out; those of a promotion that is carried out again are the same."""
    told = {
        "event": "promoted",
        "id": intent.id,
        "model": intent.name,
        "version": intent.new,
        "before": intent.old,
        "bundle": bundle,
        "kind": intent.kind,
        "who": intent.who,
        "reason": intent.reason,
        "when": intent.when,
    }
    for kind, to in sorted(hooks.items()):
        atomic.write_json(
            _folder(settings) / f"{told['id']}-{kind}.json", {"letter": kind, "to": to, **told}
        )


def pending(settings: Settings) -> list[dict[str, Any]]:
    """The letters that are not delivered, oldest first."""
    letters = [atomic.read_json(p) for p in _folder(settings).glob("[!.]*.json")]
    return sorted(letters, key=lambda told: (told["when"], told["letter"]))


def deliver(settings: Settings, registry: Any) -> list[str]:
    """Send what waits; a sentence for each letter that is sent or could not be. Nothing is raised for a receiver that is down."""
    said = []
    folder = _folder(settings)
    if not folder.exists():
        return []
    with contextlib.suppress(UserError), atomic.exclusive_lock(folder / ".lock", "a delivery"):
        for told in pending(settings):
            what = (
                f"{told['letter']} of {told['model']} {told['version']} to {redact_url(told['to'])}"
            )
            try:
                _webhook(told) if told["letter"] == "webhook" else _export(told, registry)
            except (TransientError, UserError, CorruptDirectory) as e:
                said.append(f"{what} waits in the outbox: {e}")
                continue
            (folder / f"{told['id']}-{told['letter']}.json").unlink(missing_ok=True)
            said.append(f"{what}: done")
    return said


def redact_url(to: str) -> str:
    """The address as it may be printed: of a webhook the host alone, as the rest often holds a token."""
    found = urlsplit(to)
    return (
        f"{found.scheme}://{found.netloc.rpartition('@')[2]}"
        if found.scheme in {"http", "https"}
        else to
    )


def signature(secret: str, stamp: str, body: bytes) -> str:
    """HMAC-SHA256 of `stamp`, a full stop and `body`, in hex: the stamp keeps an old letter from being sent again by others."""
    return hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _webhook(told: dict[str, Any]) -> None:
    import httpx
    from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

    secret = os.environ.get(SIGNED_WITH, "")
    if not secret:
        raise UserError(
            f"promote.webhook needs a secret to sign with: set {SIGNED_WITH} in the environment"
        )
    to, token = str(told["to"]), os.environ.get(FROM, "")
    if TOKEN in to and not token:
        raise UserError(
            f"the address in promote.webhook asks for {TOKEN}: set {FROM} in the environment"
        )
    to = to.replace(TOKEN, token)
    body = json.dumps(
        {k: v for k, v in told.items() if k not in {"letter", "to"}}, ensure_ascii=False
    ).encode()

    @retry(
        retry=retry_if_exception_type(TransientError),
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential_jitter(0.5, max=5),
        reraise=True,
    )
    def send() -> None:
        stamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "X-Reseed-Id": told["id"],
            "X-Reseed-Timestamp": stamp,
            "X-Reseed-Signature": f"sha256={signature(secret, stamp, body)}",
        }
        try:
            answer = httpx.post(
                to, content=body, headers=headers, timeout=TIMEOUT, follow_redirects=False
            )
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise TransientError(f"{type(e).__name__}: {e}") from None
        if not answer.is_success:
            raise TransientError(f"it answered {answer.status_code}")

    send()


def _export(told: dict[str, Any], registry: Any) -> None:
    """Copy the bundle to `to`/NAME/VERSION, then read every object back and compare it with the manifest."""
    from tasks.references import s3_client

    bucket, _, prefix = str(told["to"]).removeprefix("s3://").partition("/")
    version = registry.version(told["model"], told["version"])
    directory = registry.fetch(version)
    base = "/".join(part for part in (prefix.strip("/"), told["model"], told["version"]) if part)
    client, listed = s3_client(), atomic.read_json(directory / atomic.MANIFEST)["files"]
    try:
        for name in [
            *(f["path"] for f in listed),
            atomic.MANIFEST,
        ]:  # the manifest last: who finds it finds all
            client.upload_file(str(directory / name), bucket, f"{base}/{name}")
        for f in listed:
            digest = hashlib.sha256()
            for chunk in client.get_object(Bucket=bucket, Key=f"{base}/{f['path']}")[
                "Body"
            ].iter_chunks(1 << 20):
                digest.update(chunk)
            if digest.hexdigest() != f["sha256"]:
                raise TransientError(f"{f['path']} reads back different from what was written")
    except TransientError:
        raise
    except Exception as e:  # botocore makes its exceptions at run time
        raise TransientError(f"{type(e).__name__}: {e}") from None


def _folder(settings: Settings) -> Path:
    return settings.workspace.notifications
