"""Rounds of generation and curation until every label has its quota of accepted rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from flows import steps
from flows.context import Retrain
from flows.progress import say
from flows.tracking import stage_runs
from tasks import atomic
from tasks.errors import TransientError, UserError
from tasks.stage import Stage
from tasks.synthesise.plan import Focus
from tasks.synthesise.quota import hopeless, missing, portions, request_budget, to_request
from tasks.synthesise.stage import open_ledger
from tasks.synthesise.study import read_focus


@dataclass
class Filled:
    """What was asked for and what became of it."""

    answers: Stage | None = None  # of the models that are told apart: asked for before the rounds, and paid for
    rounds: list[Stage] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)  # what each round was asked for
    curated: Stage | None = None
    studies: list[Stage] = field(default_factory=list)
    topics: dict[str, list[str]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)  # of those asked for, the rows whose requests were answered
    given_up: dict[str, str] = field(default_factory=dict)
    ended: str | None = None  # why, when the quota is not full

    @property
    def rows(self) -> Stage:
        assert self.curated is not None
        return self.curated

    @property
    def bought(self) -> list[Stage]:
        """The stages that asked LLMs for text."""
        return [*([self.answers] if self.answers else []), *self.rounds]

    @property
    def accepted(self) -> dict[str, int]:
        return self.curated.counts["accepted"] if self.curated else {}

    @property
    def sizes(self) -> dict[str, int]:
        """Rows `seed`, `accepted` and `rejected`: of label sets no sum over labels, as a row counts for each of its own."""
        c = self.rows.counts
        return c.get("rows") or {what: sum(c[what].values()) for what in ("seed", "accepted", "rejected")}


def fill_quota(r: Retrain) -> Filled:
    """Every label's quota of accepted rows, or the reason why not. What dev says is hard is asked for in later portions."""
    g = r.project.generate
    quota = g.quota(r.project.label_names, r.prepared.splits.counts["seed"])
    done = Filled(r.answers)
    if g.propose and any(quota.values()):
        proposed = r.timed(steps.propose(r.project, generation=r.generation, **r.places))
        done.topics = atomic.read_json(proposed.directory / "topics.json")
        stage_runs.proposed(r.log, proposed, done.topics)
        for label, why in proposed.counts["unanswered"].items():
            say(f"  {label}: no subtopics were proposed: {why}")
    focus: Focus | None = None
    targets = portions(quota, g.rounds)
    for number, target in enumerate(targets):
        _fill(r, done, quota, target, focus)
        if number + 1 < len(targets) and done.curated and not done.ended:
            study = r.timed(
                steps.study(
                    r.project, curated=done.curated, splits=r.prepared.splits, more_topics=done.topics, **r.places
                )
            )
            stage_runs.studied(r.log, study, number + 1)
            done.studies.append(study)
            focus = read_focus(study)
    if done.curated is None:  # nothing is asked for: the seed rows alone
        done.curated = _curate(r, done)
    _say_what_is_missing(done, quota)
    return done


def _fill(r: Retrain, done: Filled, quota: dict[str, int], target: dict[str, int], focus: Focus | None) -> None:
    """Rounds until `target` is accepted, or nothing more can be asked for."""
    g, budget = r.project.generate, request_budget(r.project.generate, quota)
    while not done.ended:
        if done.rounds and done.curated is None:
            done.curated = _curate(r, done)
        lacking = missing(target, done.accepted)
        for label in lacking:
            if why := hopeless(label, tried=done.tried, accepted=done.accepted):
                done.given_up[label] = why
        lacking = {label: n for label, n in lacking.items() if label not in done.given_up}
        left = budget - sum(s.counts["replies"] for s in done.rounds)
        count = to_request(lacking, tried=done.tried, accepted=done.accepted, budget=left * g.rows_per_reply)
        if not lacking:
            return
        if not count:
            done.ended = f"the budget of {budget} requests is spent (generate.budget.requests)"
        elif len(done.rounds) >= g.max_rounds:
            done.ended = f"{g.max_rounds} rounds were made (generate.max_rounds)"
        else:
            _ask(r, done, count, focus)


def _ask(r: Retrain, done: Filled, count: dict[str, int], focus: Focus | None) -> None:
    asked = {
        "count": count,
        "round_number": len(done.rounds),
        "generation": r.generation,
        "more_topics": done.topics,
        "focus": focus,
    }
    stage = r.timed(steps.synthesise(r.project, splits=r.prepared.splits, **asked, **r.places))
    done.rounds.append(stage)
    done.requests.append(asked)
    done.asked.update(count)
    done.tried.update(stage.counts["answered"])
    stage_runs.generated(r.log, len(done.rounds), stage)
    for label, why in stage.counts["parked"].items():
        say(f"  {label}: {why}")
    for label, why in stage.counts["left"].items():
        done.given_up[label] = f"the label {label!r} is left for the next retrain: {why}"
    if hidden := stage.counts["seeds_not_shown"]:
        say(
            f"  {hidden} seed rows repeat dev or test text and are not shown to the LLM (curate.leak, curate.short_leak)"
        )
    done.ended = stage.counts["stopped"]
    done.curated = _curate(r, done)
    say(f"  {done.sizes['accepted']} rows are accepted so far: {cost_line(cost(r, done))}")


def _curate(r: Retrain, done: Filled) -> Stage:
    curated: Stage = steps.curate(r.project, rounds=done.rounds, splits=r.prepared.splits, **r.places)
    return r.timed(curated)


def _say_what_is_missing(done: Filled, quota: dict[str, int]) -> None:
    c = done.rows.counts
    if not done.sizes["seed"] + done.sizes["accepted"]:
        why = "".join(f"; {reason}" for reason in [*done.given_up.values(), done.ended] if reason)
        passes = any(s.counts["parked"] for s in done.rounds)
        raise (TransientError if passes else UserError)(
            f"there is no row to train on: {done.asked.total()} were asked for, none was accepted, and there are no seed rows"
            f"{why}; set generate.per_label above 0 or give real rows (data.split.seed); set aside: {c['rejected']}"
        )
    for why in done.given_up.values():
        say(f"  {why}")
    lacking = missing(quota, done.accepted)
    if lacking:
        short = ", ".join(f"{label} {n}" for label, n in lacking.items())
        why = f": {done.ended}" if done.ended else ""
        say(f"the quota is not full after {done.asked.total()} rows were asked for{why}; rows missing: {short}")


def cost(r: Retrain, done: Filled) -> dict[str, Any]:
    """Requests, tokens and dollars of this challenger, and per accepted row; `measured` is false where any was estimated.

    All that its ledger holds: failed tries that may be billed, proposed subtopics, and the LLM asked as a baseline included; and what
    the models' answers cost, where which of them wrote a text is its label.
    """
    spent = open_ledger(r.project, generation=r.generation, home=r.home).spent.to_json()
    if done.answers:  # their ledger is their own
        own = done.answers.counts["spent"]
        spent = {k: v + own[k] for k, v in spent.items()} | {"measured": spent["measured"] and own["measured"]}
    rows, tokens, usd = done.sizes["accepted"], spent["tokens"], spent["usd"]
    return {
        "spent": spent,
        "tokens": tokens,
        "usd": round(usd, 6),
        "measured": spent["measured"],
        "tokens_per_accepted_row": round(tokens / rows, 1) if rows else None,
        "usd_per_accepted_row": round(usd / rows, 8) if rows else None,
    }


def cost_line(cost: dict[str, Any]) -> str:
    """`$0.0042 and 9,300 tokens measured; $0.000070 and 155.0 tokens an accepted row`, dollars where there is a price."""
    dollars = f"${cost['usd']:.4f} and " if cost["usd"] else ""
    line = f"{dollars}{cost['tokens']:,} tokens {'measured' if cost['measured'] else 'estimated'}"
    if cost["tokens_per_accepted_row"] is None:
        return line
    dollars = f"${cost['usd_per_accepted_row']:.6f} and " if cost["usd"] else ""
    return f"{line}; {dollars}{cost['tokens_per_accepted_row']:,} tokens an accepted row"
