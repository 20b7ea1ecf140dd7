"""The rows in a reply."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.llm.request import Request
from tasks.records import Record, Rejected
from tasks.synthesise.parse import parse_reply
from tasks.text.tokens import split_words
from tests.kit import toy
from tests.kit.generation import planned, project, reply_to

TAG = {
    "label": "metal",
    "topic": "topic one",
    "style": "a quote",
    "seeds": ["s1"],
    "round": 2,
    "generator": "m",
    "prompt": "Write of it.",
}


def request(*, rows: int = 1, schema: str | None = None) -> Request:
    messages = (("user", "prompt"),)
    return Request(messages, 1.0, 0.9, 50, 7, schema=schema, tag=TAG | {"rows": rows})


def parse_text(
    text: str | None, finish_reason: str | None = "stop", min_words: int = 4
) -> Record | Rejected:
    reply = reply_to(request(), text, finish_reason=finish_reason)
    (row,) = parse_reply(reply, min_words=min_words)
    return row


def parse_json(text: str | None, finish_reason: str = "stop") -> list[Record | Rejected]:
    reply = reply_to(request(rows=3, schema="{}"), text, finish_reason=finish_reason)
    return parse_reply(reply, min_words=4)


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
        record = parse_text(text)
        assert isinstance(record, Record) and record.text == text

    def test_the_lineage_says_where_a_row_comes_from(self) -> None:
        record = parse_text("The price of iron rose again on Monday.")
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
    def test_is_rejected(self, text: str | None, finish_reason: str, check: str) -> None:
        rejected = parse_text(text, finish_reason)
        assert isinstance(rejected, Rejected) and rejected.check == check, rejected
        assert rejected.record.text == (text or "") and rejected.record.label == "metal", (
            "the raw text stays readable"
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
    def test_the_wrapping_is_removed(self, wrapped: str, text: str) -> None:
        record = parse_text(wrapped)
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
    def test_a_truncated_sentence_is_removed(self, text: str, whole: str) -> None:
        record = parse_text(text, "length")
        assert isinstance(record, Record) and record.text == whole
        kept = parse_text(text, "stop")
        assert isinstance(kept, Record) and kept.text == text

    @given(
        st.text(st.characters(codec=None, exclude_categories=()), max_size=80),
        st.sampled_from(["stop", "length", None]),
    )
    @settings(max_examples=200)
    def test_any_text_is_parsed_and_can_be_written(
        self, text: str, finish_reason: str | None
    ) -> None:
        row = parse_text(text, finish_reason)
        record = row if isinstance(row, Record) else row.record
        assert record.text.encode() is not None
        if isinstance(row, Record):
            assert len(split_words(row.text)) >= 4


GOOD = "The price of iron rose again on Monday."


def rows_json(*rows: Any) -> str:
    return json.dumps({"rows": list(rows)})


class TestJson:
    def test_several_rows_share_the_cost(self) -> None:
        rows = parse_json(
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

    def test_a_code_fence_is_removed(self) -> None:
        (row,) = parse_json("```json\n" + rows_json({"text": GOOD, "label": "metal"}) + "\n```")
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
    def test_is_rejected_and_no_label_is_guessed(
        self, text: str | None, finish_reason: str, check: str
    ) -> None:
        (row,) = parse_json(text, finish_reason)
        assert isinstance(row, Rejected) and row.check == check, row
        assert row.record.label == "metal" and row.reason and row.record.text.encode() is not None

    def test_more_rows_than_asked_for_are_rejected(self) -> None:
        rows = parse_json(rows_json(*({"text": f"{GOOD} {i}", "label": "metal"} for i in range(5))))
        assert [type(r) for r in rows] == [Record] * 3 + [Rejected] * 2
        assert {r.check for r in rows[3:] if isinstance(r, Rejected)} == {"unasked"}

    def test_the_requests_ask_for_so_many_rows_and_name_the_labels(self) -> None:
        requests = planned(project(format="json", rows_per_reply=4), {"metal": 10})
        assert sorted(r.tag["rows"] for r in requests) == [2, 4, 4]
        for r in requests:
            enum = json.loads(str(r.schema))["properties"]["rows"]["items"]["properties"]["label"][
                "enum"
            ]
            assert (
                enum == list(toy.LABELS) and f"Write {r.tag['rows']} of them" in r.messages[-1][1]
            )
            assert r.max_tokens == 110 * r.tag["rows"]


def test_texts_without_spaces_have_words_and_sentences() -> None:
    """In Chinese, a character counts as a word, and a sentence ends with its own full stop."""
    row = parse_text("股市今天上涨了。银行公布了利润。然后文章被截", "length", min_words=8)
    assert isinstance(row, Record) and row.text == "股市今天上涨了。银行公布了利润。"


def test_what_only_looks_like_a_placeholder_is_kept() -> None:
    text = "He said it was the largest peice [sic] of news that the town had seen, and then<br>he left."
    row = parse_text(text, min_words=8)
    assert isinstance(row, Record) and row.text == text
