"""Some requests of a finished round with their answers, as they were sent and came back.

They are planned again, which gives the same requests, and read from the cache of answers. So it costs the generation nothing, and a
round that was interrupted has the same sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tasks.dataset.split import SplitsResult
from tasks.llm import wire
from tasks.llm.budget import cost_usd
from tasks.llm.generators import ResolvedGenerator, resolve_generators
from tasks.llm.request import ReplyCache
from tasks.project import Project
from tasks.synthesise.plan import RoundRequest, plan_requests
from tasks.synthesise.stage import select_prompt_seeds
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as it was sent (`body`, as JSON; it holds no key), its answer, and what both cost.

    `ended` is when the answer was kept (Unix seconds); `seconds` is None where no time was measured. `usd` is of the prompt and
    of the answer. `provider` is `local` or the endpoint's host.
    """

    key: str
    tag: dict[str, Any]
    provider: str
    body: dict[str, Any]
    text: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    usd: tuple[float, float]
    measured: bool
    ended: float
    seconds: float | None


def sample_exchanges(
    project: Project, *, n: int, splits: SplitsResult, workspace: Workspace, asked: RoundRequest
) -> list[Exchange]:
    """The first `n` requests of a round that have an answer, in the order of their plan, which is drawn by chance."""
    seeds, _ = select_prompt_seeds(project, splits, workspace=workspace)
    by_name = resolve_generators(project, workspace=workspace)
    cache = ReplyCache(workspace.llm_cache)
    found: list[Exchange] = []
    for request in plan_requests(project, asked, seeds=seeds):
        if len(found) == n:
            break
        source = by_name[request.tag["generator"]]
        key = request.key(source.endpoint.endpoint, source.model)
        if (kept := cache.find(key)) is not None:
            ended, seconds = cache.timing(key)
            body = wire.chat_body(request, source.endpoint.model)
            fields = kept | {"usd": _parts(source, kept), "ended": ended, "seconds": seconds}
            found.append(Exchange(key, request.tag, provider(source), body, **fields))
    return found


def provider(source: ResolvedGenerator) -> str:
    """`local`, or the host that is asked: no user, password or path of its address."""
    return (
        source.endpoint.endpoint
        if source.weights
        else urlsplit(source.endpoint.endpoint).hostname or "unknown"
    )


def _parts(source: ResolvedGenerator, kept: dict[str, Any]) -> tuple[float, float]:
    """The dollars of an answer: for the prompt, and the rest."""
    price = source.endpoint.price
    prompt = cost_usd(
        price, prompt=kept["prompt_tokens"], completion=0, batch=source.endpoint.batch
    )
    return min(prompt, kept["usd"]), max(0.0, kept["usd"] - prompt)
