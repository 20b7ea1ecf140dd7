"""Serve the verified champion over HTTP, by default on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import click
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from flows.progress import say
from flows.registry.client import Version
from flows.serving.predict import load_champion
from flows.settings import Settings
from tasks.errors import UserError
from tasks.figures import Figures
from tasks.model.bundle import Classifier, LabelSet, Prediction

MAX_TEXTS, MAX_CHARACTERS = 256, 100_000
LOOPBACK = {"127.0.0.1", "::1", "localhost"}

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


class Question(BaseModel):
    """Up to 256 texts of up to 100,000 characters."""

    model_config = ConfigDict(extra="forbid")
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]


class Answers(BaseModel):
    """Answers in the order of the texts, and the model version that gave them."""

    model: str
    version: str
    predictions: list[Prediction] | list[LabelSet]


class ServerAddress(Figures):
    """The served version and the address of its server."""

    model: str
    version: str
    address: str


def create_app(champion: Version, directory: Path) -> FastAPI:
    """The app, which loads the bundle in a thread; /ready answers 503 until then."""
    app = FastAPI(title=f"reseed {champion.name}")
    loaded: list[Classifier] = []
    errors: list[str] = []
    one_request = threading.Lock()  # a forward pass uses every core

    def load() -> None:
        try:
            loaded.append(Classifier.load(directory, digest=champion.digest))
        except Exception as e:  # reported by /ready
            errors.append(str(e))

    threading.Thread(target=load, daemon=True).start()

    @app.get("/health")
    def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/ready")
    def ready() -> dict[str, str]:
        """The model is loaded; 503 until then."""
        if not loaded:
            raise HTTPException(503, errors[0] if errors else "the model is being loaded")
        return {"status": "ready", "model": champion.name, "version": champion.version}

    @app.post("/predict")
    def predict(question: Question) -> Answers:
        """One answer per text."""
        ready()
        if not all(text.strip() for text in question.texts):
            raise HTTPException(422, "a text is empty: leave it out")
        with one_request:
            predictions = loaded[0].predict(question.texts)
        return Answers(model=champion.name, version=champion.version, predictions=predictions)

    return app


def bind_port(host: str, port: int, remedy: str) -> socket.socket:
    """A bound socket. Raises UserError, with the remedy, where the port is taken."""
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind((host, port))
    except OSError as e:
        s.close()
        raise UserError(
            f"port {port} of {host} is not available ({e.strerror}): {remedy}"
        ) from None
    return s


def serve_champion(
    settings: Settings,
    name: str,
    *,
    host: str,
    port: int,
    ready: Callable[[ServerAddress], None],
) -> None:
    """Serve until Ctrl-C; `ready` is called with the address.

    Raises UserError where there is no champion or the port is taken.
    """
    import uvicorn

    with bind_port(host, port, "give --port another, or 0 for a free one") as s:
        champion, directory = load_champion(settings, name)
        address = f"http://{f'[{host}]' if ':' in host else host}:{s.getsockname()[1]}"
        ready(ServerAddress(model=champion.name, version=champion.version, address=address))
        if host not in LOOPBACK:
            say(f"{address} is open to the network without a login: put a proxy with one before it")
        config = uvicorn.Config(create_app(champion, directory), log_level="warning")
        uvicorn.Server(config).run(sockets=[s])


def show_address(server: ServerAddress) -> None:
    """Print the address and an example of a request."""
    url = f"{server.address}/predict"
    click.echo(f"{server.model} version {server.version} answers at {url}  (Ctrl-C ends it)")
    body = '{"texts": ["some text"]}'
    click.echo(f"  curl -s {url} -H 'content-type: application/json' -d '{body}'")
