"""Some requests of a finished round with their answers, as they were sent and received.

They are planned again, which gives the same requests, and read from the cache. So the generation is
not slowed, and a round that was interrupted has the same sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from tasks.dataset.split import SplitsResult
from tasks.llm import wire
from tasks.llm.budget import cost_usd
from tasks.llm.generators import ResolvedGenerator, resolve_generators
from tasks.llm.request import Completion, ReplyCache
from tasks.project import Project
from tasks.synthesise.plan import RoundRequest, plan_requests
from tasks.synthesise.prompt_seeds import select_prompt_seeds
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange(Completion):
    """One request as it was sent, and its answer.

    `body` is the request's JSON, without the API key. `provider` is `local` or the endpoint's host.
    `prompt_usd` is the prompt's part of the cost, and `ended` when the answer was cached (Unix
    seconds).
    """

    key: str
    tag: Mapping[str, Any]
    provider: str
    body: dict[str, Any]
    prompt_usd: float
    ended: float


def sample_exchanges(
    project: Project, *, n: int, splits: SplitsResult, workspace: Workspace, asked: RoundRequest
) -> list[Exchange]:
    """The first `n` answered requests of a round, in the random order of its plan."""
    seeds, _ = select_prompt_seeds(project, splits, workspace=workspace)
    generators = resolve_generators(project, workspace=workspace)
    cache = ReplyCache(workspace.llm_cache)
    exchanges: list[Exchange] = []
    for request in plan_requests(project, asked, seeds=seeds):
        if len(exchanges) == n:
            break
        generator = generators[request.tag["generator"]]
        key = request.key(generator.endpoint.endpoint, generator.model)
        if completion := cache.get(key):
            exchange = Exchange(
                key=key,
                tag=request.tag,
                provider=_provider(generator),
                body=wire.chat_body(request, generator.endpoint.model),
                prompt_usd=_prompt_usd(generator, completion),
                ended=cache.path(key).stat().st_mtime,
                **asdict(completion),
            )
            exchanges.append(exchange)
    return exchanges


def _provider(generator: ResolvedGenerator) -> str:
    """`local`, or the host: no user, password or path of the address."""
    address = generator.endpoint.endpoint
    return address if generator.weights else urlsplit(address).hostname or "unknown"


def _prompt_usd(generator: ResolvedGenerator, completion: Completion) -> float:
    endpoint = generator.endpoint
    usd = cost_usd(endpoint.price, completion.prompt_tokens, 0, batch=endpoint.batch)
    return min(usd, completion.usd)
