"""The server of the review page, for one person on this machine.

It listens on 127.0.0.1, a random token is part of every address, and requests that name another
host or come from another site are refused. Every text on the page is untrusted: it is sent as
text, never as HTML, and the page may load nothing from elsewhere.
"""

from __future__ import annotations

import html
import os
import secrets
import tempfile
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.review.session import ReviewPage, ReviewSession
from flows.review.state import ReviewState

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
}


class SameOriginGuard:
    """ASGI middleware that refuses requests to another host or from another site."""

    def __init__(self, app: Any, *, port: int) -> None:
        self.app = app
        self._hosts = {f"127.0.0.1:{port}".encode(), f"localhost:{port}".encode()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it with status 403."""
        if scope["type"] == "lifespan" or self._is_same_origin(dict(scope["headers"])):
            await self.app(scope, receive, _with_headers(scope, send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b"this is not the page's address"})

    def _is_same_origin(self, headers: dict[bytes, bytes]) -> bool:
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        return host in self._hosts and (origin is None or origin == b"http://" + host)


def _with_headers(scope: Any, send: Any) -> Any:
    async def send_with_headers(message: Any) -> None:
        if scope["type"] == "http" and message["type"] == "http.response.start":
            kept = [(k, v) for k, v in message["headers"] if k.lower() not in HEADERS]
            message = {**message, "headers": [*kept, *HEADERS.items()]}
        await send(message)

    return send_with_headers


def create_review_app(session: ReviewSession, *, token: str, port: int) -> Any:
    """The FastAPI app, below `/TOKEN/`; any other address is not found."""
    from fastapi import FastAPI
    from nicegui import ui

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @ui.page("/", title=f"review · {session.project.name}")  # type: ignore[untyped-decorator]
    def page() -> None:
        from flows.review.view import View

        View(ReviewState(session)).build()

    options = {"tailwind": False, "show_welcome_message": False, "reconnect_timeout": 10}
    ui.run_with(app, mount_path=f"/{token}", **options)
    app.add_middleware(SameOriginGuard, port=port)
    return app


def serve_review(
    session: ReviewSession, *, port: int, open_browser: bool, ready: Callable[[ReviewPage], None]
) -> None:
    """Serve the page until Ctrl-C; `ready` is called with its address.

    Raises UserError where the port is taken.
    """
    import uvicorn

    from flows.serving.api import bind_port

    token = secrets.token_urlsafe(24)
    with bind_port("127.0.0.1", port, "give --port another, or 0 for a free one") as s:
        port = s.getsockname()[1]
        address = f"http://127.0.0.1:{port}/{token}/"
        app = create_review_app(session, token=token, port=port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        s.listen(128)  # a browser that is faster than the server waits instead of being refused
        ready(ReviewPage(**dict(session.status()), address=address))
        with tempfile.TemporaryDirectory(prefix="reseed-review-") as folder:
            if open_browser:
                _open(address, Path(folder) / "open.html")
            server.run(sockets=[s])


def _open(address: str, page: Path) -> None:
    """Open the address through a file of this user: a command line would show others the token."""
    fd = os.open(page, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        refresh = f"0; url={html.escape(address)}"
        f.write(f'<!doctype html><meta http-equiv="refresh" content="{refresh}">')
    webbrowser.open(page.as_uri())
