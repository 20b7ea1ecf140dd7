"""Rounds of generation and curation until every label has its quota of accepted rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from flows import stage_runs, steps
from flows.context import Retrain
from flows.progress import say
from tasks import files
from tasks.errors import UserError
from tasks.files import Stage
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
        done.topics = files.read_json(proposed.directory / "topics.json")
        stage_runs.proposed(r.log, proposed, done.topics)
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
        for label in list(lacking):
            if why := hopeless(label, asked=done.asked, accepted=done.accepted):
                done.given_up[label] = why
                del lacking[label]
        left = budget - sum(s.counts["requests"] for s in done.rounds)
        count = to_request(lacking, asked=done.asked, accepted=done.accepted, budget=left * g.rows_per_reply)
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
    stage_runs.generated(r.log, len(done.rounds), stage)
    for label, why in stage.counts["parked"].items():
        say(f"  {label}: {why}")
    if hidden := stage.counts["seeds_not_shown"]:
        say(f"  {hidden} seed rows repeat dev or test text and are not shown to the LLM (curate.leak)")
    if not stage.found and stage.counts["stopped"]:
        done.ended = stage.counts["stopped"]
    elif not stage.counts["replies"]:
        done.ended = stage.counts["stopped"] or "a round brought no reply"
    done.curated = _curate(r, done)


def _curate(r: Retrain, done: Filled) -> Stage:
    curated: Stage = steps.curate(r.project, rounds=done.rounds, splits=r.prepared.splits, **r.places)
    return r.timed(curated)


def _say_what_is_missing(done: Filled, quota: dict[str, int]) -> None:
    c = done.rows.counts
    if not done.sizes["seed"] + done.sizes["accepted"]:
        raise UserError(
            f"there is no row to train on: {done.asked.total()} were asked for, none was accepted, and there are no seed rows"
            f"{'; ' + done.ended if done.ended else ''}; set generate.per_label above 0 or give real rows (data.split.seed); "
            f"set aside: {c['rejected']}"
        )
    for why in done.given_up.values():
        say(f"  {why}")
    lacking = missing(quota, done.accepted)
    if lacking:
        short = ", ".join(f"{label} {n}" for label, n in lacking.items())
        why = f": {done.ended}" if done.ended else ""
        say(f"the quota is not full after {done.asked.total()} rows were asked for{why}; rows missing: {short}")


def cost(r: Retrain, done: Filled) -> dict[str, Any]:
    """Requests, tokens and dollars of this challenger, and per accepted row; `measured` is false where any was estimated."""
    spent = open_ledger(r.project, generation=r.generation, home=r.home).spent.to_json()
    if done.answers:  # their ledger is their own
        own = done.answers.counts["spent"]
        spent = {k: v + own[k] for k, v in spent.items()} | {"measured": spent["measured"] and own["measured"]}
    rows = done.sizes["accepted"]
    tokens = sum(s.counts["prompt_tokens"] + s.counts["completion_tokens"] for s in done.bought)
    usd = sum(s.counts["usd"] for s in done.bought)
    return {
        "spent": spent,
        "tokens": tokens,
        "usd": round(usd, 6),
        "measured": all(s.counts["measured"] for s in done.bought),
        "tokens_per_accepted_row": round(tokens / rows, 1) if rows else None,
        "usd_per_accepted_row": round(usd / rows, 8) if rows else None,
    }
