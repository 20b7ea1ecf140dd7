"""The page on which a person decides about doubtful rows, by keyboard, on loopback alone.

Three things keep others out: the server listens on 127.0.0.1, a random token is part of every address below it, and
requests that name another host or come from another site are refused. Every text shown is untrusted: it goes to the
browser as text, never as HTML, and the page may load nothing from elsewhere.
"""

from __future__ import annotations

import html
import os
import secrets
import tempfile
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.review.session import ReviewSession, print_address
from flows.review.state import ReviewState

if TYPE_CHECKING:
    from fastapi import FastAPI


POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
}


class SameOriginGuard:
    """ASGI middleware: only requests to this very address, and from no other site, go through."""

    def __init__(self, app: Any, *, port: int) -> None:
        self.app = app
        self._hosts = {f"127.0.0.1:{port}".encode(), f"localhost:{port}".encode()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or self._is_ours(dict(scope["headers"])):
            await self.app(scope, receive, _with_headers(scope, send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send(
                {
                    "type": "http.response.start",
                    "status": 403,
                    "headers": [(b"content-type", b"text/plain")],
                }
            )
            await send(
                {"type": "http.response.body", "body": b"this page answers only its own address"}
            )

    def _is_ours(self, headers: dict[bytes, bytes]) -> bool:
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        return host in self._hosts and (origin is None or origin == b"http://" + host)


def _with_headers(scope: Any, send: Any) -> Any:
    async def sending(message: Any) -> None:
        if scope["type"] == "http" and message["type"] == "http.response.start":
            kept = [(k, v) for k, v in message["headers"] if k.lower() not in HEADERS]
            message = {**message, "headers": [*kept, *HEADERS.items()]}
        await send(message)

    return sending


def create_review_app(session: ReviewSession, *, token: str, port: int) -> FastAPI:
    """The app, below `/TOKEN/`; any other address is not found."""
    from fastapi import FastAPI
    from nicegui import ui

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @ui.page("/", title=f"review · {session.project.name}")  # type: ignore[untyped-decorator]
    def page() -> None:
        from flows.review.view import View

        View(ReviewState(session)).build()

    ui.run_with(
        app,
        mount_path=f"/{token}",
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=10,
    )
    app.add_middleware(SameOriginGuard, port=port)
    return app


def serve(session: ReviewSession, *, port: int, show: bool, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; `ready` gets its address. Raises UserError when the port is taken."""
    import uvicorn

    from flows.serving.api import bind_port

    token = secrets.token_urlsafe(24)
    with bind_port("127.0.0.1", port, "give --port another, or 0 for a free one") as s:
        port = s.getsockname()[1]
        address = f"http://127.0.0.1:{port}/{token}/"
        server = uvicorn.Server(
            uvicorn.Config(
                create_review_app(session, token=token, port=port),
                log_level="warning",
                access_log=False,
            )
        )
        s.listen(128)  # a browser that is faster than the server's start waits, and is not refused
        ready(address)
        with tempfile.TemporaryDirectory(prefix="reseed-review-") as folder:
            if show:
                _open(address, Path(folder) / "open.html")
            server.run(sockets=[s])


def _open(address: str, page: Path) -> None:
    """Open the address through a file that only this user can read: a command line would show the token to others."""
    fd = os.open(page, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        f.write(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(address)}">'
        )
    webbrowser.open(page.as_uri())


def run(session: ReviewSession, *, port: int, show: bool, announce: Callable[..., None]) -> None:
    """Serve the page on loopback until Ctrl-C, and open it in the browser where `show`."""

    def ready(address: str) -> None:
        status = session.status()
        announce(
            {**status.model_dump(), "address": address},
            lambda: print_address(status.model_dump(), address),
        )

    serve(session, port=port, show=show, ready=ready)
