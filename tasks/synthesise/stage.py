"""The synthesise stage: one round of requests to the project's LLMs, and the rows in their replies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tasks.curate.checks.leak import leaks_into_prompts
from tasks.curate.stage import context_of
from tasks.errors import TransientError
from tasks.llm.budget import Ledger
from tasks.llm.request import Outcome, Reply, Request, costs, total
from tasks.llm.sources import Source, client_of, sources
from tasks.progress import Report, silent
from tasks.project import Project
from tasks.records import Record, Rejected, count_by_check, count_by_label, read_records, write_records
from tasks.stage import Stage, stage
from tasks.synthesise.parse import parse
from tasks.synthesise.plan import Focus, plan, wanted

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
    "rounds",
    "temperature",
    "timeout_seconds",
    "tokens_per_minute",
    "top_p",
    "traces",
    "usd",
}


def open_ledger(project: Project, *, generation: int, home: Path) -> Ledger:
    """What this challenger has cost so far, under whatever settings: none of them begins anew with its budget.

    Each try is booked at the price of its day; a changed `usd` is for the tries to come.
    """
    return Ledger(home / "ledgers" / project.name / f"{generation}.jsonl", project.generate.budget)


def found_if_whole(home: Path, name: str, *, params: dict[str, Any], **more: Any) -> Stage:
    """files.stage, but one that was cut short (`counts["cut_short"]`) is not found again: it is built anew beside it.

    What was bought is in the cache, so that only what is missing is asked for.
    """
    found, attempt = stage(home, name, params=params, **more), 0
    while found.found and found.counts["cut_short"]:
        attempt += 1
        found = stage(home, name, params={**params, "attempt": attempt}, **more)
    return found


def seeds_to_show(project: Project, splits: Stage, *, beside: Path, home: Path) -> tuple[list[Record], int]:
    """The seed rows that requests may show, and how many may not be, as they repeat dev or test text."""
    if not project.generate.examples:
        return [], 0

    def build(out: Path, work: Path) -> dict[str, Any]:
        seeds = read_records(splits.directory / "seed.jsonl")
        shown, hidden = leaks_into_prompts(seeds, context_of(project, splits, beside=beside, home=home))
        write_records(out / "seed.jsonl", shown)
        return {"hidden": len(hidden)}

    params = project.curate.model_dump(mode="json", include={"leak", "short_leak"})
    # a stage, as short texts are embedded for it; the splits hang on the encoder where there are any to compare with
    made = stage(home, "shown", version=1, params=params, inputs={"splits": splits.digest}, build=build)
    return read_records(made.directory / "seed.jsonl"), made.counts["hidden"]


def ask(
    source: Source, requests: list[Request], *, ledger: Ledger, home: Path, report: Report = silent
) -> tuple[list[Reply], Outcome]:
    """Every reply of one generator, in an order that neither arrival nor the endpoint's address decides."""
    with client_of(source, ledger=ledger, home=home) as client:
        replies = []
        for reply in client.ask_all(requests):
            replies.append(reply)
            report(len(replies), len(requests), "replies")
        outcome = client.outcome
    if outcome.stopped and not outcome.over_budget:  # the endpoint falters: worth another try later
        raise TransientError(f"{outcome.stopped}; what was bought is kept")
    return sorted(replies, key=lambda r: r.request.key("local", source.model)), outcome


def synthesise(
    project: Project,
    *,
    count: dict[str, int],
    round_number: int,
    generation: int,
    splits: Stage,
    beside: Path,
    home: Path,
    more_topics: dict[str, list[str]] | None = None,
    focus: Focus | None = None,
    report: Report = silent,
) -> Stage:
    """One round of rows from the LLMs: `rows.jsonl` and `rejected.jsonl`, with requests, tokens and dollars counted.

    `count` is rows a label. Of a round that the budget cut short, or that had to leave labels which were put off for too long,
    a later call asks for what is missing. Raises UserError for what no retry mends, TransientError when an endpoint is down;
    what was bought until then is kept and not asked for again.
    """
    g = project.generate
    asked = wanted(project)
    by_name = {n: s for n, s in sources(project, beside=beside, home=home).items() if n in asked}
    params = g.model_dump(mode="json", exclude=NOT_IN_KEY)
    params |= {"count": count, "round": round_number, "generation": generation, "labels": project.labels}
    params |= {"min_words": project.curate.min_words, "leak": project.curate.leak, "more_topics": more_topics or {}}
    params |= {"short_leak": project.curate.short_leak}
    params |= {"focus": focus.to_json() if focus else None}
    params |= {"multi_label": True} if project.multi_label else {}
    params |= {"generators": [source.identity() for source in by_name.values()]}

    def build(out: Path, work: Path) -> dict[str, Any]:
        seeds, not_shown = seeds_to_show(project, splits, beside=beside, home=home)
        requests = plan(
            project,
            count=count,
            seeds=seeds,
            round_number=round_number,
            generation=generation,
            more_topics=more_topics,
            focus=focus,
        )
        ledger = open_ledger(project, generation=generation, home=home)
        done = 0
        rows: list[Record] = []
        rejected: list[Rejected] = []
        told: dict[str, dict[str, Any]] = {}
        for name, source in by_name.items():
            own = [r for r in requests if r.tag["generator"] == name]
            if not own:
                continue

            def told_so_far(n: int, of: int, what: str, before: int = done) -> None:
                report(before + n, len(requests), what)

            replies, outcome = ask(source, own, ledger=ledger, home=home, report=told_so_far)
            done += len(own)
            parsed = [row for reply in replies for row in parse(reply, min_words=project.curate.min_words)]
            rows += [p for p in parsed if isinstance(p, Record)]
            rejected += [p for p in parsed if isinstance(p, Rejected)]
            told[name] = _counts(own, replies, outcome, parsed)
        write_records(out / "rows.jsonl", rows)
        write_records(out / "rejected.jsonl", rejected)
        return {
            "asked": dict(count),
            "rows": count_by_label(rows),
            "rejected": count_by_check(rejected),
            "seeds_not_shown": not_shown,
            "generators": told,
            **_total(told),
        }

    inputs = {"splits": splits.digest}
    return found_if_whole(home, "synthesise", version=VERSION, params=params, inputs=inputs, build=build)


def _counts(
    requests: list[Request], replies: list[Reply], outcome: Outcome, parsed: list[Record | Rejected]
) -> dict[str, Any]:
    answered: Counter[str] = Counter()
    for r in replies:
        answered[r.request.label] += r.request.tag["rows"]
    return costs(requests, replies, outcome) | {
        "replies": len(replies),
        "answered": dict(sorted(answered.items())),  # rows asked for by the requests that have a reply
        "parked": dict(outcome.parked),
        "stopped": outcome.stopped,
        "bought": sum(r.bought for r in replies),
        "rows": sum(isinstance(p, Record) for p in parsed),
    }


def _total(told: dict[str, dict[str, Any]]) -> dict[str, Any]:
    parked: dict[str, str] = {}
    answered: Counter[str] = Counter()
    for t in told.values():
        parked.update(t["parked"])
        answered.update(t["answered"])
    # with a label that another generator has answered the next round goes on
    left = {label: why for label, why in parked.items() if len(told) == 1 or label not in answered}
    stopped = [f"{name}: {t['stopped']}" for name, t in told.items() if t["stopped"]]
    return total(told.values(), "replies", "bought") | {
        "answered": dict(answered),
        "parked": parked,
        "left": left,
        "stopped": "; ".join(stopped) or None,
        "cut_short": bool(stopped or left),
    }
