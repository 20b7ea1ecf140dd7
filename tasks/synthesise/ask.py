"""How stages ask generators: with the challenger's ledger, until nothing is missing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar

from tasks.errors import TransientError
from tasks.llm.budget import Ledger
from tasks.llm.generators import ResolvedGenerator, open_client
from tasks.llm.request import Reply, Request, RunOutcome
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.stage import StageResult
from tasks.workspace import Workspace

Result = TypeVar("Result", bound=StageResult)


def open_ledger(project: Project, *, generation: int, workspace: Workspace) -> Ledger:
    """The ledger of one challenger, whatever its settings: changing one does not reset its budget.

    Each attempt is booked at the price of its time; a changed `generate.price` applies to later
    ones.
    """
    return Ledger(workspace.ledger(project.name, generation), project.generate.budget)


def ask_generator(
    generator: ResolvedGenerator,
    requests: list[Request],
    *,
    ledger: Ledger,
    workspace: Workspace,
    progress: Progress = silent,
) -> tuple[list[Reply], RunOutcome]:
    """Every reply of one generator, in an order that depends neither on arrival nor on its address.

    Raises what Client.ask_all raises, and TransientError where the endpoint failed midway.
    """
    replies = []
    with open_client(generator, ledger=ledger, workspace=workspace) as client:
        for reply in client.ask_all(requests):
            replies.append(reply)
            progress(len(replies), len(requests), f"replies of {generator.name}")
    outcome = client.outcome
    if outcome.stopped and not outcome.over_budget:
        raise TransientError(f"{outcome.stopped}: run it again later; answers so far are kept")
    return sorted(replies, key=lambda r: r.request.key("local", generator.model)), outcome


def run_until_complete(
    attempt: Callable[[int], Result], *, is_incomplete: Callable[[Result], bool]
) -> Result:
    """The first result of `attempt(0)`, `attempt(1)` ... that is complete, or new in this run.

    A result that was left incomplete by an earlier run is so built again under another key. Replies
    are cached: only what is missing is asked for.
    """
    results = map(attempt, itertools.count())
    return next(r for r in results if not (r.published.found and is_incomplete(r)))
