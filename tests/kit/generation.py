"""Rounds of generation that a test chose: their projects, requests and replies."""

from __future__ import annotations

from typing import Any

from tasks.llm.request import Reply, Request
from tasks.project import Project
from tasks.records import Record
from tasks.synthesise.plan import RoundRequest, plan_requests
from tests.kit import toy

SEEDS = [
    Record.create(f"{label} seed {i}", label, "seed") for label in toy.LABELS for i in range(5)
]


def project(**generate: Any) -> Project:
    """The toy project with these settings of `generate`."""
    settings = {
        "model": "scripted",
        "concurrency": 1,
        "retries": 0,
        "timeout_seconds": 5.0,
        "examples": 0,
        **generate,
    }
    return Project.model_validate(
        {
            "name": "toy",
            "labels": toy.LABELS,
            "data": {"pool": "rows.csv"},
            "generate": settings,
            "curate": {"min_words": 4},
        }
    )


def round_request(count: dict[str, int], **changes: Any) -> RoundRequest:
    """The first round of generation 0, for so many rows per label."""
    fields = {"round_number": 1, "generation": 0, "more_topics": {}, **changes}
    return RoundRequest(count=count, **fields)


def planned(project: Project, count: dict[str, int] | None = None, **changes: Any) -> list[Request]:
    """The requests of a round with the seed rows, by default for six rows per label."""
    asked = round_request(count or dict.fromkeys(toy.LABELS, 6), **changes)
    return plan_requests(project, asked, seeds=SEEDS)


def reply_to(request: Request, text: str | None, **changes: Any) -> Reply:
    """A reply that was bought."""
    fields = {
        "key": "k" * 64,
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "usd": 0.5,
        "measured": True,
        "bought": True,
    }
    return Reply(request=request, text=text, **fields | changes)
