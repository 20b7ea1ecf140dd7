"""The client against a scripted endpoint: caching, retries, stops, deferred labels and deadlines."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import TransientError, UserError
from tasks.llm.budget import Ledger
from tasks.llm.client import Client
from tasks.llm.parallel import FIRST_FAILURES
from tasks.llm.request import Reply, Request
from tasks.llm.run import MAX_RETRY_AFTER
from tasks.project import Budget, Endpoint, Price
from tests.kit import scripted

Make = Callable[..., Client]


@pytest.fixture
def waits() -> list[float]:
    """The seconds that the client asked to wait before a retry; no time passes."""
    return []


@pytest.fixture
def make(tmp_path: Path, llm: scripted.Server, waits: list[float]) -> Iterator[Make]:
    """A client of the scripted server with one request at a time; settings of the endpoint or the
    client may be changed.
    """
    with ExitStack() as stack:

        async def no_wait(seconds: float) -> None:
            waits.append(seconds)

        def client(**changes: Any) -> Client:
            arguments: dict[str, Any] = {
                "url": llm.url,
                "key": "k",
                "model": "scripted",
                "cache": tmp_path / "cache",
                "ledger": Ledger(tmp_path / "ledger.jsonl", Budget()),
                "sleep": no_wait,
            }
            arguments |= {name: changes.pop(name) for name in list(changes) if name in arguments}
            settings = {
                "endpoint": llm.url,
                "model": "scripted",
                "timeout_seconds": 5.0,
                "retries": 2,
                "concurrency": 1,
            }
            return stack.enter_context(Client(Endpoint(**settings | changes), **arguments))

        yield client


def request(i: int = 0, **changes: Any) -> Request:
    values: dict[str, Any] = {
        "temperature": 1.0,
        "top_p": 0.9,
        "max_tokens": 50,
        "seed": i,
        "tag": {"label": "one", "i": i},
    }
    return Request((("user", f"about topic one, take {i}"),), **{**values, **changes})


def numbers(replies: Iterable[Reply]) -> list[int]:
    return sorted(r.request.tag["i"] for r in replies)


def raw_bytes(h: Any, body: bytes, promised: int | None = None) -> None:
    h.send_response(200)
    h.send_header("content-type", "application/json")
    h.send_header("content-length", str(promised or len(body)))
    h.end_headers()
    h.wfile.write(body)
    h.wfile.flush()
    h.connection.shutdown(socket.SHUT_RDWR)


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("[!.]*.json"))


class TestCache:
    def test_the_same_request_is_bought_once_across_clients(self, make: Make, llm: Any) -> None:
        first = list(make().ask_all([request(0), request(1)]))
        again = list(make().ask_all([request(1, tag={"label": "other"}), request(0)]))
        assert len(llm.requests) == 2
        assert [r.bought for r in first] == [True, True] and [r.bought for r in again] == [
            False,
            False,
        ]
        assert {
            r.key: (r.text, r.finish_reason, r.prompt_tokens, r.completion_tokens) for r in first
        } == {r.key: (r.text, r.finish_reason, r.prompt_tokens, r.completion_tokens) for r in again}
        assert [r.request.tag for r in again] == [{"label": "other"}, {"label": "one", "i": 0}], (
            "the tag is not part of the key"
        )
        assert (first[0].prompt_tokens, first[0].completion_tokens) == (10, 20)

    def test_what_changes_the_answer_changes_the_key(self, make: Make, llm: Any) -> None:
        base = request(0)
        list(make().ask_all([base]))
        others = [
            request(0, seed=9),
            request(0, temperature=0.5),
            request(0, top_p=0.5),
            request(0, max_tokens=51),
            request(1, seed=0),  # another prompt
            request(0, attempt=1),
            request(0, schema='{"type":"object"}'),
        ]
        list(make().ask_all(others))
        list(make(model="another").ask_all([base]))
        list(make(endpoint="https://elsewhere/v1").ask_all([base]))
        assert len(llm.requests) == 1 + len(others) + 2

    def test_the_address_is_not_part_of_the_key(self, make: Make, llm: Any) -> None:
        """A local server has another port each time."""
        list(make().ask_all([request()]))
        (reply,) = make(url="http://127.0.0.1:9/v1").ask_all([request()])
        assert not reply.bought and len(llm.requests) == 1

    @pytest.mark.parametrize(
        "damaged",
        [
            b"",
            b"{",
            b"\xff\xfe",
            b"[]",
            b"null",
            b'{"text": "x"}',
            b'{"text":"x","finish_reason":"stop","prompt_tokens":1,"completion_tokens":1}',
        ],
        ids=["empty", "torn", "binary", "list", "null", "short", "without-cost"],
    )
    def test_a_damaged_file_is_asked_for_again(
        self, damaged: bytes, make: Make, llm: Any, tmp_path: Path
    ) -> None:
        (first,) = make().ask_all([request()])
        (path,) = cached(tmp_path)
        path.write_bytes(damaged)
        (again,) = make().ask_all([request()])
        assert again.bought and again.text == first.text and len(llm.requests) == 2
        (third,) = make().ask_all([request()])
        assert not third.bought and third.text == first.text

    def test_a_lone_surrogate_is_replaced(self, make: Make, llm: Any, tmp_path: Path) -> None:
        llm.faults = [scripted.says("before \ud800 after")]
        replies = list(make().ask_all([request(0), request(1)]))
        assert len(replies) == len(cached(tmp_path)) == 2
        text = replies[0].text or ""
        assert text.startswith("before ") and text.endswith(" after") and text.encode()
        (again,) = make().ask_all([request(0)])
        assert not again.bought and again.text == text

    def test_replies_are_kept_when_the_caller_stops(
        self, make: Make, llm: Any, tmp_path: Path
    ) -> None:
        ledger = Ledger(tmp_path / "ledger.jsonl", Budget())
        client = make(ledger=ledger)
        replies = client.ask_all(map(request, range(200)))
        first = next(replies)
        replies.close()
        assert len(llm.requests) < 10, "nothing is bought far ahead of a slow caller"
        assert first.key in {p.stem for p in cached(tmp_path)}
        assert len(llm.requests) - len(cached(tmp_path)) <= 1, "all but what was in flight"
        assert 0 <= ledger.spent.requests - len(llm.requests) <= 1

    def test_the_caller_can_stop_while_a_request_hangs(self, make: Make, llm: Any) -> None:
        llm.faults = [None]
        llm.always = scripted.hang
        replies = make(timeout_seconds=25.0).ask_all(map(request, range(5)))
        next(replies)
        began = time.monotonic()
        replies.close()
        assert time.monotonic() - began < 10

    def test_duplicates_in_flight_are_bought_once(self, make: Make, llm: Any) -> None:
        llm.delay = 0.05
        replies = list(
            make(concurrency=4).ask_all(
                [request(0), request(0), request(1), request(0, tag={"i": 9})]
            )
        )
        assert len(llm.requests) == 2 and sorted(r.bought for r in replies) == [
            False,
            False,
            True,
            True,
        ]
        assert len({r.text for r in replies if r.request.seed == 0}) == 1


class TestRetries:
    def test_retry_after_is_honoured(self, make: Make, llm: Any, waits: list[float]) -> None:
        llm.faults = [
            scripted.status(429, retry_after="7"),
            scripted.status(503, retry_after="0.5"),
        ]
        (reply,) = make().ask_all([request()])
        assert reply.bought and waits == [7.0, 0.5] and len(llm.requests) == 3

    def test_retry_after_may_be_a_date(self, make: Make, llm: Any, waits: list[float]) -> None:
        def busy(h: Any) -> None:
            h.send(429, {}, retry_after=formatdate(time.time() + 9, usegmt=True))

        llm.faults = [busy, scripted.status(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")]
        assert len(list(make().ask_all([request()]))) == 1
        assert 8 <= waits[0] <= 10 and waits[1] == 0

    @pytest.mark.parametrize(
        "header", ["soon", "Wed, 99 Oct 2026 07:28:00 GMT", "-5", "nan", "inf", ""]
    )
    def test_an_invalid_retry_after_is_a_wait_within_the_cap(
        self, header: str, make: Make, llm: Any, waits: list[float]
    ) -> None:
        llm.faults = [scripted.status(429, retry_after=header)]
        assert len(list(make().ask_all([request()]))) == 1
        assert len(waits) == 1 and 0 <= waits[0] <= MAX_RETRY_AFTER

    def test_backoff_grows(self, make: Make, llm: Any, waits: list[float]) -> None:
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
            lambda h: raw_bytes(
                h, json.dumps(scripted.completion("café"), ensure_ascii=False).encode("latin-1")
            ),
        ],
        ids=[
            "500",
            "503",
            "408",
            "html",
            "half-json",
            "other-json",
            "null",
            "dropped",
            "cut-body",
            "not-utf8",
        ],
    )
    def test_a_transient_error_is_retried(
        self, fault: Any, make: Make, llm: Any, waits: list[float]
    ) -> None:
        llm.faults = [fault]
        replies = list(make().ask_all([request()]))
        assert [r.bought for r in replies] == [True] and replies[0].text
        assert len(llm.requests) == 2 and len(waits) == 1

    def test_a_silent_endpoint_times_out(self, make: Make, llm: Any) -> None:
        llm.faults = [lambda h: time.sleep(1.5)]
        (reply,) = make(timeout_seconds=0.3).ask_all([request()])
        assert reply.text and len(llm.requests) == 2

    def test_the_last_retry_is_the_last(self, make: Make, llm: Any, waits: list[float]) -> None:
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
    def test_what_no_retry_fixes_stops_at_once(
        self, code: int, words: str, make: Make, llm: Any, waits: list[float]
    ) -> None:
        llm.always = scripted.status(code)
        with pytest.raises(
            UserError, match=rf"(?s){llm.url}.*{code}.*{words}|{llm.url}.*{words}.*{code}"
        ):
            list(make().ask_all(map(request, range(20))))
        assert len(llm.requests) == 1 and not waits

    def test_five_failing_requests_at_the_start_end_the_run(self, make: Make, llm: Any) -> None:
        llm.always = scripted.status(500)
        client = make(retries=1)
        with pytest.raises(TransientError, match="status 500"):
            list(client.ask_all(map(request, range(40))))
        sent = len(llm.requests)
        assert sent == FIRST_FAILURES * 2
        time.sleep(0.2)
        assert len(llm.requests) == sent

    def test_nothing_more_is_sent_with_many_in_flight(self, make: Make, llm: Any) -> None:
        """With real waits between attempts: those that wait for a retry are woken and give up."""
        llm.always = scripted.status(500, retry_after="20")
        began = time.monotonic()
        with pytest.raises(TransientError):
            list(
                make(retries=0, concurrency=4, sleep=asyncio.sleep).ask_all(map(request, range(40)))
            )
        assert len(llm.requests) <= FIRST_FAILURES + 4 and time.monotonic() - began < 10

    def test_a_waiting_retry_is_woken_by_the_end(self, make: Make, llm: Any) -> None:
        def respond(h: Any) -> None:  # the first waits 20 s for its retry, the second is refused
            h.send(429, {}, retry_after="20") if len(llm.requests) == 1 else (
                time.sleep(0.3),
                h.send(401, {}),
            )

        llm.always = respond
        began = time.monotonic()
        with pytest.raises(UserError):
            list(make(concurrency=2, sleep=asyncio.sleep).ask_all([request(0), request(1)]))
        assert time.monotonic() - began < 5 and len(llm.requests) == 2

    def test_one_lost_request_is_no_error(self, make: Make, llm: Any) -> None:
        llm.faults = [None, None, scripted.status(500), scripted.status(500), scripted.status(500)]
        client = make()
        replies = list(client.ask_all(map(request, range(10))))
        assert numbers(replies) == [0, 1, 3, 4, 5, 6, 7, 8, 9]
        assert len(llm.requests) == 9 + 3
        assert client.outcome.lost == {"one": 1} and client.outcome.stopped is None

    def test_the_circuit_breaker_stops_a_run_in_which_over_half_fail(
        self, make: Make, llm: Any, tmp_path: Path
    ) -> None:
        llm.faults = [None] * 4
        llm.always = scripted.status(500)
        client = make(retries=1)
        replies = list(client.ask_all(map(request, range(40))))
        assert numbers(replies) == [0, 1, 2, 3] and len(cached(tmp_path)) == 4
        assert len(llm.requests) == 4 + 6 * 2, "six of ten"
        assert client.outcome.lost == {"one": 36}
        assert client.outcome.stopped and "6 of the last 10" in client.outcome.stopped

    def test_the_circuit_breaker_considers_the_last_twenty(self, make: Make, llm: Any) -> None:
        llm.faults = [None] * 30
        llm.always = scripted.status(500)
        client = make(retries=0)
        assert len(list(client.ask_all(map(request, range(80))))) == 30
        assert len(llm.requests) == 30 + 11 and "11 of the last 20" in str(client.outcome.stopped)

    def test_half_failing_goes_on(self, make: Make, llm: Any) -> None:
        llm.faults = [None, scripted.status(500)] * 20
        client = make(retries=0)
        assert len(list(client.ask_all(map(request, range(40))))) == 20
        assert client.outcome.stopped is None and client.outcome.lost == {"one": 20}

    def test_replies_from_the_cache_do_not_count_as_answers_of_the_endpoint(
        self, make: Make, llm: Any
    ) -> None:
        list(make().ask_all(map(request, range(8))))
        llm.always = scripted.status(500)
        replies = []
        with pytest.raises(TransientError):
            for reply in make(retries=0).ask_all(map(request, range(40))):
                replies.append(reply)
        assert numbers(replies) == list(range(8)) and len(llm.requests) == 8 + FIRST_FAILURES

    def test_no_answer_at_all_is_an_error(self, make: Make, llm: Any) -> None:
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


class TestUnusualReplies:
    @pytest.mark.parametrize(
        ("fault", "text", "finish_reason"),
        [
            (scripted.says(None), None, "stop"),
            (scripted.says(""), "", "stop"),
            (scripted.says("Half a sen", "length"), "Half a sen", "length"),
            (scripted.says(None, "content_filter"), None, "content_filter"),
            (scripted.raw(json.dumps({**scripted.completion("x"), "choices": []})), None, None),
            (
                scripted.raw(json.dumps({**scripted.completion("x"), "choices": [{"index": 0}]})),
                None,
                None,
            ),
        ],
        ids=["null", "empty", "length", "content-filter", "no-choices", "no-message"],
    )
    def test_is_a_reply(
        self, fault: Any, text: str | None, finish_reason: str | None, make: Make, llm: Any
    ) -> None:
        llm.faults = [fault]
        (reply,) = make().ask_all([request()])
        assert (reply.text, reply.finish_reason, len(llm.requests)) == (text, finish_reason, 1)
        (again,) = make().ask_all([request()])
        assert (again.text, again.finish_reason, again.bought) == (text, finish_reason, False)

    @pytest.mark.parametrize(
        "usage",
        [None, {}, {"prompt_tokens": None, "completion_tokens": "many"}],
        ids=["null", "empty", "words"],
    )
    def test_tokens_that_are_not_reported_have_an_upper_bound(
        self, usage: Any, make: Make, llm: Any, tmp_path: Path
    ) -> None:
        text = "a text of some words"
        llm.faults = [scripted.raw(json.dumps({**scripted.completion(text), "usage": usage}))]
        ledger = Ledger(tmp_path / "ledger.jsonl", Budget())
        (reply,) = make(ledger=ledger, price=Price(input=1.0, output=2.0)).ask_all([request()])
        assert reply.text == text and not reply.measured
        assert reply.prompt_tokens > len(
            "about topic one, take 0"
        ) and reply.completion_tokens == len(text)
        assert reply.usd == pytest.approx((reply.prompt_tokens + 2 * reply.completion_tokens) / 1e6)
        assert (
            ledger.spent.tokens == reply.prompt_tokens + reply.completion_tokens
            and not ledger.spent.measured
        )


def test_what_is_sent(make: Make, llm: Any) -> None:
    list(make(model="m").ask_all([request(5)]))
    (body,) = llm.requests
    assert body["model"] == "m" and body["messages"] == [
        {"role": "user", "content": "about topic one, take 5"}
    ]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (
        1.0,
        0.9,
        50,
        5,
    )
    assert "tag" not in body
    assert "response_format" not in body


def test_a_schema_is_sent_as_the_response_format(make: Make, llm: Any) -> None:
    list(make().ask_all([request(schema='{"type":"object"}')]))
    assert llm.requests[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "strict": True, "schema": {"type": "object"}},
    }


class TestConcurrency:
    def test_it_rises_to_the_limit_and_no_further(self, make: Make, llm: Any) -> None:
        llm.delay = 0.03
        assert len(list(make(concurrency=9).ask_all(map(request, range(120))))) == 120
        assert 4 < llm.peak <= 9

    def test_it_starts_low(self, make: Make, llm: Any) -> None:
        llm.delay = 0.1
        assert len(list(make(concurrency=64).ask_all(map(request, range(4))))) == 4
        list(make(concurrency=64).ask_all(map(request, range(10, 17))))
        assert llm.peak == 4

    def test_the_local_server_has_a_slot_for_each_at_once(self, make: Make, llm: Any) -> None:
        llm.delay = 0.2
        assert len(list(make(endpoint="local", concurrency=7).ask_all(map(request, range(7))))) == 7
        assert llm.peak == 7

    def test_it_stays_near_what_the_endpoint_can_take(self, make: Make, llm: Any) -> None:
        """An endpoint that refuses what is above six at once."""
        at_once: list[int] = []

        def six(h: Any) -> None:
            at_once.append(llm.now)
            time.sleep(0.02)
            h.send(429, {}, retry_after="0") if at_once[-1] > 6 else h.send(
                200, scripted.completion("a text")
            )

        llm.always = six
        replies = list(make(concurrency=64, retries=20).ask_all(map(request, range(200))))
        assert len(replies) == 200
        late = at_once[len(at_once) // 2 :]
        assert sum(late) / len(late) < 12, "without the decrease, 64 would be in flight"
        assert llm.peak < 64 and max(late) >= 4


class TestDeferredLabels:
    """Where Retry-After is above the cap, the label comes after the others."""

    @staticmethod
    def of(label: str, n: int) -> list[Request]:
        return [
            request(i, tag={"label": label, "i": i}, temperature=0.1 * len(label)) for i in range(n)
        ]

    @staticmethod
    def busy_for(label: str, seconds: str, times: int) -> Any:
        left = [times]

        def answer(h: Any) -> None:
            if h.body["temperature"] == pytest.approx(0.1 * len(label)) and left[0]:
                left[0] -= 1
                h.send(429, {}, retry_after=seconds)
            else:
                h.send(200, scripted.completion("a text of a label"))

        return answer

    def test_its_requests_come_after_the_others(
        self, make: Make, llm: Any, waits: list[float]
    ) -> None:
        llm.always = self.busy_for("ab", "90", times=1)
        client = make()
        replies = list(client.ask_all([*self.of("ab", 4), *self.of("abc", 4)]))
        assert [r.request.label for r in replies] == ["abc"] * 4 + ["ab"] * 4
        assert len(waits) == 1 and 80 < waits[0] <= 90 and len(llm.requests) == 9
        assert client.outcome.lost == {} and client.outcome.deferred == {}

    def test_beyond_the_deadline_the_label_is_lost_with_the_reason(
        self, make: Make, llm: Any, waits: list[float]
    ) -> None:
        llm.always = self.busy_for("ab", "900", times=10**6)
        client = make(deadline_seconds=600.0)
        replies = list(client.ask_all([*self.of("ab", 4), *self.of("abc", 4)]))
        assert Counter(r.request.label for r in replies) == {"abc": 4} and waits == []
        assert client.outcome.lost == {"ab": 4} and list(client.outcome.deferred) == ["ab"]
        assert "900" in client.outcome.deferred["ab"] and "600" in client.outcome.deferred["ab"]
        assert len(llm.requests) == 5, "after one refusal the others are not sent"
        assert client.outcome.stopped is None

    def test_waits_add_up_to_the_deadline(self, make: Make, llm: Any, waits: list[float]) -> None:
        llm.always = self.busy_for("ab", "200", times=10**6)
        client = make(deadline_seconds=700.0, retries=20)
        replies = list(client.ask_all([*self.of("ab", 50), *self.of("abc", 4)]))
        assert Counter(r.request.label for r in replies) == {"abc": 4} and client.outcome.lost == {
            "ab": 50
        }
        assert len(waits) == 3 and "800" in client.outcome.deferred["ab"]

    def test_a_date_counts_too_and_no_label_is_a_label(
        self, make: Make, llm: Any, waits: list[float]
    ) -> None:
        llm.faults = [
            lambda h: h.send(429, {}, retry_after=formatdate(time.time() + 120, usegmt=True))
        ]
        client = make()
        assert len(list(client.ask_all([request(i, tag={}) for i in range(3)]))) == 3
        assert len(waits) == 1 and 110 < waits[0] <= 121 and client.outcome.lost == {}

    def test_all_deferred_is_no_error(self, make: Make, llm: Any) -> None:
        llm.always = scripted.status(429, retry_after="3600")
        client = make()
        assert list(client.ask_all(self.of("ab", 3))) == []
        assert (
            client.outcome.lost == {"ab": 3}
            and "3600" in client.outcome.deferred["ab"]
            and len(llm.requests) == 1
        )

    def test_another_label_that_fails_is_an_error(self, make: Make, llm: Any) -> None:
        llm.faults = [scripted.status(429, retry_after="3600")]
        llm.always = scripted.status(500)
        with pytest.raises(TransientError, match="500"):
            list(make().ask_all([*self.of("ab", 3), *self.of("abc", 1)]))


class TestDeadline:
    def test_a_wait_beyond_the_deadline_is_not_begun(
        self, make: Make, llm: Any, waits: list[float]
    ) -> None:
        llm.faults = [None, scripted.status(429, retry_after="20")]
        client = make(deadline_seconds=10.0)
        replies = list(client.ask_all(map(request, range(3))))
        assert numbers(replies) == [0, 2] and waits == [] and client.outcome.lost == {"one": 1}

    def test_it_limits_all_attempts_together(self, make: Make, llm: Any) -> None:
        attempts: list[float] = []

        def drip(h: Any) -> None:  # one byte at a time: no single read takes long
            attempts.append(time.monotonic())
            h.send_response(200)
            h.send_header("content-length", "400")
            h.end_headers()
            for _ in range(60):
                h.wfile.write(b" ")
                h.wfile.flush()
                time.sleep(0.05)

        llm.faults = [None]
        llm.always = drip
        client = make(timeout_seconds=0.3, deadline_seconds=3.0, retries=20)
        began = time.monotonic()
        replies = list(client.ask_all([request(0), request(1)]))
        assert numbers(replies) == [0] and client.outcome.lost == {"one": 1}
        assert 2 <= len(attempts) <= 6 and time.monotonic() - began < 10


def test_the_client_keeps_to_the_rate_limit(make: Make, llm: Any) -> None:
    began = time.monotonic()
    assert (
        len(list(make(requests_per_minute=600, concurrency=8).ask_all(map(request, range(12)))))
        == 12
    )
    assert time.monotonic() - began >= 11 * 0.1
