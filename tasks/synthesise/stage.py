"""The synthesise stage: one round of requests to the project's LLMs, and the rows in their replies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tasks.curate.checks.leak import screen_prompt_seeds
from tasks.curate.context import load_context
from tasks.dataset.split import SplitsResult
from tasks.errors import TransientError
from tasks.llm.budget import Ledger
from tasks.llm.generators import ResolvedGenerator, open_client, resolve_generators
from tasks.llm.request import Reply, Request, RowUsage, RunOutcome, Usage
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import (
    Record,
    Rejected,
    count_by_check,
    count_by_label,
    read_records,
    write_records,
)
from tasks.stage import Metrics, StageResult, run_stage
from tasks.synthesise.parse import parse_reply
from tasks.synthesise.plan import RoundRequest, active_generators, plan_requests
from tasks.workspace import Workspace

VERSION = 4
# what does not change the texts that come back
NOT_IN_KEY = {
    "api_key_env",
    "balance",
    "batch",
    "budget",
    "concurrency",
    "deadline_seconds",
    "endpoint",
    "generators",
    "max_rounds",
    "max_tokens",
    "model",
    "per_label",
    "requests_per_minute",
    "retries",
    "error_driven_rounds",
    "temperature",
    "timeout_seconds",
    "tokens_per_minute",
    "top_p",
    "traces",
    "price",
}


class GeneratorUsage(RowUsage):
    """One generator's part of a round.

    `answered` counts, by label, the rows that the answered requests asked for; `parked` has the
    reason for each label that the endpoint put off for too long; `stopped` says why it ended early;
    `bought` counts the replies that this run paid for.
    """

    replies: int
    answered: dict[str, int]
    parked: dict[str, str]
    stopped: str | None
    bought: int


class SynthesiseResult(Usage, StageResult):
    """One round of synthetic rows: what was asked, what came back, and what it cost.

    `left` has the reason for each label that no generator answered; `cut_short` is true where the
    budget or an endpoint ended the round early.
    """

    asked: dict[str, int]
    rows: dict[str, int]
    rejected: dict[str, int]
    seeds_not_shown: int
    generators: dict[str, GeneratorUsage]
    replies: int
    bought: int
    answered: dict[str, int]
    parked: dict[str, str]
    left: dict[str, str]
    stopped: str | None
    cut_short: bool

    def metrics(self) -> Metrics:
        return super().metrics() | {"generate.replies": float(self.replies)}

    def summary(self) -> str:
        lines = [f"{label}: {reason}" for label, reason in self.parked.items()]
        if self.seeds_not_shown:
            lines.append(
                f"{self.seeds_not_shown} seed rows repeat dev or test text and are not shown to the LLM "
                f"(curate.leak, curate.short_leak)"
            )
        return "\n".join(lines)


class ShownSeedsResult(StageResult):
    """The seed rows that prompts may show; `hidden` counts those that repeat held-out text."""

    hidden: int

    def read(self) -> list[Record]:
        return read_records(self.directory / "seed.jsonl")


def open_ledger(project: Project, *, generation: int, workspace: Workspace) -> Ledger:
    """What this challenger has cost so far, under whatever settings: changing one does not reset its budget.

    Each try is booked at the price of its day; a changed `price` applies to later tries.
    """
    return Ledger(workspace.ledger(project.name, generation), project.generate.budget)


CutShort = TypeVar("CutShort", bound=StageResult)


def run_until_complete(
    result: type[CutShort],
    name: str,
    *,
    cut_short: Callable[[CutShort], bool],
    workspace: Workspace,
    version: int,
    params: Mapping[str, object],
    inputs: Mapping[str, str],
    build: Callable[[Path, Path], CutShort],
) -> CutShort:
    """run_stage, except that a result which was cut short is not found again: it is built anew under another key.

    Replies that were bought are cached, so only what is missing is asked for.
    """

    def attempt(params: Mapping[str, object]) -> CutShort:
        return run_stage(
            result,
            name,
            workspace=workspace,
            version=version,
            params=params,
            inputs=inputs,
            build=build,
        )

    found, number = attempt(params), 0
    while found.published.found and cut_short(found):
        number += 1
        found = attempt({**params, "attempt": number})
    return found


def select_prompt_seeds(
    project: Project, splits: SplitsResult, *, workspace: Workspace
) -> tuple[list[Record], int]:
    """The seed rows that requests may show, and how many may not be, because they repeat dev or test text."""
    if not project.generate.examples:
        return [], 0

    def build(out: Path, scratch: Path) -> ShownSeedsResult:
        seeds = read_records(splits.directory / "seed.jsonl")
        shown, hidden = screen_prompt_seeds(
            seeds, load_context(project, splits, workspace=workspace)
        )
        write_records(out / "seed.jsonl", shown)
        return ShownSeedsResult(hidden=len(hidden))

    params = project.curate.model_dump(mode="json", include={"leak", "short_leak"})
    # short texts are embedded for it; the splits depend on the encoder where there are any to compare with
    found = run_stage(
        ShownSeedsResult,
        "shown_seeds",
        workspace=workspace,
        version=1,
        params=params,
        inputs={"splits": splits.digest},
        build=build,
    )
    return found.read(), found.hidden


def ask_generator(
    source: ResolvedGenerator,
    requests: list[Request],
    *,
    ledger: Ledger,
    workspace: Workspace,
    progress: Progress = silent,
) -> tuple[list[Reply], RunOutcome]:
    """Every reply of one generator, in an order that depends neither on arrival nor on the endpoint's address."""
    with open_client(source, ledger=ledger, workspace=workspace) as client:
        replies = []
        for reply in client.ask_all(requests):
            replies.append(reply)
            progress(len(replies), len(requests), "replies")
        outcome = client.outcome
    if outcome.stopped and not outcome.over_budget:  # the endpoint falters: worth another try later
        raise TransientError(f"{outcome.stopped}; what was bought is kept")
    return sorted(replies, key=lambda r: r.request.key("local", source.model)), outcome


def synthesise(
    project: Project,
    asked: RoundRequest,
    *,
    splits: SplitsResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> SynthesiseResult:
    """One round of rows from the LLMs: `rows.jsonl` and `rejected.jsonl`, with requests, tokens and dollars counted.

    A round that was cut short by the budget or by an endpoint is completed by a later call. Raises
    UserError for what no retry fixes, TransientError when an endpoint is down; what was bought until
    then is kept and not asked for again.
    """
    active = active_generators(project)
    chosen = {
        n: s for n, s in resolve_generators(project, workspace=workspace).items() if n in active
    }

    def build(out: Path, scratch: Path) -> SynthesiseResult:
        seeds, not_shown = select_prompt_seeds(project, splits, workspace=workspace)
        requests = plan_requests(project, asked, seeds=seeds)
        ledger = open_ledger(project, generation=asked.generation, workspace=workspace)
        rows: list[Record] = []
        rejected: list[Rejected] = []
        usage: dict[str, GeneratorUsage] = {}
        done = 0
        for name, source in chosen.items():
            own = [r for r in requests if r.tag["generator"] == name]
            if not own:
                continue

            def so_far(n: int, of: int, note: str, before: int = done) -> None:
                progress(before + n, len(requests), note)

            replies, outcome = ask_generator(
                source, own, ledger=ledger, workspace=workspace, progress=so_far
            )
            done += len(own)
            parsed = [
                row
                for reply in replies
                for row in parse_reply(reply, min_words=project.curate.min_words)
            ]
            rows += [p for p in parsed if isinstance(p, Record)]
            rejected += [p for p in parsed if isinstance(p, Rejected)]
            usage[name] = _usage(own, replies, outcome, parsed)
        write_records(out / "rows.jsonl", rows)
        write_records(out / "rejected.jsonl", rejected)
        return _result(asked, rows, rejected, usage, not_shown)

    params = project.generate.model_dump(mode="json", exclude=NOT_IN_KEY) | {
        "asked": asked.model_dump(mode="json"),
        "labels": project.labels,
        "multi_label": project.multi_label,
        "min_words": project.curate.min_words,
        "leak": project.curate.leak,
        "short_leak": project.curate.short_leak,
        "generators": [source.identity() for source in chosen.values()],
    }
    return run_until_complete(
        SynthesiseResult,
        "synthesise",
        cut_short=lambda r: r.cut_short,
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs={"splits": splits.digest},
        build=build,
    )


def _usage(
    requests: list[Request],
    replies: list[Reply],
    outcome: RunOutcome,
    parsed: list[Record | Rejected],
) -> GeneratorUsage:
    answered: Counter[str] = Counter()
    for r in replies:
        answered[r.request.label] += r.request.tag["rows"]
    return GeneratorUsage(
        **Usage.of(requests, replies, outcome).model_dump(),
        replies=len(replies),
        answered=dict(sorted(answered.items())),
        parked=dict(outcome.parked),
        stopped=outcome.stopped,
        bought=sum(r.bought for r in replies),
        rows=sum(isinstance(p, Record) for p in parsed),
    )


def _result(
    asked: RoundRequest,
    rows: list[Record],
    rejected: list[Rejected],
    usage: dict[str, GeneratorUsage],
    not_shown: int,
) -> SynthesiseResult:
    parked: dict[str, str] = {}
    answered: Counter[str] = Counter()
    for u in usage.values():
        parked.update(u.parked)
        answered.update(u.answered)
    # a label that another generator has answered is asked for again in the next round
    left = {label: why for label, why in parked.items() if len(usage) == 1 or label not in answered}
    stopped = [f"{name}: {u.stopped}" for name, u in usage.items() if u.stopped]
    return SynthesiseResult(
        **Usage.total(usage.values()).model_dump(),
        asked=asked.count,
        rows=count_by_label(rows),
        rejected=count_by_check(rejected),
        seeds_not_shown=not_shown,
        generators=usage,
        replies=sum(u.replies for u in usage.values()),
        bought=sum(u.bought for u in usage.values()),
        answered=dict(answered),
        parked=parked,
        left=left,
        stopped="; ".join(stopped) or None,
        cut_short=bool(stopped or left),
    )
