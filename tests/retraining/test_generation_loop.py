"""The loop that fills every label's quota, on a scripted LLM: labels that are put off or hopeless, budgets, and what it all cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import generate, steps
from flows.retraining.generation_loop import GeneratedRows, fill_quota
from flows.retraining.session import open_session
from flows.tracking.run import Tracking
from tasks import atomic
from tasks.curate.stage import RowCounts
from tasks.llm.budget import Spent
from tasks.report.cost import Cost
from tasks.synthesise.study import StudyResult
from tasks.workspace import Workspace
from tests.kit import scripted, toy

FULL = dict.fromkeys(sorted(toy.LABELS), 12)

Fill = Callable[..., GeneratedRows]


@pytest.fixture
def fill(
    tmp_path: Path, llm: scripted.Server, encoder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Fill:
    """Fill the toy project's quota with such `generate` settings, in one workspace."""
    monkeypatch.setattr(
        steps, "as_task", lambda function, *_, **__: function
    )  # no server, no retries
    monkeypatch.setattr(Tracking, "log_system_metrics", lambda _: nullcontext())
    data = {
        "split": {"dev": 6, "test": 6, "train": 1}
    }  # with a seed row there is always something to train on
    settings = {"examples": 0}
    config = toy.project(
        tmp_path / "project",
        endpoint=llm.url,
        encoder=encoder,
        rows=13,
        data=data,
        generate=settings,
    )

    def run(**generate: Any) -> GeneratedRows:
        overrides = [f"generate.{key}={value}" for key, value in generate.items()]
        with open_session(str(config), overrides) as session:
            return fill_quota(session.run)

    return run


def tried(filled: GeneratedRows) -> Counter[str]:
    """Rows that were asked for and whose requests were answered, by label."""
    total: Counter[str] = Counter()
    for result in filled.results:
        total.update(result.answered)
    return total


def answers(h: Any) -> None:
    h.send(200, scripted.completion(scripted.answer(h.body)))


def about(h: Any, label: str) -> bool:
    return any(
        topic in h.body["messages"][-1]["content"] for topic in toy.LABELS[label].split("; ")
    )


def of(label: str, fault: scripted.Fault) -> scripted.Fault:
    """The fault for the requests of one label, good answers for the others."""
    return lambda h: fault(h) if about(h, label) else answers(h)


class TestDeferredLabels:
    def test_a_label_put_off_is_left_and_the_others_are_filled(
        self, fill: Fill, llm: scripted.Server, capfd: pytest.CaptureFixture[str]
    ) -> None:
        llm.always = of("metal", scripted.status(429, retry_after="5000"))
        filled = fill()
        assert filled.curated.accepted == {"bird": 12, "fruit": 12} and filled.ended is None
        assert list(filled.given_up) == ["metal"]
        assert (
            "asked to wait 5000 s (Retry-After)" in filled.given_up["metal"]
            and "%" not in filled.given_up["metal"]
        )
        assert filled.requested["metal"] == 13 and tried(filled)["metal"] == 0, (
            "what was never answered is no try"
        )
        assert filled.given_up["metal"] in capfd.readouterr().err

        llm.always, sent = None, len(llm.requests)
        filled = fill()
        assert filled.curated.accepted == FULL and filled.given_up == {}, (
            "the next retrain asks for it again"
        )
        assert len(llm.requests) == sent + 13, "and for nothing else"
        assert fill().curated.published.found and len(llm.requests) == sent + 13

    def test_with_every_label_put_off_the_real_rows_are_left(
        self, fill: Fill, llm: scripted.Server
    ) -> None:
        llm.always = scripted.status(429, retry_after="5000")
        filled = fill()
        assert filled.curated.rows == RowCounts(seed=3, accepted=0, rejected=0) and set(
            filled.given_up
        ) == set(FULL)
        assert len(llm.requests) <= 2 * len(FULL), "one told that the others need not be tried"

    def test_another_generator_goes_on_with_it(self, fill: Fill, llm: scripted.Server) -> None:
        with scripted.Server() as busy:
            busy.always = of("metal", scripted.status(429, retry_after="5000"))
            both = [{"name": str(i), "endpoint": s.url} for i, s in enumerate((busy, llm))]
            filled = fill(generators=both)
        assert filled.curated.accepted == FULL and filled.given_up == {} and len(filled.rounds) > 1


def test_a_label_that_accepts_nothing_is_given_up_after_200_rows(
    fill: Fill, llm: scripted.Server
) -> None:
    llm.always = of("metal", scripted.says("I'm sorry, I can't."))
    filled = fill(**{"per_label": {"metal": 12, "fruit": 3}, "budget.requests": 300})
    assert (
        filled.curated.accepted == {"fruit": 3}
        and tried(filled)["metal"] == 200
        and filled.ended is None
    )
    assert "accepted 0 of 200 rows, under 5%" in filled.given_up["metal"]


class TestBudget:
    def test_no_other_setting_begins_it_anew(self, fill: Fill, llm: scripted.Server) -> None:
        first = fill(**{"budget.requests": 5})
        assert len(llm.requests) == 5 and "generate.budget.requests" in str(first.ended)
        harmless = {
            "concurrency": 2,
            "retries": 3,
            "timeout_seconds": 9.0,
            "max_rounds": 7,
            "per_label": 9,
        }
        harmless |= {"api_key_env": "TOY_KEY", "price.input": 1.0, "requests_per_minute": 9000.0}
        for settings in (harmless, {"text_kind": "story"}):
            cost = fill(**{"budget.requests": 5}, **settings).cost
            assert len(llm.requests) == cost.spent.requests == 5

    def test_a_raised_one_goes_on_where_it_was_spent(
        self, fill: Fill, llm: scripted.Server
    ) -> None:
        spent = fill(**{"budget.tokens": 1200})
        sent = len(llm.requests)
        assert 0 < sum(
            spent.curated.accepted.values()
        ) <= sent < 39 and "within the limit of 1,200" in str(spent.ended)
        again = fill(**{"budget.tokens": 1200})
        assert (
            len(llm.requests) == sent
            and again.curated.digest == spent.curated.digest
            and again.ended
        )
        filled = fill(**{"budget.tokens": 10_000_000})
        assert filled.curated.accepted == FULL and filled.ended is None
        bodies = list(map(str, llm.requests))
        assert len(set(bodies)) == len(bodies), "nothing is bought twice"

    def test_one_that_let_nothing_be_asked_ends_nothing_later(
        self, fill: Fill, llm: scripted.Server
    ) -> None:
        for _ in range(2):
            stopped = fill(**{"per_label": 2, "budget.tokens": 10})
            assert (
                len(stopped.rounds) == 1
                and "within the limit of 10;" in str(stopped.ended)
                and not llm.requests
            )
        filled = fill(per_label=2)
        assert filled.curated.accepted == dict.fromkeys(FULL, 2)


class TestPropose:
    @staticmethod
    def lists(h: Any) -> None:
        prompt = h.body["messages"][-1]["content"]
        label = next((label for label in toy.LABELS if f"category {label!r}" in prompt), None)
        text = f"1. old {label}\n2. new {label}\nThat is all!"
        h.send(200, scripted.completion(text)) if label else answers(h)

    def test_the_topics_are_asked_for_once(self, fill: Fill, llm: scripted.Server) -> None:
        llm.always = self.lists
        filled = fill(propose_topics="true", per_label=2)
        assert filled.topics == {label: [f"old {label}", f"new {label}"] for label in toy.LABELS}
        assert filled.cost.spent.requests == len(
            llm.requests
        ) > 3 and filled.cost.tokens == 30 * len(llm.requests)
        fill(propose_topics="true", per_label=2)
        assert filled.cost.spent.requests == len(llm.requests)

    def test_what_the_budget_left_out_is_asked_for_under_a_larger_one(
        self, fill: Fill, llm: scripted.Server, capfd: pytest.CaptureFixture[str]
    ) -> None:
        llm.always = self.lists
        spent = fill(**{"propose_topics": "true", "per_label": 2, "budget.requests": 2})
        said = capfd.readouterr().err
        assert (
            len(spent.topics) == 2
            and "no subtopics were proposed: generate.budget.requests is spent" in said
        )
        filled = fill(**{"propose_topics": "true", "per_label": 2})
        assert len(filled.topics) == 3 and filled.curated.accepted == dict.fromkeys(FULL, 2)

    def test_a_request_that_failed_is_asked_again_next_time(
        self, fill: Fill, llm: scripted.Server
    ) -> None:
        llm.faults, llm.always = [scripted.status(500)] * 2, self.lists
        assert len(fill(propose_topics="true", per_label=2, concurrency=1).topics) == 2
        assert len(fill(propose_topics="true", per_label=2, concurrency=1).topics) == 3


def test_rounds_ask_for_what_dev_says_is_hard(fill: Fill, home: Path) -> None:
    filled = fill(error_driven_rounds=1)
    (study,) = [StudyResult.load(directory) for directory in Workspace(home).published("study")]
    assert filled.curated.accepted == FULL
    first, last = filled.rounds[0].asked, filled.rounds[-1].asked
    assert first.focus is None and last.focus == study.focus
    assert atomic.read_json(study.directory / "focus.json") == study.focus.model_dump(mode="json")
    assert sum(first.count.values()) < 36, "a half of the quota first"


class TestCost:
    def test_failed_tries_that_may_be_billed_count(
        self, fill: Fill, llm: scripted.Server, capfd: pytest.CaptureFixture[str]
    ) -> None:
        llm.faults = [scripted.html] * 2
        filled = fill(**{"price.input": 1.0, "price.output": 2.0, "retries": 3})
        cost, replies = filled.cost, sum(r.replies for r in filled.results)
        assert cost.spent.requests == replies + 2 == len(llm.requests)
        assert cost.tokens == cost.spent.tokens > 30 * replies and not cost.measured
        assert cost.usd == pytest.approx(cost.spent.usd, abs=1e-6) and cost.usd > 50e-6 * replies
        assert cost.tokens_per_accepted_row == round(cost.tokens / 36, 1)
        said = capfd.readouterr().err
        assert f"36 rows accepted so far: {cost.line()}" in said and "estimated; $" in said

    def test_it_is_told_without_a_price_too(self, fill: Fill) -> None:
        filled = fill()
        tokens, line = filled.cost.tokens, filled.cost.line()
        assert line == f"{tokens:,} tokens measured; {tokens / 36:.1f} tokens per accepted row"
        found = generate.GeneratedReport(
            project="toy",
            requested=dict(filled.requested),
            accepted=filled.curated.accepted,
            rejected={},
            sizes=filled.curated.rows,
            generators={},
            given_up={},
            ended=None,
            rows="here",
            cost=filled.cost,
            seconds={},
            mlflow_run_id="",
        )
        console = Console(record=True, width=200)
        generate.show_rows(found, console)
        assert line in console.export_text()

    def test_before_any_row_is_accepted(self) -> None:
        assert Cost.of(Spent(requests=1, tokens=30), accepted=0).line() == "30 tokens measured"
