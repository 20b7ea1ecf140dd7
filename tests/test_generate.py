"""What rows would cost: the plan of `reseed generate --plan`, for which nothing is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.generate import Plan, estimate_cost, show_plan
from tasks.errors import UserError
from tests.kit import toy

pytestmark = pytest.mark.usefixtures("home")

TWO: dict[str, Any] = {
    "generators": [{"name": "one"}, {"name": "two", "price": {"input": 1e6}}],
    "per_label": 50,
}


def plan_of(folder: Path, **sections: Any) -> Plan:
    config = toy.project(folder, endpoint="http://nobody.invalid/v1", encoder=folder, **sections)
    return estimate_cost(config, ())


def requests(found: Plan) -> dict[str, int]:
    return {name: own.requests for name, own in found.generators.items()}


def test_questions_times_models_where_models_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.txt").write_text(
        "".join(f"What is thing number {i}?\n" for i in range(20)), encoding="utf-8"
    )
    generators = [
        {"name": n, "endpoint": "http://nobody.invalid/v1", "model": n} for n in ("one", "two")
    ]
    config = {
        "name": "who",
        "labels": {"one": "the first", "two": "the second"},
        "data": {"split": {"dev": 3, "test": 4, "rest": "train"}},
        "generate": {
            "mode": "by_model",
            "questions": "q.txt",
            "generators": generators,
            "price": {"output": 1.0},
            "max_tokens": 50,
            "budget": {"requests": 30},
        },
    }
    (tmp_path / "who.yaml").write_text(json.dumps(config), encoding="utf-8")
    found = estimate_cost(tmp_path / "who.yaml", ())
    assert requests(found) == {"one": 20, "two": 20} and found.total.requests == 40
    assert found.total.completion_tokens == 2000 and found.total.usd == 0.002
    assert found.over_budget == ["requests"] and found.example == "What is thing number 0?"
    assert Plan.model_validate_json(found.model_dump_json()) == found
    show_plan(found, Console(width=110))
    said = capsys.readouterr().out
    assert "one request: What is thing number 0?" in said and "accepted rows wanted" not in said


def test_subtopics_that_are_to_be_proposed_are_counted(tmp_path: Path) -> None:
    plain, more = (
        plan_of(tmp_path / "a", generate=TWO),
        plan_of(tmp_path / "b", generate=TWO | {"propose_topics": True}),
    )
    assert requests(more) == {"one": requests(plain)["one"] + 3, "two": requests(plain)["two"]}
    written = [found.generators["one"].completion_tokens for found in (plain, more)]
    assert written[1] - written[0] == 3 * 200


def test_a_dropped_generator_is_not_paid_for(tmp_path: Path) -> None:
    both = plan_of(tmp_path / "a", generate=TWO)
    one = plan_of(tmp_path / "b", generate=TWO, curate={"drop_generators": ["two"]})
    assert min(requests(both).values()) > 60 and both.total.usd > 0
    assert requests(one) == {"one": both.total.requests} and one.total.usd == 0


def test_a_name_that_no_generator_has_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan_of(tmp_path, generate=TWO, curate={"drop_generators": ["tow"]})
    (notice,) = found.notices
    assert (
        "'tow' (did you mean 'two'?)" in notice
        and "'one', 'two'" in notice
        and min(requests(found).values()) > 60
    )
    show_plan(found, Console(width=300))
    assert notice in capsys.readouterr().out


def test_nobody_left_to_ask(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"lists every generator \('one', 'two'\), so no generator is left"
    ):
        plan_of(tmp_path / "a", generate=TWO, curate={"drop_generators": ["one", "two"]})
    none = plan_of(
        tmp_path / "b", generate=TWO | {"per_label": 0}, curate={"drop_generators": ["one", "two"]}
    )
    assert none.total.requests == 0, "nothing is asked for"
