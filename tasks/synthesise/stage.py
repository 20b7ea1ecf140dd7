"""The synthesise stage: one round of requests to the LLMs, and the rows in their replies."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from tasks.dataset.split import SplitsResult
from tasks.llm.generators import resolve_generators
from tasks.llm.request import Reply, Request, RowUsage, RunOutcome, Usage
from tasks.progress import Progress, silent
from tasks.project import Endpoint, Project
from tasks.records import Record, Rejected, count_by_check, count_by_label, write_records
from tasks.stage import Metrics, StageResult, run_stage
from tasks.synthesise.ask import ask_generator, open_ledger, run_until_complete
from tasks.synthesise.parse import ParsedRow, parse_reply
from tasks.synthesise.plan import RoundRequest, active_generators, plan_requests
from tasks.synthesise.prompt_seeds import select_prompt_seeds
from tasks.workspace import Workspace

VERSION = 5
# settings that do not change the texts, and those of each generator, which its identity covers
_NOT_IN_KEY = set(Endpoint.model_fields) | {
    "balance",
    "budget",
    "error_driven_rounds",
    "generators",
    "max_rounds",
    "per_label",
    "traces",
}


class GeneratorUsage(RowUsage):
    """One generator's part of a round.

    `answered` counts, by label, the rows that the answered requests asked for. `deferred` has the
    reason for each label that the endpoint deferred for too long, `stopped` says why it ended
    early, and `bought` counts the replies that this run paid for.
    """

    replies: int
    answered: dict[str, int]
    deferred: dict[str, str]
    stopped: str | None
    bought: int


class SynthesiseResult(Usage, StageResult):
    """One round of synthetic rows: what was asked, what came back, and what it cost.

    `unanswered` has the reason for each label that no generator answered. `cut_short` is True where
    the budget or an endpoint ended the round early.
    """

    asked: dict[str, int]
    rows: dict[str, int]
    rejected: dict[str, int]
    seeds_not_shown: int
    generators: dict[str, GeneratorUsage]
    replies: int
    bought: int
    answered: dict[str, int]
    deferred: dict[str, str]
    unanswered: dict[str, str]
    stopped: str | None
    cut_short: bool

    def metrics(self) -> Metrics:
        """The usage, and the number of replies."""
        return super().metrics() | {"generate.replies": float(self.replies)}

    def summary(self) -> str:
        """The deferred labels, and the seed rows that were not shown."""
        lines = [f"{label}: {reason}" for label, reason in self.deferred.items()]
        if self.seeds_not_shown:
            lines.append(
                f"{self.seeds_not_shown} seed rows repeat dev or test text and are not shown to the "
                f"LLM (curate.leak, curate.short_leak)"
            )
        return "\n".join(lines)


def synthesise(
    project: Project,
    asked: RoundRequest,
    *,
    splits: SplitsResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> SynthesiseResult:
    """One round of rows from the LLMs: `rows.jsonl` and `rejected.jsonl`.

    A round that was cut short by the budget or an endpoint is completed by a later call. Raises
    UserError for what no retry fixes, TransientError where an endpoint is down; replies so far are
    kept and not asked for again.
    """
    generators = resolve_generators(project, workspace=workspace)
    generators = {name: generators[name] for name in active_generators(project)}

    def build(out: Path, scratch: Path) -> SynthesiseResult:
        seeds, hidden = select_prompt_seeds(project, splits, workspace=workspace)
        requests = plan_requests(project, asked, seeds=seeds)
        ledger = open_ledger(project, generation=asked.generation, workspace=workspace)
        rows: list[ParsedRow] = []
        usage: dict[str, GeneratorUsage] = {}
        for name, generator in generators.items():
            if planned := [r for r in requests if r.tag["generator"] == name]:
                replies, outcome = ask_generator(
                    generator, planned, ledger=ledger, workspace=workspace, progress=progress
                )
                parsed = [parse_reply(r, min_words=project.curate.min_words) for r in replies]
                written = list(itertools.chain.from_iterable(parsed))
                usage[name] = _usage(planned, replies, outcome, written)
                rows += written
        accepted = [row for row in rows if isinstance(row, Record)]
        rejected = [row for row in rows if isinstance(row, Rejected)]
        write_records(out / "rows.jsonl", accepted)
        write_records(out / "rejected.jsonl", rejected)
        return _result(asked, accepted, rejected, usage, hidden)

    params = project.generate.model_dump(mode="json", exclude=_NOT_IN_KEY) | {
        "asked": asked.model_dump(mode="json"),
        "labels": project.labels,
        "multi_label": project.multi_label,
        "curate": project.curate.model_dump(include={"min_words", "leak", "short_leak"}),
        "generators": [generator.identity() for generator in generators.values()],
    }

    def attempt(number: int) -> SynthesiseResult:
        return run_stage(
            SynthesiseResult,
            "synthesise",
            workspace=workspace,
            version=VERSION,
            params=params | {"attempt": number},
            inputs={"splits": splits.digest},
            build=build,
        )

    return run_until_complete(attempt, is_incomplete=lambda r: r.cut_short)


def _usage(
    requests: list[Request], replies: list[Reply], outcome: RunOutcome, rows: list[ParsedRow]
) -> GeneratorUsage:
    answered: Counter[str] = Counter()
    for r in replies:
        answered[r.request.label] += r.request.tag["rows"]
    return GeneratorUsage.of(
        requests,
        replies,
        outcome,
        rows=sum(isinstance(row, Record) for row in rows),
        replies=len(replies),
        answered=dict(sorted(answered.items())),
        deferred=outcome.deferred,
        stopped=outcome.stopped,
        bought=sum(r.bought for r in replies),
    )


def _result(
    asked: RoundRequest,
    rows: list[Record],
    rejected: list[Rejected],
    usage: dict[str, GeneratorUsage],
    hidden: int,
) -> SynthesiseResult:
    deferred: dict[str, str] = {}
    answered: Counter[str] = Counter()
    for part in usage.values():
        deferred |= part.deferred
        answered.update(part.answered)
    # a label that another generator has answered is asked for again in the next round
    unanswered = {k: why for k, why in deferred.items() if len(usage) == 1 or k not in answered}
    stopped = [f"{name}: {part.stopped}" for name, part in usage.items() if part.stopped]
    return SynthesiseResult.total(
        usage.values(),
        asked=asked.count,
        rows=count_by_label(rows),
        rejected=count_by_check(rejected),
        seeds_not_shown=hidden,
        generators=usage,
        replies=sum(part.replies for part in usage.values()),
        bought=sum(part.bought for part in usage.values()),
        answered=dict(answered),
        deferred=deferred,
        unanswered=unanswered,
        stopped="; ".join(stopped) or None,
        cut_short=bool(stopped or unanswered),
    )
