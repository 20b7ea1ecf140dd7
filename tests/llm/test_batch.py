"""Batches: half the price, and nothing is bought twice, whenever the process is killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import atomic
from tasks.errors import TransientError, UserError
from tasks.llm import batch as batch_module
from tasks.llm.budget import Ledger
from tasks.llm.client import Client
from tasks.llm.request import Request
from tasks.project import Budget, Endpoint, Price
from tests.kit import scripted
from tests.kit.batches import BatchServer

PRICE = Price(input=1000.0, output=2000.0)


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as s:
        yield s


def requests(n: int, label: str = "one") -> list[Request]:
    return [
        Request((("user", f"about topic one, {i}"),), 1.0, 0.9, 20, i, tag={"label": label})
        for i in range(n)
    ]


def client(
    url: str,
    home: Path,
    ledger: Ledger | None = None,
    *,
    naps: list[float] | None = None,
    **changes: Any,
) -> Client:
    async def nap(seconds: float) -> None:
        (naps if naps is not None else []).append(seconds)
        await asyncio.sleep(0)

    endpoint = Endpoint(
        **{"endpoint": url, "model": "m", "price": PRICE, "batch": True, "retries": 2, **changes}
    )
    ledger = ledger or Ledger(home / "ledger.jsonl", Budget())
    return Client(
        endpoint,
        url=url,
        key="k",
        model="m",
        cache=home / "cache",
        ledger=ledger,
        sleep=nap,
    )


def spent(ledger: Ledger) -> tuple[int, int, float, bool]:
    """What it has booked: requests, tokens, dollars, and whether all of it was measured."""
    s = ledger.spent
    return s.requests, s.tokens, s.usd, s.measured


def test_answers_as_one_by_one_at_half_the_price(
    server: BatchServer, llm: Any, tmp_path: Path
) -> None:
    naps: list[float] = []
    ledger = Ledger(tmp_path / "ledger.jsonl", Budget())
    with client(server.url, tmp_path, ledger, naps=naps) as c:
        replies = list(c.ask_all(requests(7)))
        assert c.outcome.lost == {} and c.outcome.stopped is None
    with client(llm.url, tmp_path / "other", batch=False) as c:
        singly = list(c.ask_all(requests(7)))
    assert {r.request.seed: r.text for r in replies} == {r.request.seed: r.text for r in singly}
    assert all(r.bought and r.measured and r.usd == pytest.approx(0.025) for r in replies)
    assert all(r.usd == pytest.approx(0.05) for r in singly)
    assert spent(ledger) == (7, 210, pytest.approx(7 * 0.025), True)
    assert len(server.batches) == 1 and naps == [batch_module.POLL_SECONDS] * 2
    assert server.calls.count("GET /batches") == 0, "a fresh batch need not be looked for"
    assert not list((tmp_path / "cache" / "batches").glob("*"))


def test_a_second_run_and_one_by_one_find_them(server: BatchServer, tmp_path: Path) -> None:
    with client(server.url, tmp_path) as c:
        list(c.ask_all(requests(5)))
    calls = len(server.calls)
    for batch in (True, False):
        with client(server.url, tmp_path, batch=batch) as c:
            assert [r.bought for r in c.ask_all(requests(5))] == [False] * 5
    assert len(server.calls) == calls
    with client(server.url, tmp_path) as c:
        assert sum(r.bought for r in c.ask_all([*requests(6), *requests(6, "two")])) == 1
    assert set(server.bought.values()) == {1} and len(server.bought) == 6


def killed_at(point: int, home: Path, url: str) -> bool:
    """Run in a child that dies at the `point`-th call, note or booking; False where it ended."""
    child = os.fork()
    if child:
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended in (0, -signal.SIGKILL), ended
        return ended != 0
    steps = itertools.count()

    def step() -> None:
        if next(steps) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(work: Any) -> Any:
        async def asynchronous(*a: Any, **k: Any) -> Any:
            step()
            found = await work(*a, **k)
            step()
            return found

        def plain(*a: Any, **k: Any) -> Any:
            step()
            found = work(*a, **k)
            step()
            return found

        return asynchronous if asyncio.iscoroutinefunction(work) else plain

    try:
        c = client(url, home)
        api, context = c._connection.api, c._connection
        for owner, name in [
            (api.files, "create"),
            (api.files, "content"),
            (api.batches, "create"),
            (api.batches, "retrieve"),
            (atomic, "write_json"),
            (context.ledger, "reserve"),
            (context.ledger, "settle"),
        ]:
            setattr(owner, name, dying(getattr(owner, name)))
        os._exit(0 if len(list(c.ask_all(requests(2)))) == 2 else 3)
    finally:
        os._exit(4)


@pytest.mark.slow
def test_a_kill_at_any_point_pays_nothing_twice(server: BatchServer, tmp_path: Path) -> None:
    """Before and after each call, each note and each booking: upload, create, poll, read, keep."""
    server.looks = 1
    for point in itertools.count():
        home, paid, begun = tmp_path / str(point), dict(server.bought), len(server.batches)
        uploads = server.calls.count("POST /files")
        if not killed_at(point, home, server.url):
            break
        ledger = Ledger(home / "ledger.jsonl", Budget())
        with client(server.url, home, ledger) as c:
            assert len(list(c.ask_all(requests(2)))) == 2
        assert len(server.batches) == begun + 1, point
        assert {k: n - paid.get(k, 0) for k, n in server.bought.items()} == dict.fromkeys(
            server.bought, 1
        ), point
        # killed before its note, an upload is repeated: the first one's upper bound stays booked
        if server.calls.count("POST /files") == uploads + 1 and point > 4:
            assert ledger.spent.tokens == 60, point
        assert ledger.spent.tokens >= 60 and ledger.spent.usd >= 2 * 0.025 - 1e-9
    assert point > 15


def test_a_larger_request_list_waits_for_the_batch_that_was_begun(
    server: BatchServer, tmp_path: Path
) -> None:
    server.looks = 3
    with client(server.url, tmp_path, naps=None) as c:
        c._connection.api.batches.retrieve = _refused  # type: ignore[method-assign]
        with pytest.raises(TransientError):
            list(c.ask_all(requests(4)))
    assert len(list((tmp_path / "cache" / "batches").glob("*.json"))) == 1
    ledger = Ledger(tmp_path / "ledger.jsonl", Budget())
    with client(server.url, tmp_path, ledger) as c:
        assert len(list(c.ask_all(requests(6)))) == 6
    assert len(server.batches) == 2 and set(server.bought.values()) == {1}
    assert spent(ledger) == (6, 180, pytest.approx(6 * 0.025), True)


async def _refused(*_: Any) -> Any:
    raise TransientError("the process ends here")


def test_closing_early_leaves_the_batch_to_a_later_run(server: BatchServer, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", Budget(requests=4))
    with client(server.url, tmp_path, ledger) as c:
        list(c.ask_all(requests(1)))
        server.looks = 10**6
        replies = c.ask_all(requests(4))
        assert not next(replies).bought
        while len(server.batches) < 2:
            time.sleep(0.01)
        replies.close()
        bound = sum(r.max_prompt_tokens + r.max_tokens for r in requests(4)[1:])
        assert (
            ledger.spent.requests == 4
            and ledger.spent.tokens == 30 + bound
            and not ledger.spent.measured
        )
        server.batches["batch_1"]["left"] = 0
        assert sum(r.bought for r in c.ask_all(requests(4))) == 3
    assert spent(ledger) == (4, 120, pytest.approx(0.1), True)
    assert len(server.batches) == 2 and set(server.bought.values()) == {1}


@pytest.mark.parametrize("ends", ["expired", "cancelled", "failed"])
def test_a_batch_that_ends_early_keeps_what_it_answered(
    ends: str, server: BatchServer, tmp_path: Path
) -> None:
    server.ends = ends
    server.answers = lambda b: (200, scripted.completion("a text")) if b["seed"] < 2 else None
    ledger = Ledger(tmp_path / "ledger.jsonl", Budget())
    with client(server.url, tmp_path, ledger) as c:
        assert len(list(c.ask_all(requests(5)))) == 2 and c.outcome.lost == {"one": 3}
    assert spent(ledger) == (5, 60, pytest.approx(0.05), True), "what is unanswered is not billed"
    server.ends, server.answers = "completed", lambda b: (200, scripted.completion("a text"))
    with client(server.url, tmp_path, ledger) as c:
        assert sum(r.bought for r in c.ask_all(requests(5))) == 3
    assert set(server.bought.values()) == {1}


def test_requests_that_failed_are_lost_and_not_billed(server: BatchServer, tmp_path: Path) -> None:
    server.answers = lambda b: (
        (200, scripted.completion("x")) if b["seed"] else (400, {"error": {"message": "no"}})
    )
    ledger = Ledger(tmp_path / "ledger.jsonl", Budget())
    with client(server.url, tmp_path, ledger) as c:
        assert len(list(c.ask_all(requests(3)))) == 2 and c.outcome.lost == {"one": 1}
    assert ledger.spent.tokens == 60


def test_nothing_answered_is_an_error_that_says_why(server: BatchServer, tmp_path: Path) -> None:
    server.ends, server.answers, server.message = (
        "failed",
        lambda b: None,
        "the model has no batches",
    )
    with (
        client(server.url, tmp_path) as c,
        pytest.raises(TransientError, match=r"batch_0.*failed.*has no batches"),
    ):
        list(c.ask_all(requests(3)))


def test_the_budget_is_never_passed_and_used_by_several_batches(
    server: BatchServer, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", Budget(tokens=1000))
    with client(server.url, tmp_path, ledger) as c:
        replies = list(c.ask_all(requests(100)))
        assert "generate.budget.tokens" in str(c.outcome.stopped) and c.outcome.lost == {
            "one": 100 - len(replies)
        }
    assert len(server.batches) > 1 and 800 < 30 * sum(server.bought.values()) <= 1000
    assert ledger.spent.tokens == 30 * len(replies)


def test_passing_faults_are_tried_again(server: BatchServer, tmp_path: Path) -> None:
    server.faults = [
        scripted.status(500),
        None,  # the upload
        scripted.drop,
        scripted.status(429, retry_after="7"),
        None,  # no such batch yet
        None,  # the batch is created
        scripted.drop,
    ]
    naps: list[float] = []
    with client(server.url, tmp_path, naps=naps) as c:
        assert len(list(c.ask_all(requests(3)))) == 3
    assert 7.0 in naps and len(server.batches) == 1


def test_a_create_whose_answer_was_lost_is_found(server: BatchServer, tmp_path: Path) -> None:
    create = server.create

    def lost(body: dict[str, Any]) -> dict[str, Any]:
        create(body)
        server.create = create  # type: ignore[method-assign]
        raise BrokenPipeError

    server.create = lost  # type: ignore[method-assign]
    with client(server.url, tmp_path) as c:
        assert len(list(c.ask_all(requests(3)))) == 3
    assert len(server.batches) == 1


@pytest.mark.parametrize(
    ("code", "words"), [(401, "api_key_env"), (404, "generate.batch"), (400, "scripted 400")]
)
def test_what_no_retry_mends(code: int, words: str, server: BatchServer, tmp_path: Path) -> None:
    server.always = scripted.status(code)
    with client(server.url, tmp_path) as c, pytest.raises(UserError, match=words):
        list(c.ask_all(requests(3)))
    assert len(server.calls) == 1


def test_garbage_in_the_files_is_left_out(server: BatchServer, tmp_path: Path) -> None:
    finish = server.finish

    def garbled(batch: dict[str, Any]) -> None:
        finish(batch)
        name = batch["output_file_id"]
        lines = server.files[name].splitlines()
        odd = [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"custom_id": "unknown", "response": {"status_code": 200, "body": {}}}',
        ]
        server.files[name] = b"\n".join(
            [*odd, *lines[:2], lines[2].replace(b'"choices"', b'"chioces"')]
        )

    server.finish = garbled  # type: ignore[method-assign]
    ledger = Ledger(tmp_path / "ledger.jsonl", Budget())
    with client(server.url, tmp_path, ledger) as c:
        replies = list(c.ask_all(requests(3)))
    assert sorted(r.text is None for r in replies) == [False, False, True]
    assert not ledger.spent.measured, "an answer that can't be read was billed"


def test_a_large_list_is_cut_into_batches(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "MAX_REQUESTS", 4)
    with client(server.url, tmp_path) as c:
        assert len(list(c.ask_all(requests(10)))) == 10
    assert len(server.batches) == 3
