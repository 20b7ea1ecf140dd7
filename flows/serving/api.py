"""Serve the verified champion over HTTP, on loopback unless told otherwise."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from flows.progress import say
from flows.registry.client import Version
from flows.serving.predict import load_champion
from flows.settings import Settings
from tasks.errors import UserError
from tasks.model.bundle import Classifier

MAX_TEXTS = 256
MAX_CHARACTERS = 100_000

Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


class Question(BaseModel):
    """Up to 256 texts of up to 100,000 characters."""

    model_config = ConfigDict(extra="forbid")
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]


class Answer(BaseModel):
    """The most probable label of a text, its probability, and every label's."""

    label: str
    score: float
    scores: dict[str, float]


class LabelSetAnswer(BaseModel):
    """Of a multi-label model: the labels whose probability is one half or more, and every label's own."""

    labels: list[str]
    scores: dict[str, float]


class Answers(BaseModel):
    """Answers in the order of the texts, and who gave them."""

    model: str
    version: str
    predictions: list[Answer] | list[LabelSetAnswer]


def create_app(champion: Version, directory: Path) -> FastAPI:
    """The app. It listens at once, and is ready when the model is loaded."""
    app = FastAPI(title=f"reseed {champion.name}")
    loaded: list[Classifier] = []
    failed: list[str] = []
    asking = threading.Lock()  # one forward pass at a time uses every core

    def load() -> None:
        try:
            loaded.append(Classifier.load(directory, digest=champion.digest))
        except Exception as e:  # /ready says it; the process stays to be asked
            failed.append(str(e))

    threading.Thread(target=load, daemon=True).start()

    @app.get("/health")
    def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/ready")
    def ready() -> dict[str, str]:
        """The model is loaded and answers; 503 until then."""
        if not loaded:
            raise HTTPException(503, failed[0] if failed else "the model is being loaded")
        return {"status": "ready", "model": champion.name, "version": champion.version}

    @app.post("/predict")
    def predict(question: Question) -> Answers:
        """One answer a text."""
        ready()
        if not all(t.strip() for t in question.texts):
            raise HTTPException(422, "a text is empty: leave it out")
        with asking:
            found = loaded[0].predict(question.texts)
        about = {"model": champion.name, "version": champion.version}
        return Answers.model_validate({**about, "predictions": [asdict(p) for p in found]})

    return app


def bind_port(host: str, port: int, remedy: str) -> socket.socket:
    """A bound socket. Raises UserError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.socket(family)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind((host, port))
    except OSError as e:
        s.close()
        raise UserError(f"port {port} of {host} can't be used ({e.strerror}): {remedy}") from None
    return s


def serve_champion(
    settings: Settings, name: str, *, host: str, port: int, announce: Callable[..., None]
) -> None:
    """Serve until Ctrl-C. Raises UserError when there is no champion or the port is taken."""
    import uvicorn

    with bind_port(host, port, "give --port another, or 0 for a free one") as s:
        champion, directory = load_champion(settings, name)
        address = f"http://{f'[{host}]' if ':' in host else host}:{s.getsockname()[1]}"
        result = {"model": champion.name, "version": champion.version, "address": address}
        announce(result, lambda: show_address(result))
        if host not in {"127.0.0.1", "::1", "localhost"}:
            say(
                f"{address} is open to the network, without a login: put a proxy that asks for one before it"
            )
        uvicorn.Server(uvicorn.Config(create_app(champion, directory), log_level="warning")).run(
            sockets=[s]
        )


def show_address(result: dict[str, Any]) -> None:
    import click

    click.echo(
        f"{result['model']} version {result['version']} answers at {result['address']}/predict  (Ctrl-C ends it)"
    )
    click.echo(
        f"""  curl -s {result["address"]}/predict -H 'content-type: application/json' -d '{{"texts": ["some text"]}}'"""
    )
