"""Rounds of generation and curation until every label has its quota of accepted rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from flows.context import RunContext
from flows.progress import say
from tasks.curate.stage import CurateResult, curate
from tasks.errors import TransientError, UserError
from tasks.figures import format_counts
from tasks.llm.budget import Spent
from tasks.llm.request import RowUsage, Usage
from tasks.report.cost import Cost
from tasks.synthesise.ask import open_ledger
from tasks.synthesise.model_answers import AnswersResult
from tasks.synthesise.plan import Focus, RoundRequest
from tasks.synthesise.propose import propose
from tasks.synthesise.quota import (
    give_up_reason,
    missing_rows,
    request_budget,
    rows_to_request,
    split_quota,
)
from tasks.synthesise.stage import SynthesiseResult, synthesise
from tasks.synthesise.study import study


@dataclass(frozen=True, slots=True)
class Round:
    """One round of generation: the request and its result."""

    asked: RoundRequest
    result: SynthesiseResult


@dataclass(frozen=True, slots=True)
class GeneratedRows:
    """The curated rows, and the rounds that led to them.

    `given_up` maps a label to the reason why it was given up; `ended` is why the loop stopped before the
    quota was full, or None.
    """

    curated: CurateResult
    rounds: Sequence[Round]
    answers: AnswersResult | None
    topics: dict[str, list[str]]
    given_up: dict[str, str]
    ended: str | None
    cost: Cost

    @property
    def results(self) -> list[SynthesiseResult]:
        """The synthesise stage of each round, in order."""
        return [r.result for r in self.rounds]

    @property
    def requested(self) -> Counter[str]:
        """Rows asked for, by label."""
        total: Counter[str] = Counter()
        for r in self.rounds:
            total.update(r.asked.count)
        return total

    @property
    def usage(self) -> Usage:
        """Requests and tokens of all LLMs together."""
        parts: list[Usage] = [*self.results]
        return Usage.total([self.answers, *parts] if self.answers else parts)

    @property
    def usage_by_generator(self) -> list[dict[str, RowUsage]]:
        """The usage of each generator, one dict per stage that called LLMs."""
        parts: list[dict[str, RowUsage]] = [{**r.generators} for r in self.results]
        return [self.answers.generators, *parts] if self.answers else parts


def fill_quota(run: RunContext) -> GeneratedRows:
    """The quota of accepted rows for every label, or the reason why it is not full.

    Later portions focus on what a model trained on the earlier ones gets wrong on dev. Raises UserError,
    or TransientError where an endpoint may recover, if there is no row at all to train on.
    """
    return _Loop(run).fill()


@dataclass
class _Loop:
    """The state of the loop; only fill_quota makes one."""

    run: RunContext
    rounds: list[Round] = field(default_factory=list)
    curated: CurateResult | None = None
    topics: dict[str, list[str]] = field(default_factory=dict)
    # rows requested in the requests that were answered
    tried: Counter[str] = field(default_factory=Counter)
    given_up: dict[str, str] = field(default_factory=dict)
    ended: str | None = None
    studies: int = 0

    def fill(self) -> GeneratedRows:
        run, g = self.run, self.run.project.generate
        quota = g.quota(run.project.label_names, run.splits.seed)
        if g.propose_topics and any(quota.values()):
            proposed = run.stage(propose)(
                run.project, generation=run.generation, workspace=run.workspace
            )
            self.topics = proposed.topics
        focus: Focus | None = None
        targets = split_quota(quota, g.error_driven_rounds)
        for number, target in enumerate(targets):
            self._fill_portion(quota, target, focus)
            if number + 1 < len(targets) and self.curated and not self.ended:
                focus = self._study(self.curated)
        curated = self.curated or self._curate()  # nothing was requested: the seed rows alone
        self._report_missing(curated, quota)
        return GeneratedRows(
            curated=curated,
            rounds=tuple(self.rounds),
            answers=run.answers,
            topics=self.topics,
            given_up=self.given_up,
            ended=self.ended,
            cost=challenger_cost(run, curated),
        )

    def _fill_portion(
        self, quota: dict[str, int], target: dict[str, int], focus: Focus | None
    ) -> None:
        """Rounds until `target` is accepted, or nothing more can be asked for."""
        g, budget = self.run.project.generate, request_budget(self.run.project.generate, quota)
        while not self.ended:
            accepted = self.curated.accepted if self.curated else {}
            lacking = missing_rows(target, accepted)
            for label in lacking:
                if why := give_up_reason(label, tried=self.tried, accepted=accepted):
                    self.given_up[label] = why
            lacking = {label: n for label, n in lacking.items() if label not in self.given_up}
            left = budget - sum(r.result.replies for r in self.rounds)
            count = rows_to_request(
                lacking, tried=self.tried, accepted=accepted, budget=left * g.rows_per_reply
            )
            if not lacking:
                return
            if not count:
                self.ended = (
                    f"the budget of {budget} requests is used up (raise generate.budget.requests)"
                )
            elif len(self.rounds) >= g.max_rounds:
                self.ended = f"{g.max_rounds} rounds were made (raise generate.max_rounds)"
            else:
                self._ask(count, focus)

    def _ask(self, count: dict[str, int], focus: Focus | None) -> None:
        run = self.run
        asked = RoundRequest(
            count=count,
            round_number=len(self.rounds),
            generation=run.generation,
            more_topics=self.topics,
            focus=focus,
        )
        step = run.stage(synthesise, name=f"synthesise {len(self.rounds) + 1}")
        result = step(run.project, asked, splits=run.splits, workspace=run.workspace)
        self.rounds.append(Round(asked, result))
        self.tried.update(result.answered)
        for label, why in result.unanswered.items():
            self.given_up[label] = f"the label {label!r} is postponed to the next retrain: {why}"
        self.ended = result.stopped
        self.curated = self._curate()
        cost = challenger_cost(run, self.curated)
        say(f"  {self.curated.rows.accepted} rows accepted so far: {cost.line()}")

    def _curate(self) -> CurateResult:
        run = self.run
        name = f"curate {len(self.rounds)}" if len(self.rounds) > 1 else "curate"
        rounds = [r.result for r in self.rounds]
        return run.stage(curate, name=name)(
            run.project, rounds=rounds, splits=run.splits, workspace=run.workspace
        )

    def _study(self, curated: CurateResult) -> Focus:
        run = self.run
        self.studies += 1
        result = run.stage(study, name=f"study {self.studies}")(
            run.project,
            curated=curated,
            splits=run.splits,
            more_topics=self.topics,
            workspace=run.workspace,
        )
        return result.focus

    def _report_missing(self, curated: CurateResult, quota: dict[str, int]) -> None:
        asked = sum(sum(r.asked.count.values()) for r in self.rounds)
        if not curated.rows.seed + curated.rows.accepted:
            why = "".join(
                f"; {reason}" for reason in [*self.given_up.values(), self.ended] if reason
            )
            real = sum(self.run.splits.seed.values())
            passes = any(r.result.deferred for r in self.rounds)
            raise (TransientError if passes else UserError)(
                f"there is no row to train on: of {asked} requested and {real} real training rows none was "
                f"accepted (rejected: {format_counts(curated.rejected)}){why}: set generate.per_label higher "
                f"or provide other real rows (data.split.train); `reseed curate` shows the reasons"
            )
        for why in self.given_up.values():
            say(f"  {why}")
        if lacking := missing_rows(quota, curated.accepted):
            short = ", ".join(f"{label} {n}" for label, n in lacking.items())
            why = f": {self.ended}" if self.ended else ""
            say(
                f"the quota is not full after {asked} requested rows{why}; rows still missing: {short}"
            )


def challenger_cost(run: RunContext, curated: CurateResult) -> Cost:
    """Requests, tokens and dollars of this challenger, in total and per accepted row.

    Everything in its ledger counts: failed requests that may be billed, proposed subtopics, the LLM as a
    baseline, and the answers of the models for a detector of which model wrote a text.
    """
    spent: Spent = open_ledger(
        run.project, generation=run.generation, workspace=run.workspace
    ).spent
    if run.answers:  # they have their own ledger
        spent += run.answers.spent
    return Cost.of(spent, accepted=curated.rows.accepted)
