"""A person's yes or no to a promotion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect.runtime import deployment

from flows.context import RunContext
from flows.registry import admin, pruning
from flows.registry.client import Version
from flows.retraining import approval
from tasks.model.bundle import BundleRef
from tasks.verdict.model import Verdict
from tests.conftest import Command
from tests.kit.context import context_of
from tests.kit.registry import Store
from tests.kit.rows import project
from tests.kit.verdicts import verdict_on

TRUE = [*"abc"] * 40


@pytest.fixture
def verdict() -> Verdict:
    wrong = ["b" if t == "a" else t for t in TRUE]
    return verdict_on(
        TRUE, TRUE, wrong, labels=[*"abc"], opponent_name="champion version 1", samples=200
    )


@pytest.fixture
def two(sqlite: Store, bundles: list[BundleRef], unasked: list[Path]) -> list[Version]:
    """Versions 1, the champion, and 2."""
    found = [sqlite.register(b) for b in bundles[:2]]
    sqlite.promote(found[0], None)
    return found


@pytest.fixture
def run(sqlite: Store) -> RunContext:
    return context_of(
        project({"pool": "x"}), sqlite.settings.workspace.home, registry=sqlite.registry
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the suspended run asked, without a server; the answers are the first entry's, one a question, the last one for ever."""
    found: list[dict[str, Any]] = [{"answers": []}]

    def suspend(*, wait_for_input: Any, key: str, timeout: float) -> Any:
        offered = {name: f.default for name, f in wait_for_input.model_fields.items()}
        found.append({"description": wait_for_input._description, "key": key, **offered})
        answers = found[0]["answers"]
        return approval.Approval(**(answers.pop(0) if len(answers) > 1 else answers[0]))

    monkeypatch.setattr(prefect, "suspend_flow_run", suspend)
    monkeypatch.setattr(deployment, "id", "a deployment", raising=False)
    return found


def rows(store: Store) -> list[tuple[Any, ...]]:
    history = admin.read_history(store.settings, "toy")
    assert history.inconsistencies == []
    return [(h.number, h.version, h.before, h.kind, h.who, h.reason) for h in history.history]


FIRST = (1, "1", None, "verdict", "", "better")


def test_in_a_terminal_nobody_is_asked_and_both_verbs_are_named(
    run: RunContext, two: list[Version], verdict: Verdict
) -> None:
    said = approval.ask_for_approval(run, two[1], verdict, champion=two[0])
    assert not said.approved and "reseed promote toy 2 --reason" in said.sentence
    assert "reseed refuse toy 2 --reason" in said.sentence


@pytest.mark.parametrize("yes", [True, False])
def test_both_answers_are_recorded_and_a_refusal_is_a_row(
    yes: bool,
    run: RunContext,
    two: list[Version],
    verdict: Verdict,
    asked: list[Any],
    sqlite: Store,
) -> None:
    asked[0]["answers"] = [{"approve": yes, "by": "ada", "reason": "seen by the board"}]
    for _ in range(2):  # as when the flow run is executed again: its answer is met again
        said = approval.ask_for_approval(run, two[1], verdict, champion=two[0])
    word = "approved" if yes else "refused"
    assert said.approved is yes and said.sentence.startswith(f"{word} by ada: seen by the board")
    tags = sqlite.registry.version("toy", "2").tags
    assert (tags[f"reseed.{word}_by"], tags[f"reseed.{word}_because"]) == (
        "ada",
        "seen by the board",
    )
    assert rows(sqlite) == [
        FIRST,
        *([] if yes else [(2, "2", "1", "refused", "ada", "seen by the board")]),
    ]


def test_the_question_shows_the_verdict_and_is_one_a_comparison(
    run: RunContext, two: list[Version], verdict: Verdict, asked: list[Any]
) -> None:
    asked[0]["answers"] = [{"approve": True, "by": "ada", "reason": "why not"}]
    for champion in (two[0], None):
        approval.ask_for_approval(run, two[1], verdict, champion=champion)
    assert [a["key"] for a in asked[1:]] == ["approve-2-1", "approve-2-none"]
    table = asked[1]["description"]
    assert (
        f"{verdict.gain:+.4f}" in table
        and "champion version 1" in table
        and "Gain by label: c +0.000" in table
    )


def test_an_answer_without_name_or_reason_is_asked_again(
    run: RunContext, two: list[Version], verdict: Verdict, asked: list[Any]
) -> None:
    whole = {"approve": True, "by": "ada", "reason": "why not"}
    asked[0]["answers"] = [whole | {"by": " "}, whole | {"by": "", "reason": ""}, whole]
    said = approval.ask_for_approval(run, two[1], verdict, champion=two[0])
    assert said.approved and said.who == "ada"
    first, second, third = asked[1:]
    assert [a["key"] for a in (first, second, third)] == [
        "approve-2-1",
        "approve-2-1-1",
        "approve-2-1-2",
    ]
    assert (
        "had no name (by): give both" in second["description"]
        and first["description"] in second["description"]
    )
    assert (second["approve"], second["reason"]) == (True, "why not"), (
        "what was given is offered again"
    )
    assert "had no name (by) and reason" in third["description"]


def test_a_refusal_stands_in_the_history_and_promotes_nothing(
    sqlite: Store, two: list[Version], bundles: list[BundleRef], reseed: Command
) -> None:
    for _ in range(2):
        code, out, _ = reseed(
            "refuse", "toy", "2", "--reason", "it was not asked for", "--by", "ada"
        )
        assert code == 0 and "toy: version 2 is refused; version 1 stays champion" in out
    refused = (2, "2", "1", "refused", "ada", "it was not asked for")
    assert rows(sqlite) == [FIRST, refused]
    assert "version 2 against 1" in reseed("history", "toy")[1]
    sqlite.client.delete_registered_model_alias("toy", "champion")
    standing = sqlite.registry.last_champion("toy")
    assert standing is not None and standing.version == "1", (
        "what was refused is not what a challenger has to beat"
    )
    sqlite.client.set_registered_model_alias("toy", "champion", "1")

    third = sqlite.register(bundles[2])
    assert pruning.prune(sqlite.settings, "toy", keep=1, really=False).would_remove == ["2"]
    assert reseed("promote", "toy", "2", "--reason", "I was wrong", "--by", "ada")[0] == 0, (
        "a refusal can be overruled"
    )
    assert reseed("refuse", "toy", third.version, "--reason", "it came too late")[0] == 0
    told = rows(sqlite)
    assert told[:3] == [FIRST, refused, (3, "2", "1", "by hand", "ada", "I was wrong")]
    assert told[3][:4] == (4, "3", "2", "refused") and sqlite.aliases()["champion"] == "2"

    code, _, err = reseed("refuse", "toy", "2", "--reason", "no")
    assert code == 2 and "version 2 of 'toy' is the champion: `reseed rollback toy" in err
    assert (
        reseed("refuse", "toy", "3", "--reason", " ")[0]
        == reseed("refuse", "toy", "9", "--reason", "no")[0]
        == 2
    )
    key = "reseed.history.000002"
    said = sqlite.client.get_registered_model("toy").tags[key]
    sqlite.client.set_registered_model_tag(
        "toy", key, said.replace("it was not asked for", "it was fine")
    )
    assert (
        "row 3 does not follow row 2"
        in admin.read_history(sqlite.settings, "toy").inconsistencies[0]
    )
