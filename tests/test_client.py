"""The client against a scripted endpoint: it buys nothing twice, is patient with what may pass and stops at what won't."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import TransientError, UserError
from tasks.llm.client import FAILURES_IN_A_ROW, RETRY_AFTER_CAP, Client, Request
from tests.kit import scripted

Make = Callable[..., Client]


@pytest.fixture
def waits() -> list[float]:
    """The seconds that the client wanted to wait before a retry; nobody waits."""
    return []


@pytest.fixture
def make(tmp_path: Path, llm: Any, waits: list[float]) -> Make:
    def client(**changes: Any) -> Client:
        settings: dict[str, Any] = {
            "base_url": llm.url,
            "api_key": "k",
            "name": "scripted",
            "model": "scripted",
            "cache": tmp_path / "cache",
            "timeout": 5.0,
            "retries": 2,
            "concurrency": 1,
            "sleep": waits.append,
        }
        return Client(**{**settings, **changes})

    return client


def request(i: int = 0, **changes: Any) -> Request:
    values: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 50, "seed": i, "tag": i}
    return Request((("user", f"about topic one, take {i}"),), **{**values, **changes})


def raw_bytes(h: Any, body: bytes, promised: int | None = None) -> None:
    h.send_response(200)
    h.send_header("content-type", "application/json")
    h.send_header("content-length", str(promised or len(body)))
    h.end_headers()
    h.wfile.write(body)
    h.wfile.flush()
    h.connection.shutdown(socket.SHUT_RDWR)


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("[!.]*.json"))


class TestCache:
    def test_the_same_request_is_bought_once_across_clients(self, make: Make, llm: Any) -> None:
        first = list(make().ask_all([request(0), request(1)]))
        again = list(make().ask_all([request(1, tag="other"), request(0)]))
        assert len(llm.requests) == 2
        assert [r.bought for r in first] == [True, True] and [r.bought for r in again] == [False, False]
        assert {r.key: (r.text, r.finish_reason, r.prompt_tokens, r.completion_tokens) for r in first} == {
            r.key: (r.text, r.finish_reason, r.prompt_tokens, r.completion_tokens) for r in again
        }
        assert [r.request.tag for r in again] == ["other", 0], "the tag travels and is no part of the key"
        assert (first[0].prompt_tokens, first[0].completion_tokens) == (10, 20)

    def test_whatever_changes_the_answer_is_another_key(self, make: Make, llm: Any) -> None:
        base = request(0)
        list(make().ask_all([base]))
        others = [
            request(0, seed=9),
            request(0, temperature=0.5),
            request(0, top_p=0.5),
            request(0, max_tokens=51),
            request(1, seed=0),  # another prompt
        ]
        list(make().ask_all(others))
        list(make(model="another").ask_all([base]))
        list(make(name="elsewhere").ask_all([base]))
        assert len(llm.requests) == 1 + len(others) + 2

    def test_the_address_is_no_part_of_the_key(self, make: Make, llm: Any) -> None:
        """A local server has another port each time."""
        list(make().ask_all([request()]))
        (reply,) = make(base_url="http://127.0.0.1:9/v1").ask_all([request()])
        assert not reply.bought and len(llm.requests) == 1

    @pytest.mark.parametrize(
        "garbage",
        [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"text": "x"}'],
        ids=["empty", "torn", "binary", "list", "null", "short"],
    )
    def test_a_garbage_file_is_asked_anew(self, garbage: bytes, make: Make, llm: Any, tmp_path: Path) -> None:
        (first,) = make().ask_all([request()])
        (path,) = kept(tmp_path)
        path.write_bytes(garbage)
        (again,) = make().ask_all([request()])
        assert again.bought and again.text == first.text and len(llm.requests) == 2
        (third,) = make().ask_all([request()])
        assert not third.bought and third.text == first.text

    def test_a_lone_surrogate_does_not_break_it(self, make: Make, llm: Any, tmp_path: Path) -> None:
        llm.faults = [scripted.says("before \ud800 after")]
        replies = list(make().ask_all([request(0), request(1)]))
        assert len(replies) == len(kept(tmp_path)) == 2
        text = replies[0].text or ""
        assert text.startswith("before ") and text.endswith(" after") and text.encode()
        (again,) = make().ask_all([request(0)])
        assert not again.bought and again.text == text

    def test_what_was_bought_is_kept_when_the_caller_stops(self, make: Make, llm: Any, tmp_path: Path) -> None:
        replies = make().ask_all(map(request, range(20)))
        next(replies)
        replies.close()
        assert 1 <= len(llm.requests) <= 2
        assert len(kept(tmp_path)) == len(llm.requests)


class TestPatience:
    def test_retry_after_is_honoured_up_to_the_cap(self, make: Make, llm: Any, waits: list[float]) -> None:
        llm.faults = [scripted.status(429, retry_after="7"), scripted.status(429, retry_after="900")]
        (reply,) = make().ask_all([request()])
        assert reply.bought and waits == [7.0, RETRY_AFTER_CAP] and len(llm.requests) == 3

    @pytest.mark.parametrize("header", ["soon", "Wed, 21 Oct 2026 07:28:00 GMT", "-5", "nan", "inf"])
    def test_an_odd_retry_after_is_a_wait_within_the_cap(
        self, header: str, make: Make, llm: Any, waits: list[float]
    ) -> None:
        llm.faults = [scripted.status(429, retry_after=header)]
        assert len(list(make().ask_all([request()]))) == 1
        assert len(waits) == 1 and 0 <= waits[0] <= RETRY_AFTER_CAP

    def test_waits_grow(self, make: Make, llm: Any, waits: list[float]) -> None:
        llm.faults = [scripted.status(503)] * 4
        assert len(list(make(retries=4).ask_all([request()]))) == 1
        assert len(waits) == 4 and waits == sorted(waits) and waits[0] >= 0.5 and waits[3] >= 4

    @pytest.mark.parametrize(
        "fault",
        [
            scripted.status(500),
            scripted.status(503),
            scripted.status(408),
            scripted.html,
            scripted.raw("{ half"),
            scripted.raw('{"hello": 1}'),
            scripted.raw("null"),
            scripted.drop,
            lambda h: raw_bytes(h, b'{"choices', promised=400),
            lambda h: raw_bytes(h, json.dumps(scripted.completion("café"), ensure_ascii=False).encode("latin-1")),
        ],
        ids=["500", "503", "408", "html", "half-json", "other-json", "null", "dropped", "cut-body", "not-utf8"],
    )
    def test_a_passing_fault_is_tried_again(self, fault: Any, make: Make, llm: Any, waits: list[float]) -> None:
        llm.faults = [fault]
        replies = list(make().ask_all([request()]))
        assert [r.bought for r in replies] == [True] and replies[0].text
        assert len(llm.requests) == 2 and len(waits) == 1

    def test_a_silent_endpoint_is_given_up_after_the_timeout(self, make: Make, llm: Any) -> None:
        llm.faults = [lambda h: time.sleep(1.5)]
        (reply,) = make(timeout=0.3).ask_all([request()])
        assert reply.text and len(llm.requests) == 2

    def test_the_last_try_ends_it(self, make: Make, llm: Any, waits: list[float]) -> None:
        llm.always = scripted.status(500)
        with pytest.raises(TransientError, match=r"status 500.*kept"):
            list(make().ask_all([request()]))
        assert len(llm.requests) == 3 and len(waits) == 2


class TestStops:
    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (401, "generate.api_key_env"),
            (403, "generate.api_key_env"),
            (404, "generate.model"),
            (400, "scripted 400"),
            (422, "scripted 422"),
        ],
    )
    def test_what_no_retry_mends_stops_at_once(
        self, code: int, words: str, make: Make, llm: Any, waits: list[float]
    ) -> None:
        llm.always = scripted.status(code)
        with pytest.raises(UserError, match=rf"(?s){llm.url}.*{code}.*{words}|{llm.url}.*{words}.*{code}"):
            list(make().ask_all(map(request, range(20))))
        assert len(llm.requests) == 1 and not waits

    def test_five_failing_requests_in_a_row_end_the_round(self, make: Make, llm: Any, tmp_path: Path) -> None:
        llm.faults = [None, None]
        llm.always = scripted.status(500)
        replies = []
        with pytest.raises(TransientError, match="status 500"):
            for reply in make(retries=1).ask_all(map(request, range(40))):
                replies.append(reply)
        assert len(replies) == len(kept(tmp_path)) == 2
        sent = len(llm.requests)
        assert sent == 2 + FAILURES_IN_A_ROW * 2
        time.sleep(0.2)
        assert len(llm.requests) == sent

    def test_nothing_more_is_sent_when_many_are_in_flight(self, make: Make, llm: Any) -> None:
        """With the real wait between tries: whoever waits for a retry is woken and gives up."""
        llm.always = scripted.status(500, retry_after="20")
        began = time.monotonic()
        with pytest.raises(TransientError):
            list(make(retries=0, concurrency=4, sleep=None).ask_all(map(request, range(40))))
        assert len(llm.requests) <= FAILURES_IN_A_ROW + 4 and time.monotonic() - began < 10

    def test_a_waiting_retry_is_woken_by_the_end(self, make: Make, llm: Any) -> None:
        def two_faces(h: Any) -> None:  # the first waits 20 s for its retry, the second is refused
            h.send(429, {}, retry_after="20") if len(llm.requests) == 1 else (time.sleep(0.3), h.send(401, {}))

        llm.always = two_faces
        began = time.monotonic()
        with pytest.raises(UserError):
            list(make(concurrency=2, sleep=None).ask_all([request(0), request(1)]))
        assert time.monotonic() - began < 5 and len(llm.requests) == 2

    def test_one_lost_request_leaves_no_reply_and_no_error(self, make: Make, llm: Any) -> None:
        llm.faults = [None, None, scripted.status(500), scripted.status(500), scripted.status(500)]
        replies = list(make().ask_all(map(request, range(10))))
        assert sorted(r.request.tag for r in replies) == [0, 1, 3, 4, 5, 6, 7, 8, 9]
        assert len(llm.requests) == 9 + 3

    def test_failures_apart_do_not_add_up(self, make: Make, llm: Any) -> None:
        llm.faults = [scripted.status(500), None] * (FAILURES_IN_A_ROW + 1)
        replies = list(make(retries=0).ask_all(map(request, range(2 * FAILURES_IN_A_ROW + 2))))
        assert len(replies) == FAILURES_IN_A_ROW + 1

    def test_none_answered_is_an_error_however_few(self, make: Make, llm: Any) -> None:
        llm.always = scripted.html
        with pytest.raises(TransientError, match=r"not JSON.*/v1"):
            list(make(retries=0).ask_all([request()]))

    def test_the_same_client_works_again_afterwards(self, make: Make, llm: Any) -> None:
        client = make(retries=0)
        llm.faults = [scripted.status(500)]
        with pytest.raises(TransientError):
            list(client.ask_all([request()]))
        assert len(list(client.ask_all([request()]))) == 1

    def test_nothing_asked_is_nothing_sent(self, make: Make, llm: Any) -> None:
        assert list(make().ask_all([])) == [] and not llm.requests


class TestOddReplies:
    @pytest.mark.parametrize(
        ("fault", "text", "finish_reason"),
        [
            (scripted.says(None), None, "stop"),
            (scripted.says(""), "", "stop"),
            (scripted.says("Half a sen", "length"), "Half a sen", "length"),
            (scripted.says(None, "content_filter"), None, "content_filter"),
            (scripted.raw(json.dumps({**scripted.completion("x"), "choices": []})), None, None),
            (scripted.raw(json.dumps({**scripted.completion("x"), "choices": [{"index": 0}]})), None, None),
        ],
        ids=["null", "empty", "length", "content-filter", "no-choices", "no-message"],
    )
    def test_is_a_reply(self, fault: Any, text: str | None, finish_reason: str | None, make: Make, llm: Any) -> None:
        llm.faults = [fault]
        (reply,) = make().ask_all([request()])
        assert (reply.text, reply.finish_reason, len(llm.requests)) == (text, finish_reason, 1)
        (again,) = make().ask_all([request()])
        assert (again.text, again.finish_reason, again.bought) == (text, finish_reason, False)

    @pytest.mark.parametrize(
        "usage", [None, {}, {"prompt_tokens": None, "completion_tokens": "many"}], ids=["null", "empty", "words"]
    )
    def test_tokens_that_are_not_told_are_none(self, usage: Any, make: Make, llm: Any) -> None:
        llm.faults = [scripted.raw(json.dumps({**scripted.completion("x"), "usage": usage}))]
        (reply,) = make().ask_all([request()])
        assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("x", 0, 0)


def test_never_more_than_concurrency_in_flight(make: Make, llm: Any) -> None:
    lock, now, peak = threading.Lock(), 0, 0

    def slow(h: Any) -> None:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        h.send(200, scripted.completion("a text"))

    llm.always = slow
    assert len(list(make(concurrency=3).ask_all(map(request, range(18))))) == 18
    assert peak == 3


def test_what_is_sent(make: Make, llm: Any) -> None:
    list(make(model="m").ask_all([request(5)]))
    (body,) = llm.requests
    assert body["model"] == "m" and body["messages"] == [{"role": "user", "content": "about topic one, take 5"}]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (1.0, 0.9, 50, 5)
    assert "tag" not in body
