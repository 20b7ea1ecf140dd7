"""Proposed subtopics."""

from __future__ import annotations

from tasks.synthesise.propose import parse_list


def test_list_items_are_parsed_and_conversation_is_not() -> None:
    text = "Sure! Here are some:\n1. Steel mills\n2) **Gold mines**\n- topic one\n3. Steel mills.\nI hope this helps."
    assert parse_list(text, known=["Topic one"]) == ["Steel mills", "Gold mines"]
    assert (
        parse_list("I cannot.", known=[]) == [] and parse_list("1. " + "word " * 30, known=[]) == []
    )
