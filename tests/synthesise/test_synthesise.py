"""Requests are planned within their budget and replies are read as records; a round buys nothing twice."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import TransientError, UserError
from tasks.llm.request import Reply, Request
from tasks.project import Project
from tasks.records import Record, Rejected, read_records, read_rejected
from tasks.setup.preflight import check_endpoint
from tasks.synthesise.parse import parse_reply
from tasks.synthesise.plan import Focus, RoundRequest, plan_requests, split_subtopics
from tasks.synthesise.propose import parse_list
from tasks.synthesise.quota import (
    give_up_reason,
    missing_rows,
    request_budget,
    rows_to_request,
    split_quota,
)
from tasks.synthesise.stage import SynthesiseResult, synthesise
from tasks.text.tokens import words
from tasks.workspace import Workspace
from tests.kit import scripted, toy
from tests.kit.stages import splits_of


def project(**generate: Any) -> Project:
    chosen = {
        "model": "scripted",
        "concurrency": 1,
        "retries": 0,
        "timeout_seconds": 5.0,
        "examples": 0,
        **generate,
    }
    sections = {"data": {"pool": "rows.csv"}, "generate": chosen, "curate": {"min_words": 4}}
    return Project.model_validate({"name": "toy", "labels": toy.LABELS, **sections})


class TestSubtopics:
    @pytest.mark.parametrize(
        ("description", "parts"),
        [
            ("one; two; three", ["one", "two", "three"]),
            ("one, two, three", ["one", "two", "three"]),
            ("ships, boats; trains", ["ships, boats", "trains"]),
            (" one ;; two. ", ["one", "two"]),
            ("one thing", ["one thing"]),
            (";", [";"]),
        ],
    )
    def test_parts(self, description: str, parts: list[str]) -> None:
        assert split_subtopics(description) == parts


LACKING = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 500), max_size=6)
TRIED = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 300), max_size=6)


class TestHowMany:
    def test_missing_leaves_out_what_has_its_quota(self) -> None:
        quota = dict.fromkeys(toy.LABELS, 12)
        assert missing_rows(quota, {"metal": 12, "fruit": 3, "bird": 40}) == {"fruit": 9}
        assert missing_rows(quota, {}) == quota
        assert missing_rows(dict.fromkeys(toy.LABELS, 0), {}) == {}

    @given(lacking=LACKING, tried=TRIED, accepted=TRIED, budget=st.integers(-20, 4000))
    def test_never_past_the_budget_nor_for_what_lacks_nothing(
        self, lacking: dict[str, int], tried: dict[str, int], accepted: dict[str, int], budget: int
    ) -> None:
        n = rows_to_request(lacking, tried=tried, accepted=accepted, budget=budget)
        assert sum(n.values()) <= max(budget, 0)
        assert set(n) <= set(lacking) and all(v > 0 for v in n.values())
        unbounded = rows_to_request(lacking, tried=tried, accepted=accepted, budget=10**9)
        assert set(unbounded) == set(lacking), "with room, every lacking label is asked for"
        assert all(v <= 20 * lacking[k] + 1 for k, v in unbounded.items())
        total = sum(unbounded.values())
        if total > budget > 0:
            assert sum(n.values()) == budget, "a budget too small is spent whole"
            for label, wanted in unbounded.items():
                assert abs(n.get(label, 0) - wanted * budget / total) < 1
        elif budget >= total:
            assert n == unbounded

    def test_measured_acceptance_replaces_the_guess(self) -> None:
        few = rows_to_request({"a": 19}, tried={"a": 9}, accepted={"a": 3}, budget=1000)
        assert few == {"a": 20}, "nine tries tell too little"
        assert rows_to_request({"a": 19}, tried={"a": 10}, accepted={"a": 5}, budget=1000) == {
            "a": 38
        }
        assert rows_to_request({"a": 10}, tried={"a": 50}, accepted={}, budget=1000) == {
            "a": 150
        }, "up to 200 tries"
        assert rows_to_request({"a": 10}, tried={"a": 100}, accepted={"a": 10}, budget=1000) == {
            "a": 100
        }

    def test_a_label_is_given_up_after_200_rows_with_under_5_percent(self) -> None:
        assert give_up_reason("a", tried={"a": 199}, accepted={}) is None
        assert give_up_reason("a", tried={"a": 200}, accepted={"a": 10}) is None
        assert "accepted 9 of 200" in str(give_up_reason("a", tried={"a": 200}, accepted={"a": 9}))

    @given(TRIED, st.integers(0, 5))
    def test_portions_grow_to_the_whole(self, quota: dict[str, int], rounds: int) -> None:
        parts = split_quota(quota, rounds)
        assert len(parts) == rounds + 1 and parts[-1] == quota
        assert all(a[k] <= b[k] for a, b in itertools.pairwise(parts) for k in quota)

    def test_a_quota_by_label_and_a_balanced_one(self) -> None:
        names = list(toy.LABELS)
        assert project(per_label={"metal": 5}).generate.quota(names, {}) == {
            "metal": 5,
            "fruit": 0,
            "bird": 0,
        }
        balanced = project(per_label=10, balance=True).generate
        assert balanced.quota(names, {"metal": 4, "fruit": 30}) == {
            "metal": 26,
            "fruit": 0,
            "bird": 30,
        }
        assert balanced.quota(names, {"metal": 4}) == {"metal": 6, "fruit": 10, "bird": 10}

    def test_the_budget_of_a_retrain(self) -> None:
        quota = dict.fromkeys(toy.LABELS, 12)
        assert request_budget(project().generate, quota) == 360
        assert request_budget(project(format="json", rows_per_reply=5).generate, quota) == 72
        assert request_budget(project(budget={"requests": 7}).generate, quota) == 7


SEEDS = [
    Record.create(f"{label} seed {i}", label, "seed") for label in toy.LABELS for i in range(5)
]


def request_of(count: dict[str, int], *, round_number: int = 1, **asked: Any) -> RoundRequest:
    return RoundRequest(
        **{
            "count": count,
            "round_number": round_number,
            "generation": 0,
            "more_topics": {},
            **asked,
        }
    )


def drawn(
    p: Project, count: dict[str, int] | None = None, *, round_number: int = 1, generation: int = 0
) -> list[Request]:
    count = count or dict.fromkeys(toy.LABELS, 6)
    return plan_requests(
        p, request_of(count, round_number=round_number, generation=generation), seeds=SEEDS
    )


def keys(requests: list[Request]) -> set[str]:
    return {r.key("e", "m") for r in requests}


class TestPlan:
    def test_the_same_arguments_give_the_same_requests(self) -> None:
        assert drawn(project(examples=2)) == drawn(project(examples=2))
        assert len(keys(drawn(project()))) == 18

    def test_another_round_generation_or_seed_asks_for_other_texts(self) -> None:
        first = keys(drawn(project()))
        for other in (
            drawn(project(), round_number=2),
            drawn(project(), generation=1),
            drawn(project(seed=1)),
        ):
            assert not first & keys(other)

    def test_asking_for_more_keeps_what_was_planned(self) -> None:
        """So that what was bought for a smaller quota is found again."""
        assert keys(drawn(project())) < keys(drawn(project(), dict.fromkeys(toy.LABELS, 9)))

    def test_every_subtopic_is_used_evenly_and_only_with_its_label(self) -> None:
        requests = drawn(project(prompt="Write {topic}; about {label}: {description}, in {style}."))
        assert Counter(r.tag["label"] for r in requests) == dict.fromkeys(toy.LABELS, 6)
        for label, line in toy.LABELS.items():
            own = [r for r in requests if r.tag["label"] == label]
            assert Counter(r.tag["topic"] for r in own) == dict.fromkeys(split_subtopics(line), 3)
            for r in own:
                prompt = r.messages[-1][1]
                assert (
                    prompt == f"Write {r.tag['topic']}; about {label}: {line}, in {r.tag['style']}."
                )

    def test_labels_are_interleaved(self) -> None:
        """A round that is cut off has some of each label."""
        assert {
            r.tag["label"] for r in drawn(project(), dict.fromkeys(toy.LABELS, 30))[:15]
        } == set(toy.LABELS)

    def test_seed_rows_are_shown_of_the_own_label_only(self) -> None:
        texts = {r.id: r for r in SEEDS}
        requests = drawn(project(examples=2))
        assert len({tuple(r.tag["seeds"]) for r in requests}) > 6, "they rotate"
        for r in requests:
            prompt = r.messages[-1][1]
            shown = [texts[i] for i in r.tag["seeds"]]
            assert len({s.id for s in shown}) == 2 and {s.label for s in shown} == {r.tag["label"]}
            assert [s.text for s in SEEDS if s.text in prompt] == [
                s.text for s in SEEDS if s in shown
            ]

    def test_no_seed_row_is_shown_where_none_is_wanted_or_there_is_none(self) -> None:
        assert all(
            "seed" not in r.messages[-1][1] and r.tag["seeds"] == [] for r in drawn(project())
        )
        bare = plan_requests(project(examples=2), request_of({"metal": 2}), seeds=SEEDS[5:])
        assert all("Examples" not in r.messages[-1][1] for r in bare)

    def test_sampling_is_the_projects(self) -> None:
        (request,) = drawn(project(temperature=0.3, top_p=0.4, max_tokens=17), {"metal": 1})
        assert (request.temperature, request.top_p, request.max_tokens) == (0.3, 0.4, 17)


def reply(
    text: str | None,
    finish_reason: str | None = "stop",
    *,
    rows: int = 1,
    schema: str | None = None,
) -> Reply:
    tag = {
        "label": "metal",
        "topic": "topic one",
        "style": "a quote",
        "seeds": ["s1"],
        "round": 2,
        "generator": "m",
    }
    tag |= {"rows": rows, "prompt": "Write of it."}
    request = Request((("user", "prompt"),), 1.0, 0.9, 50, 7, schema=schema, tag=tag)
    return Reply(
        request, "k" * 64, text, finish_reason, 10, 20, usd=0.5, measured=True, bought=True
    )


def read(text: str | None, finish_reason: str | None = "stop") -> Record | Rejected:
    (row,) = parse_reply(reply(text, finish_reason), min_words=4)
    return row


def read_json(
    text: str | None, finish_reason: str = "stop", rows: int = 3
) -> list[Record | Rejected]:
    return parse_reply(reply(text, finish_reason, rows=rows, schema="{}"), min_words=4)


class TestParse:
    @pytest.mark.parametrize(
        "text",
        [
            "The price of iron rose again on Monday, said the mill.",
            "I can say that the mill, sorry to tell, sold iron.",
            "Here the river bends: three ships lay at anchor.\nA fourth came later.",
            "First line of the text.\n\nTitle: is a word that may stand in the middle.\n\nLast line.",
            "Sure enough it rained. They said: stay at home.",
            "El precio del hierro subió otra vez — 3 % más.",
            "He asked: is 3 < 4 and 5 > 4? Nobody knew {it was late}.",
        ],
    )
    def test_a_good_text_is_untouched(self, text: str) -> None:
        record = read(text)
        assert isinstance(record, Record) and record.text == text

    def test_the_record_tells_where_it_comes_from(self) -> None:
        record = read("The price of iron rose again on Monday.")
        assert isinstance(record, Record)
        assert (record.label, record.source) == ("metal", "synthetic")
        assert record.lineage == {
            "topic": "topic one",
            "style": "a quote",
            "seeds": ["s1"],
            "round": 2,
            "generator": "m",
            "prompt": "Write of it.",
            "request": "k" * 64,
            "tokens": [10.0, 20.0],
            "usd": 0.5,
            "measured": True,
        }

    @pytest.mark.parametrize(
        ("text", "finish_reason", "check"),
        [
            ("I'm sorry, but I can't write about that at all.", "stop", "refusal"),
            ("I’m sorry, but I can’t write about that at all.", "stop", "refusal"),
            ('"I cannot help you with this request today."', "stop", "refusal"),
            ("As an AI language model I have no opinion on iron.", "stop", "refusal"),
            ("The price of iron rose again on", "content_filter", "refusal"),
            ("", "stop", "empty_reply"),
            (" \n\t ", "stop", "empty_reply"),
            (None, "stop", "empty_reply"),
            (None, "content_filter", "empty_reply"),
            ("Iron rose again.", "stop", "fragment"),
            ("Sure, here is a text:\n\nIron rose.", "stop", "fragment"),
            ("a text without any end of a sentence that was cut", "length", "fragment"),
            ("Yes. The price of iron rose again and then it", "length", "fragment"),
            ("The mill of [Company Name] sold iron on Monday.", "stop", "placeholder"),
            ("The mill in {city} sold iron on Monday.", "stop", "placeholder"),
            ("The mill in <city> sold iron on Monday.", "stop", "placeholder"),
            ("Lorem ipsum dolor sit amet and so on.", "stop", "placeholder"),
            ("The mill sold iron on Monday again.<|im_end|>", "stop", "chat_markup"),
        ],
    )
    def test_is_set_aside(self, text: str | None, finish_reason: str, check: str) -> None:
        rejected = read(text, finish_reason)
        assert isinstance(rejected, Rejected) and rejected.check == check, rejected
        assert rejected.record.text == (text or "") and rejected.record.label == "metal", (
            "what was bought stays readable"
        )
        assert rejected.record.lineage["request"] == "k" * 64 and rejected.reason

    @pytest.mark.parametrize(
        ("wrapped", "text"),
        [
            (
                "Sure! Here is a news story:\n\nThe price of iron rose again.",
                "The price of iron rose again.",
            ),
            (
                "Here's a short text about iron:\nThe price of iron rose again.",
                "The price of iron rose again.",
            ),
            ("# Iron\nThe price of iron rose again.", "The price of iron rose again."),
            ("**Title: Iron**\n\nThe price of iron rose again.", "The price of iron rose again."),
            (
                "Certainly:\n\n## Iron\n\nThe price of iron rose again.",
                "The price of iron rose again.",
            ),
            ("  The price of iron rose again. \n", "The price of iron rose again."),
        ],
    )
    def test_the_wrapping_is_stripped(self, wrapped: str, text: str) -> None:
        record = read(wrapped)
        assert isinstance(record, Record) and record.text == text

    @pytest.mark.parametrize(
        ("text", "whole"),
        [
            ("The price of iron rose. Then it was sold at", "The price of iron rose."),
            ('He said: "The price rose again!" Then it was', 'He said: "The price rose again!"'),
            (
                "It cost 3.5 pounds again. Then it cost 4.",
                "It cost 3.5 pounds again. Then it cost 4.",
            ),
        ],
    )
    def test_a_sentence_that_the_limit_cut_goes(self, text: str, whole: str) -> None:
        record = read(text, "length")
        assert isinstance(record, Record) and record.text == whole
        kept = read(text, "stop")
        assert isinstance(kept, Record) and kept.text == text

    @given(
        st.text(st.characters(codec=None, exclude_categories=()), max_size=80),
        st.sampled_from(["stop", "length", None]),
    )
    @settings(max_examples=200)
    def test_any_text_is_read_and_can_be_written(
        self, text: str, finish_reason: str | None
    ) -> None:
        found = read(text, finish_reason)
        record = found if isinstance(found, Record) else found.record
        assert record.text.encode() is not None
        if isinstance(found, Record):
            assert len(words(found.text)) >= 4


GOOD = "The price of iron rose again on Monday."


def rows_json(*rows: Any) -> str:
    return json.dumps({"rows": list(rows)})


class TestJson:
    def test_several_rows_share_the_cost(self) -> None:
        rows = read_json(
            rows_json(
                {"text": GOOD, "label": "metal"}, {"text": GOOD + " Twice.", "label": "metal"}
            )
        )
        assert [r.text for r in rows if isinstance(r, Record)] == [GOOD, GOOD + " Twice."]
        assert [
            (r.lineage["tokens"], r.lineage["usd"], r.lineage["row"])
            for r in rows
            if isinstance(r, Record)
        ] == [
            ([5.0, 10.0], 0.25, 0),
            ([5.0, 10.0], 0.25, 1),
        ]

    def test_a_code_fence_is_wrapping(self) -> None:
        (row,) = read_json("```json\n" + rows_json({"text": GOOD, "label": "metal"}) + "\n```")
        assert isinstance(row, Record) and row.text == GOOD

    @pytest.mark.parametrize(
        ("text", "finish_reason", "check"),
        [
            (None, "stop", "empty_reply"),
            ("", "stop", "empty_reply"),
            ("I'm sorry, I can't do that.", "stop", "refusal"),
            (rows_json({"text": GOOD, "label": "metal"}), "content_filter", "refusal"),
            (rows_json({"text": GOOD, "label": "metal"})[:-9], "length", "truncated"),
            (rows_json({"text": GOOD, "label": "metal"}), "length", "truncated"),
            (rows_json({"text": GOOD, "label": "metal"})[:-9], "stop", "broken_json"),
            ("Here you are: " + rows_json({"text": GOOD, "label": "metal"}), "stop", "broken_json"),
            ("<html><body>Welcome</body></html>", "stop", "broken_json"),
            ("[" * 100_000, "stop", "broken_json"),
            ('{"rows": [{"text": NaN, "label": "metal"}]}', "stop", "broken_json"),
            (json.dumps([{"text": GOOD, "label": "metal"}]), "stop", "wrong_shape"),
            (json.dumps({"row": []}), "stop", "wrong_shape"),
            (json.dumps({"rows": [], "more": 1}), "stop", "wrong_shape"),
            (json.dumps({"rows": {"text": GOOD, "label": "metal"}}), "stop", "wrong_shape"),
            (rows_json(), "stop", "empty_reply"),
            (rows_json(GOOD), "stop", "wrong_shape"),
            (rows_json({"text": GOOD}), "stop", "wrong_shape"),
            (rows_json({"text": [GOOD], "label": "metal"}), "stop", "wrong_shape"),
            (rows_json({"text": GOOD, "label": "metal", "why": "so"}), "stop", "wrong_shape"),
            (rows_json({"text": GOOD, "label": "fruit"}), "stop", "mislabelled"),
            (rows_json({"text": GOOD, "label": "Metal"}), "stop", "mislabelled"),
            (rows_json({"text": GOOD, "label": "no such"}), "stop", "mislabelled"),
            (rows_json({"text": "  ", "label": "metal"}), "stop", "empty_reply"),
            (
                rows_json({"text": "I cannot help you with that.", "label": "metal"}),
                "stop",
                "refusal",
            ),
            (rows_json({"text": "Iron rose.", "label": "metal"}), "stop", "fragment"),
            (
                rows_json({"text": "The mill of [Company Name] sold iron.", "label": "metal"}),
                "stop",
                "placeholder",
            ),
            (
                f'{{"rows": [{{"text": "{GOOD}", "label": "fruit", "label": "metal"}}]}}',
                "stop",
                "duplicate_key",
            ),
            (
                f'{{"rows": [], "rows": [{{"text": "{GOOD}", "label": "metal"}}]}}',
                "stop",
                "duplicate_key",
            ),
        ],
    )
    def test_is_set_aside_and_never_mended_into_a_label(
        self, text: str | None, finish_reason: str, check: str
    ) -> None:
        (row,) = read_json(text, finish_reason)
        assert isinstance(row, Rejected) and row.check == check, row
        assert row.record.label == "metal" and row.reason and row.record.text.encode() is not None

    def test_more_rows_than_asked_for_are_set_aside(self) -> None:
        rows = read_json(rows_json(*({"text": f"{GOOD} {i}", "label": "metal"} for i in range(5))))
        assert [type(r) for r in rows] == [Record] * 3 + [Rejected] * 2
        assert {r.check for r in rows[3:] if isinstance(r, Rejected)} == {"unasked"}

    def test_the_requests_ask_for_so_many_rows_and_name_the_labels(self) -> None:
        requests = drawn(project(format="json", rows_per_reply=4), {"metal": 10})
        assert sorted(r.tag["rows"] for r in requests) == [2, 4, 4]
        for r in requests:
            enum = json.loads(str(r.schema))["properties"]["rows"]["items"]["properties"]["label"][
                "enum"
            ]
            assert (
                enum == list(toy.LABELS) and f"Write {r.tag['rows']} of them" in r.messages[-1][1]
            )
            assert r.max_tokens == 110 * r.tag["rows"]


class TestDiversity:
    def test_attributes_are_drawn_by_label(self) -> None:
        chosen = {"length": ["short", "long"], "point_of_view": {"metal": ["a smith"]}}
        requests = drawn(project(attributes=chosen), dict.fromkeys(toy.LABELS, 20))
        for r in requests:
            assert f"Length: {r.tag['length']}." in r.messages[-1][1] and r.tag["length"] in {
                "short",
                "long",
            }
            assert ("Point of view: a smith." in r.messages[-1][1]) == (r.tag["label"] == "metal")
        assert {r.tag["length"] for r in requests} == {"short", "long"}

    def test_borderline_requests_name_another_label_topic(self) -> None:
        requests = drawn(project(borderline=0.5), dict.fromkeys(toy.LABELS, 40))
        near = [r for r in requests if "near" in r.tag]
        assert 0.3 < len(near) / len(requests) < 0.7
        for r in near:
            assert r.tag["near"] != r.tag["label"]
            assert any(
                f"touches on {t}" in r.messages[-1][1]
                for t in split_subtopics(toy.LABELS[r.tag["near"]])
            )
        assert not any("near" in r.tag for r in drawn(project()))

    def test_focus_asks_for_missed_topics_and_confused_labels(self) -> None:
        focus = Focus(topics={"metal": ["topic two"]}, near={"metal": ["fruit"]})
        requests = plan_requests(
            project(), request_of({"metal": 40, "bird": 8}, round_number=2, focus=focus), seeds=[]
        )
        metal = [r for r in requests if r.tag["label"] == "metal"]
        assert {r.tag["topic"] for r in metal} == {"topic two"}
        near = [r.tag.get("near") for r in metal]
        assert set(near) == {None, "fruit"} and 8 < near.count("fruit") < 32
        assert {r.tag["topic"] for r in requests if r.tag["label"] == "bird"} == {
            "topic five",
            "topic six",
        }

    def test_proposed_topics_join_the_descriptions(self) -> None:
        more = {"metal": ["topic nine"]}
        requests = plan_requests(project(), request_of({"metal": 9}, more_topics=more), seeds=[])
        assert Counter(r.tag["topic"] for r in requests) == {
            "topic one": 3,
            "topic two": 3,
            "topic nine": 3,
        }

    def test_a_list_is_read_and_talk_is_not(self) -> None:
        said = "Sure! Here are some:\n1. Steel mills\n2) **Gold mines**\n- topic one\n3. Steel mills.\nI hope this helps."
        assert parse_list(said, known=["Topic one"]) == ["Steel mills", "Gold mines"]
        assert (
            parse_list("I cannot.", known=[]) == []
            and parse_list("1. " + "word " * 30, known=[]) == []
        )

    @given(shares=st.lists(st.integers(1, 9), min_size=2, max_size=4), n=st.integers(40, 200))
    @settings(max_examples=30, deadline=None)
    def test_generators_have_their_shares_of_every_label(self, shares: list[int], n: int) -> None:
        generators = [
            {"name": f"g{i}", "share": float(s), "model": f"m{i}"} for i, s in enumerate(shares)
        ]
        requests = drawn(project(generators=generators), {"metal": n, "bird": n})
        for label in ("metal", "bird"):
            have = Counter(r.tag["generator"] for r in requests if r.tag["label"] == label)
            for i, s in enumerate(shares):
                assert abs(have[f"g{i}"] - n * s / sum(shares)) < 4

    def test_one_changed_description_changes_only_its_label(self) -> None:
        """So that editing it asks only for its own rows again."""
        before = drawn(project())
        labels = toy.LABELS | {"metal": "other things"}
        p = project().model_copy(update={"labels": labels})
        after = drawn(p)
        for label in ("fruit", "bird"):
            own = [keys([r for r in rs if r.tag["label"] == label]) for rs in (before, after)]
            assert own[0] == own[1]


class Round:
    """One round of a project, on a scripted endpoint."""

    def __init__(self, home: Path, llm: scripted.Server) -> None:
        self.home, self.llm = home, llm
        self.splits = splits_of(home, seed=SEEDS)

    def run(self, n: int = 4, *, round_number: int = 1, **generate: Any) -> SynthesiseResult:
        return synthesise(
            project(endpoint=self.llm.url, **generate),
            request_of(dict.fromkeys(toy.LABELS, n), round_number=round_number),
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

    def test_a_second_call_is_found_without_a_request(
        self, round_: Round, llm: scripted.Server
    ) -> None:
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

    def test_a_failure_midway_keeps_what_was_bought(
        self, round_: Round, llm: scripted.Server
    ) -> None:
        llm.faults = [None] * 5
        llm.always = scripted.status(500)
        with pytest.raises(TransientError, match="kept"):
            round_.run()
        stages = round_.home / "stages" / "synthesise"
        assert not list(stages.glob("*")), "a half round must not be published, nor left behind"
        sent = len(llm.requests)
        assert 5 < sent <= 12
        llm.always = None
        result = round_.run()
        assert len(llm.requests) == sent + 7 and result.bought == 7 and result.replies == 12
        bodies = [str(b) for b in llm.requests]
        assert not set(bodies[:5]) & set(bodies[sent:]), "a finished answer was bought again"

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
        sent = []

        def note(h: Any) -> None:
            sent.append(h.headers["authorization"])
            h.send(200, scripted.completion("the price of iron rose again"))

        llm.always = note
        round_.run(1, api_key_env="TOY_KEY")
        assert set(sent) == {"Bearer sk-very-secret"}
        assert not [
            p for p in round_.home.rglob("*") if p.is_file() and b"very-secret" in p.read_bytes()
        ]

    def test_a_seed_row_that_repeats_a_held_out_one_is_not_shown(
        self, round_: Round, llm: scripted.Server
    ) -> None:
        open_, sealed = SEEDS[1], SEEDS[0]
        round_.run(30, examples=2)
        assert sealed.text in str(llm.requests) and open_.text in str(llm.requests)
        llm.requests.clear()
        repeated = replace(sealed, text=sealed.text.upper() + "!")
        round_.splits = splits_of(round_.home, seed=SEEDS, test=[repeated])
        result = round_.run(30, examples=2, seed=1)
        assert (
            result.seeds_not_shown == 1
            and "1 seed rows repeat dev or test text" in result.summary()
        )
        assert sealed.text not in str(llm.requests) and open_.text in str(llm.requests)

    def test_progress_is_told(self, round_: Round, llm: scripted.Server) -> None:
        seen: list[tuple[int, int]] = []
        synthesise(
            project(endpoint=llm.url),
            request_of({"metal": 3}),
            splits=round_.splits,
            workspace=Workspace(round_.home),
            progress=lambda done, total, note: seen.append((done, total)),
        )
        assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_missing_key_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    p = project(endpoint="https://api.openai.com/v1", api_key_env="TOY_KEY")
    with pytest.raises(UserError, match="TOY_KEY"):
        check_endpoint(p)
    monkeypatch.setenv("TOY_KEY", "k")
    check_endpoint(p)
    monkeypatch.delenv("TOY_KEY")
    check_endpoint(project(endpoint="http://127.0.0.1:9/v1", api_key_env="TOY_KEY"))


def test_texts_without_spaces_have_words_and_sentences() -> None:
    """Chinese writes no spaces: a character counts as a word, and a sentence ends with its full stop."""
    reply = Reply(
        plan_one(),
        "k",
        "股市今天上涨了。银行公布了利润。然后文章被截",
        "length",
        1,
        1,
        0.0,
        True,
        True,
    )
    (parsed,) = parse_reply(reply, min_words=8)
    assert isinstance(parsed, Record) and parsed.text == "股市今天上涨了。银行公布了利润。"


def test_what_only_looks_like_a_hole_is_kept() -> None:
    text = "He said it was the largest peice [sic] of news that the town had seen, and then<br>he left."
    (parsed,) = parse_reply(
        Reply(plan_one(), "k", text, "stop", 1, 1, 0.0, True, True), min_words=8
    )
    assert isinstance(parsed, Record) and parsed.text == text


def plan_one() -> Request:
    tag = {"label": "x", "topic": "t", "style": "s", "seeds": [], "round": 0, "rows": 1}
    return Request((("user", "Write."),), 1.0, 1.0, 10, 0, tag=tag)
