"""The LLM that wrote the rows as a baseline: asked, parsed, and stopped by the budget."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.dataset.sealed import count_test_set_uses
from tasks.dataset.split import SealedResult
from tasks.errors import TransientError
from tasks.evaluate.baselines.ask_llm import CONTEXT, build_request, parse_answer, score_llm
from tasks.evaluate.result import LlmScore, ScoreResult
from tasks.evaluate.score import f1_on_rows
from tasks.project import Project
from tasks.workspace import Workspace
from tests.evaluate.conftest import Split
from tests.kit import scripted, toy
from tests.kit.rows import project


def answer_labels(h: scripted.Handler) -> None:
    """An LLM that knows the labels, but talks about one of them."""
    text = h.body["messages"][-1]["content"].split("Text:\n")[1]
    label = max(toy.LABELS, key=lambda k: text.casefold().count(k[:2] + "r"))
    answers = {"metal": "**Metal**.", "fruit": "The label is: fruit", "bird": "I can't say"}
    h.send(200, scripted.completion(answers[label]))


def ask(p: Project, sealed: SealedResult, workspace: Workspace) -> ScoreResult:
    return score_llm(p, generation=0, sealed=sealed, workspace=workspace)


def llm_of(score: ScoreResult) -> LlmScore:
    assert score.llm
    return score.llm


def test_the_llm_is_asked_about_some_rows_and_its_answers_are_scored(
    split: Split, workspace: Workspace, llm: Any
) -> None:
    p, _, sealed = split(
        evaluate={"llm_rows": 12}, generate={"price": {"input": 1.0, "output": 2.0}}
    )
    llm.always = answer_labels
    score = ask(p, sealed, workspace)
    rows, cost = score.read(), llm_of(score)
    assert score.sample and score.known.rows == len(rows) == 12 == len(llm.requests)
    assert llm.peak == 1, "one request at a time"
    assert {r.predicted for r in rows if r.label == "bird"} == {""}
    assert cost.unparsed == 4 and cost.unparsed_share == pytest.approx(1 / 3) and cost.measured
    assert score.known.f1_macro.value == pytest.approx(2 / 3)
    assert cost.tokens == 360 and cost.usd == pytest.approx(12 * (10 * 1 + 20 * 2) / 1e6)
    assert cost.latency.p50 and cost.latency.p95 and cost.latency.texts == 12
    assert 0 < cost.latency.p50 <= cost.latency.p95
    body = llm.requests[0]
    prompt = body["messages"][-1]["content"]
    assert body["temperature"] == 0.0 and "- metal: topic one; topic two" in prompt
    assert f1_on_rows(p, score, {r.id for r in rows}).value == score.known.f1_macro.value
    assert ask(p, sealed, workspace).published.found and len(llm.requests) == 12
    assert count_test_set_uses(sealed, workspace=workspace) == 1


def test_all_rows_are_no_sample(split: Split, workspace: Workspace, llm: Any) -> None:
    p, _, sealed = split(evaluate={"llm_rows": 500}, data={"split": {"dev": 6, "test": 5}})
    llm.always = answer_labels
    score = ask(p, sealed, workspace)
    assert score.sample is False and score.known.rows == 15


def test_the_budget_stops_it_and_the_rows_answered_are_scored(
    split: Split, workspace: Workspace, llm: Any
) -> None:
    p, _, sealed = split(evaluate={"llm_rows": 12}, generate={"budget": {"requests": 6}})
    llm.always = answer_labels
    score = ask(p, sealed, workspace)
    assert score.known.rows == 6 == len(llm.requests)
    assert "generate.budget.requests" in str(llm_of(score).stopped)
    assert [r.label for r in score.read()] == [*toy.LABELS] * 2
    p, _, sealed = split(evaluate={"llm_rows": 12}, generate={"budget": {"tokens": 1}})
    assert ask(p, sealed, workspace).known.rows == 6, "cached replies cost nothing"
    other = {"budget": {"tokens": 1}, "model": "another"}
    p, _, sealed = split(evaluate={"llm_rows": 12}, generate=other)
    nothing = ask(p, sealed, workspace)
    assert nothing.scores is None and llm_of(nothing).stopped


def test_an_endpoint_that_is_down_is_a_transient_error_and_its_replies_are_kept(
    split: Split, workspace: Workspace, llm: Any
) -> None:
    p, _, sealed = split(evaluate={"llm_rows": 6}, generate={"retries": 0})
    llm.faults, llm.always = [answer_labels, answer_labels], scripted.status(500)
    with pytest.raises(TransientError):
        ask(p, sealed, workspace)
    llm.always = answer_labels
    score = ask(p, sealed, workspace)
    assert score.known.rows == 6 and len(llm.requests) == 7 and llm_of(score).latency.texts == 6


LABELS = ("C", "C++", "news", "sports news", "a.b")
ONE = project({"pool": "x"}, labels=LABELS)
SEVERAL = project({"pool": "x"}, labels=LABELS, multi_label=True)


@pytest.mark.parametrize(
    ("answer", "one", "several"),
    [
        ("C", "C", ("C",)),
        (" 'c++'.\n", "C++", ("C++",)),
        ("Sports  News", "sports news", ("sports news",)),
        ("It is sports news, surely", "sports news", ("sports news",)),
        ("news or C", None, ("C", "news")),
        ("newspaper", None, None),
        ("axb", None, None),
        ("a.b!", "a.b", ("a.b",)),
        ("none", None, ()),
        ("", None, None),
        ("<script>", None, None),
    ],
)
def test_which_answers_are_labels(
    answer: str, one: str | None, several: tuple[str, ...] | None
) -> None:
    assert parse_answer(answer, ONE) == one
    assert parse_answer(answer, SEVERAL) == several


@pytest.mark.parametrize("p", [ONE, SEVERAL])
@pytest.mark.parametrize("text", ["short", "word " * 5000, "語" * 5000, "\ud800" * 3000])
def test_any_text_is_cut_to_what_fits(p: Project, text: str) -> None:
    request = build_request(p, text)
    assert request.max_prompt_tokens + request.max_tokens <= CONTEXT
    prompt = request.messages[0][1]
    assert prompt.endswith("and nothing else.") and prompt.encode()
    assert text[:5].encode("utf-8", "replace").decode() in prompt
