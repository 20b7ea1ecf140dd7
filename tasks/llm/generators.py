"""A project's generators: what decides their texts, and a client of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.llm.budget import Ledger
from tasks.llm.client import Client
from tasks.project import Endpoint, Project
from tasks.references import digest_of_path, resolve
from tasks.workspace import Workspace


@dataclass(frozen=True)
class ResolvedGenerator:
    """One generator: its share, its settings, and the name that cache keys know its model by."""

    name: str
    share: float
    endpoint: Endpoint
    weights: Path | None  # of a local model
    model: str

    def identity(self) -> dict[str, Any]:
        """What decides its texts, wherever it answers."""
        e = self.endpoint
        sampling = {"temperature": e.temperature, "top_p": e.top_p, "max_tokens": e.max_tokens}
        return {
            "name": self.name,
            "share": self.share,
            "endpoint": e.endpoint,
            "model": self.model,
            **sampling,
        }


def resolve_generators(project: Project, *, workspace: Workspace) -> dict[str, ResolvedGenerator]:
    """The project's generators by name. A local model is known by its content, wherever it lies."""
    found = {}
    for name, (share, e) in project.generate.endpoints().items():
        local = e.endpoint == "local"
        weights = (
            resolve(e.model, config_dir=project.config_dir, cache=workspace.cache, kind="model")
            if local
            else None
        )
        found[name] = ResolvedGenerator(
            name, share, e, weights, digest_of_path(weights)[:24] if weights else e.model
        )
    return found


@contextmanager
def open_client(
    source: ResolvedGenerator, *, ledger: Ledger, workspace: Workspace, tokens: int | None = None
) -> Iterator[Client]:
    """A client of the generator, closed on leaving; a local model answers in a server of its own meanwhile, with room for
    `tokens` a request where its usual room is not enough."""
    e = source.endpoint
    with ExitStack() as stack:
        url, key = e.endpoint, os.environ.get(e.api_key_env, "") or "none"
        if source.weights:
            from tasks.llm.local import SLOT_TOKENS, local_server

            room = max(tokens or 0, SLOT_TOKENS)
            url, key = (
                stack.enter_context(local_server(source.weights, slots=e.concurrency, tokens=room)),
                "none",
            )
        yield stack.enter_context(
            Client(
                e,
                url=url,
                key=key,
                name=e.endpoint,
                model=source.model,
                cache=workspace.llm_cache,
                ledger=ledger,
            )
        )
