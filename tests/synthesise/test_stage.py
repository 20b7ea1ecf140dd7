"""A round of generation against a scripted endpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import TransientError, UserError
from tasks.records import read_records, read_rejected
from tasks.setup.preflight import check_endpoint
from tasks.synthesise.stage import SynthesiseResult, synthesise
from tasks.workspace import Workspace
from tests.kit import scripted, toy
from tests.kit.generation import SEEDS, project, round_request
from tests.kit.stages import splits_of


class Round:
    """One round of a project, on a scripted endpoint."""

    def __init__(self, home: Path, llm: scripted.Server) -> None:
        self.home, self.llm = home, llm
        self.splits = splits_of(home, seed=SEEDS)

    def run(self, n: int = 4, *, round_number: int = 1, **generate: Any) -> SynthesiseResult:
        return synthesise(
            project(endpoint=self.llm.url, **generate),
            round_request(dict.fromkeys(toy.LABELS, n), round_number=round_number),
            splits=self.splits,
            workspace=Workspace(self.home),
        )


@pytest.fixture
def round_(tmp_path: Path, llm: scripted.Server) -> Round:
    return Round(tmp_path, llm)


class TestStage:
    def test_rows_and_counts(self, round_: Round, llm: scripted.Server) -> None:
        llm.faults = [scripted.says("I'm sorry, I can't."), scripted.says(None)]
        result = round_.run(prompt="Write of {topic}.")
        rows = read_records(result.directory / "rows.jsonl")
        rejected = read_rejected(result.directory / "rejected.jsonl")
        assert len(rows) == 10 and {r.check for r in rejected} == {"refusal", "empty_reply"}
        for r in rows:
            words = set(r.text.lower().strip(".").split()) - set(toy.FILLER)
            assert words <= set(toy.WRITTEN[str(r.label)]), (
                "each reply belongs to the label that it was asked for"
            )
        assert result.asked == dict.fromkeys(toy.LABELS, 4) and sum(result.rows.values()) == 10
        assert result.rejected == {"refusal": 1, "empty_reply": 1}
        assert (result.requests, result.replies, result.lost, result.bought) == (12, 12, 0, 12)
        assert (result.prompt_tokens, result.completion_tokens, result.tokens) == (120, 240, 360)
        (usage,) = result.generators.values()
        assert (usage.requests, usage.rows, usage.tokens) == (12, 10, 360)
        metrics = {
            "requests": 12.0,
            "lost": 0.0,
            "prompt_tokens": 120.0,
            "completion_tokens": 240.0,
            "usd": 0.0,
        }
        assert result.metrics() == {f"generate.{k}": v for k, v in metrics.items()} | {
            "generate.replies": 12.0
        }

    def test_a_second_call_makes_no_request(self, round_: Round, llm: scripted.Server) -> None:
        first = round_.run()
        again = round_.run(concurrency=8, timeout_seconds=9.0, retries=3, per_label=99)
        assert again.published.found and (again.directory, again.digest) == (
            first.directory,
            first.digest,
        )
        assert len(llm.requests) == 12

    def test_what_decides_the_texts_makes_another_directory(
        self, round_: Round, llm: scripted.Server
    ) -> None:
        first = round_.run()
        others = [
            round_.run(round_number=2),
            round_.run(seed=3),
            round_.run(examples=1),
            round_.run(temperature=0.2),
        ]
        assert len({r.published.key for r in [first, *others]}) == 5 and len(llm.requests) == 60

    def test_the_order_of_arrival_does_not_matter(
        self, round_: Round, llm: scripted.Server, tmp_path: Path
    ) -> None:
        first = round_.run()
        other = Round(tmp_path / "other", llm)
        llm.delay = 0.01
        assert other.run(concurrency=6).digest == first.digest

    def test_a_smaller_round_is_found_in_the_cache(
        self, round_: Round, llm: scripted.Server
    ) -> None:
        round_.run(3)
        grown = round_.run(4)
        assert grown.bought == 3 and grown.replies == 12 and len(llm.requests) == 12

    def test_a_failure_midway_keeps_the_replies_so_far(
        self, round_: Round, llm: scripted.Server
    ) -> None:
        llm.faults = [None] * 5
        llm.always = scripted.status(500)
        with pytest.raises(TransientError, match="kept"):
            round_.run()
        stages = round_.home / "stages" / "synthesise"
        assert not list(stages.glob("*")), (
            "an incomplete round is neither published nor left behind"
        )
        sent = len(llm.requests)
        assert 5 < sent <= 12
        llm.always = None
        result = round_.run()
        assert len(llm.requests) == sent + 7 and result.bought == 7 and result.replies == 12
        bodies = [str(b) for b in llm.requests]
        assert not set(bodies[:5]) & set(bodies[sent:]), "a finished completion was bought again"

    def test_a_lost_request_is_counted(self, round_: Round, llm: scripted.Server) -> None:
        llm.faults = [None, scripted.status(500)]
        result = round_.run()
        assert (result.replies, result.lost) == (11, 1) and sum(result.rows.values()) == 11

    def test_a_refused_key_stops_it(self, round_: Round, llm: scripted.Server) -> None:
        llm.always = scripted.status(401)
        with pytest.raises(UserError, match=r"generate.api_key_env"):
            round_.run()
        assert len(llm.requests) == 1

    def test_the_key_comes_from_the_environment_and_is_written_nowhere(
        self, round_: Round, llm: scripted.Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOY_KEY", "sk-very-secret")
        keys = []

        def note(h: Any) -> None:
            keys.append(h.headers["authorization"])
            h.send(200, scripted.completion("the price of iron rose again"))

        llm.always = note
        round_.run(1, api_key_env="TOY_KEY")
        assert set(keys) == {"Bearer sk-very-secret"}
        assert not [
            p for p in round_.home.rglob("*") if p.is_file() and b"very-secret" in p.read_bytes()
        ]

    def test_a_seed_row_that_repeats_a_held_out_one_is_not_shown(
        self, round_: Round, llm: scripted.Server
    ) -> None:
        usable, repeated = SEEDS[1], SEEDS[0]
        round_.run(30, examples=2)
        assert repeated.text in str(llm.requests) and usable.text in str(llm.requests)
        llm.requests.clear()
        held_out = replace(repeated, text=repeated.text.upper() + "!")
        round_.splits = splits_of(round_.home, seed=SEEDS, test=[held_out])
        result = round_.run(30, examples=2, seed=1)
        assert (
            result.seeds_not_shown == 1
            and "1 seed rows repeat dev or test text" in result.summary()
        )
        assert repeated.text not in str(llm.requests) and usable.text in str(llm.requests)

    def test_progress_is_reported(self, round_: Round, llm: scripted.Server) -> None:
        steps: list[tuple[int, int]] = []
        synthesise(
            project(endpoint=llm.url),
            round_request({"metal": 3}),
            splits=round_.splits,
            workspace=Workspace(round_.home),
            progress=lambda done, total, note: steps.append((done, total)),
        )
        assert steps == [(1, 3), (2, 3), (3, 3)]


def test_a_missing_key_is_reported_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    p = project(endpoint="https://api.openai.com/v1", api_key_env="TOY_KEY")
    with pytest.raises(UserError, match="TOY_KEY"):
        check_endpoint(p)
    monkeypatch.setenv("TOY_KEY", "k")
    check_endpoint(p)
    monkeypatch.delenv("TOY_KEY")
    check_endpoint(project(endpoint="http://127.0.0.1:9/v1", api_key_env="TOY_KEY"))
