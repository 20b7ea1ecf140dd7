"""The generators of a project: what decides their texts, and a client for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.llm.budget import Ledger
from tasks.llm.client import Client
from tasks.project import Endpoint, Project
from tasks.references import digest_of_path, resolve
from tasks.workspace import Workspace

LOCAL_PATIENCE = (
    10  # on a busy machine a local model is slow, and an attempt that is given up is lost
)
SAMPLING = {"temperature", "top_p", "max_tokens"}  # settings of Endpoint that decide its texts


@dataclass(frozen=True)
class ResolvedGenerator:
    """One generator: its share of the requests, its settings, and its model's name in cache keys.

    `weights` is the file of a local model, which is named by its content wherever it is.
    """

    name: str
    share: float
    endpoint: Endpoint
    weights: Path | None
    model: str

    @classmethod
    def resolve(
        cls, name: str, share: float, endpoint: Endpoint, *, config_dir: Path, cache: Path
    ) -> ResolvedGenerator:
        """The generator, whose local model is looked up."""
        if endpoint.endpoint != "local":
            return cls(name, share, endpoint, None, endpoint.model)
        weights = resolve(endpoint.model, config_dir=config_dir, cache=cache, kind="model")
        return cls(name, share, endpoint, weights, digest_of_path(weights)[:24])

    def sampling(self) -> dict[str, str | float]:
        """Its model and the sampling settings that are set, for the keys of stages."""
        settings = self.endpoint.model_dump(mode="json", include=SAMPLING, exclude_none=True)
        return {"model": self.model, **settings}

    def identity(self) -> dict[str, str | float]:
        """What decides its texts and their number, for the keys of stages."""
        endpoint = self.endpoint.endpoint
        return {"name": self.name, "share": self.share, "endpoint": endpoint, **self.sampling()}


def resolve_generators(project: Project, *, workspace: Workspace) -> dict[str, ResolvedGenerator]:
    """The project's generators by name."""
    return {
        name: ResolvedGenerator.resolve(
            name, share, endpoint, config_dir=project.config_dir, cache=workspace.cache
        )
        for name, (share, endpoint) in project.generate.endpoints().items()
    }


@contextmanager
def open_client(
    generator: ResolvedGenerator,
    *,
    ledger: Ledger,
    workspace: Workspace,
    tokens: int | None = None,
) -> Iterator[Client]:
    """A client of the generator, closed on leaving; a local model is served meanwhile.

    `tokens` is the room that a request with its answer needs, where it is more than usual.
    """
    endpoint = generator.endpoint
    with ExitStack() as stack:
        url, key = endpoint.endpoint, os.environ.get(endpoint.api_key_env, "") or "none"
        if generator.weights:
            from tasks.llm.local import SLOT_TOKENS, local_server

            room = max(tokens or 0, SLOT_TOKENS)
            server = local_server(generator.weights, slots=endpoint.concurrency, tokens=room)
            url, key = stack.enter_context(server), "none"
            endpoint = _with_patience(endpoint)
        client = Client(
            endpoint,
            url=url,
            key=key,
            model=generator.model,
            cache=workspace.llm_cache,
            ledger=ledger,
        )
        yield stack.enter_context(client)


def _with_patience(endpoint: Endpoint) -> Endpoint:
    """The endpoint with the timeouts of a local model."""
    timeouts = {
        "timeout_seconds": endpoint.timeout_seconds * LOCAL_PATIENCE,
        "deadline_seconds": endpoint.deadline_seconds * LOCAL_PATIENCE,
    }
    return endpoint.model_copy(update=timeouts)
