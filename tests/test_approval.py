"""A person's yes or no to a promotion. How a run is suspended and resumed on a server is in test_review.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import prefect
import pytest
from prefect.runtime import deployment

from flows import approval
from flows.registry import Version
from tasks.errors import UserError
from tasks.judge import Verdict, decide

TRUE = [*"abc"] * 40
OLD, NEW = Version("toy", "1", "d" * 64, "run", {}), Version("toy", "2", "e" * 64, "run", {})


@pytest.fixture
def verdict() -> Verdict:
    wrong = ["b" if t == "a" else t for t in TRUE]
    return decide(TRUE, TRUE, wrong, labels=[*"abc"], opponent_name="champion version 1", samples=200)


@pytest.fixture
def recorded() -> list[tuple[str, dict[str, str]]]:
    return []


@pytest.fixture
def r(recorded: list[Any]) -> Any:
    registry = SimpleNamespace(record=lambda version, tags: recorded.append((version.version, tags)))
    return SimpleNamespace(registry=registry)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the suspended run asked; the answer is the last entry's `answer`."""
    found: list[dict[str, Any]] = [{"answer": {}}]

    def suspend(*, wait_for_input: Any, key: str, timeout: float) -> Any:
        found.append({"description": wait_for_input._description, "key": key})
        return approval.Approval(**found[0]["answer"])

    monkeypatch.setattr(prefect, "suspend_flow_run", suspend)
    monkeypatch.setattr(deployment, "id", "a deployment", raising=False)
    return found


def test_in_a_terminal_nobody_is_asked_and_nothing_is_promoted(r: Any, verdict: Verdict) -> None:
    said = approval.ask(r, NEW, verdict, champion=OLD)
    assert not said.yes and "reseed promote toy 2 --reason" in said.sentence


@pytest.mark.parametrize("yes", [True, False])
def test_both_answers_are_recorded_with_their_reason(
    yes: bool, r: Any, verdict: Verdict, asked: list[Any], recorded: list[Any]
) -> None:
    asked[0]["answer"] = {"approve": yes, "by": "ada", "reason": "seen by the board"}
    said = approval.ask(r, NEW, verdict, champion=OLD)
    word = "approved" if yes else "refused"
    assert said.yes is yes and said.sentence.startswith(f"{word} by ada: seen by the board")
    assert recorded == [("2", {f"reseed.{word}_by": "ada", f"reseed.{word}_because": "seen by the board"})]


def test_the_question_shows_the_verdict_and_is_one_a_comparison(r: Any, verdict: Verdict, asked: list[Any]) -> None:
    asked[0]["answer"] = {"approve": True, "by": "ada", "reason": "why not"}
    for champion in (OLD, None):
        approval.ask(r, NEW, verdict, champion=champion)
    assert [a["key"] for a in asked[1:]] == ["approve-2-1", "approve-2-none"]
    table = asked[1]["description"]
    assert f"{verdict.gain:+.4f}" in table and "champion version 1" in table and "Gain by label: c +0.000" in table


@pytest.mark.parametrize("missing", ["by", "reason"])
def test_an_answer_without_name_or_reason_is_none(missing: str, r: Any, verdict: Verdict, asked: list[Any]) -> None:
    asked[0]["answer"] = {"approve": True, "by": "ada", "reason": "why not", missing: " "}
    with pytest.raises(UserError, match=r"needs a name .by. and a reason"):
        approval.ask(r, NEW, verdict, champion=OLD)
