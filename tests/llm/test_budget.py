"""No limit is exceeded by what the server counts: in parallel, with failures, kills, clients."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.llm.budget import BudgetExhausted, Estimate, Ledger, Spent, cost_usd, estimate_usage
from tasks.llm.client import Client
from tasks.llm.request import Request
from tasks.project import Budget, Endpoint, Price
from tests.kit import scripted

PRICE = Price(input=100.0, output=400.0)

ROOT = Path(__file__).resolve().parents[2]


class Meter:
    """A server that bills each attempt, with an unpredictable number of tokens."""

    def __init__(
        self, llm: scripted.Server, seed: int = 0, *, faults: float = 0.0, hang: float = 0.6
    ) -> None:
        self.lock, self.rng, self.faults, self.hang = (
            threading.Lock(),
            random.Random(seed),
            faults,
            hang,
        )
        self.requests = self.prompt = self.completion = 0
        llm.always = self

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    @property
    def usd(self) -> float:
        return cost_usd(PRICE, self.prompt, self.completion)

    def __call__(self, h: Any) -> None:
        body = h.body
        with self.lock:
            self.requests += 1
            kind = self.rng.choice(["500", "429", "hang", "drop", "html", "no-usage"])
            kind = kind if self.rng.random() < self.faults else "good"
            prompt = self.rng.randint(1, len(body["messages"][0]["content"]))
            completion = self.rng.randint(0, body["max_tokens"])
            if kind not in {"500", "429"}:  # an error status is not billed
                self.prompt, self.completion = self.prompt + prompt, self.completion + completion
        time.sleep(0.002)
        answer = scripted.completion("x " * completion)
        answer["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion}
        if kind in {"500", "429"}:
            h.send(int(kind), {}, retry_after="0.01")
        elif kind == "hang":
            time.sleep(self.hang)
            h.send(200, answer)
        elif kind == "drop":
            scripted.drop(h)
        elif kind == "html":
            scripted.html(h)
        else:
            h.send(200, answer if kind == "good" else {**answer, "usage": None})


def requests(n: int, label: str = "one", first: int = 0) -> list[Request]:
    messages = [
        (("user", f"about topic one, take {i} " + "and more " * (i % 7)),)
        for i in range(first, first + n)
    ]
    return [
        Request(m, 1.0, 0.9, 20 + i % 50, i, tag={"label": label}) for i, m in enumerate(messages)
    ]


def client(llm: scripted.Server, home: Path, ledger: Ledger, **changes: Any) -> Client:
    async def short(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))

    settings = {"concurrency": 64, "retries": 3, "timeout_seconds": 0.4, "price": PRICE, **changes}
    endpoint = Endpoint(**{"endpoint": llm.url, "model": "scripted"} | settings)
    return Client(
        endpoint,
        url=llm.url,
        key="k",
        model="m",
        cache=home / "cache",
        ledger=ledger,
        sleep=short,
    )


def spent(ledger: Ledger) -> tuple[int, int, float, bool]:
    """What it has booked: requests, tokens, dollars, and whether all of it was measured."""
    s = ledger.spent
    return s.requests, s.tokens, s.usd, s.measured


LIMITS = {"requests": 90, "tokens": 9000, "usd": 1.5}


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.mark.parametrize("faults", [0.0, 0.4], ids=["good", "faulty"])
@pytest.mark.parametrize("limit", ["requests", "tokens", "usd"])
class TestNeverPassed:
    def test_by_64_in_parallel(
        self, limit: str, faults: float, llm: Any, tmp_path: Path, book: Path
    ) -> None:
        meter, ledger = Meter(llm, faults=faults), Ledger(book, Budget(**{limit: LIMITS[limit]}))
        with client(llm, tmp_path, ledger) as c:
            replies = list(c.ask_all(requests(600)))
            outcome = c.outcome
        used = getattr(meter, limit)
        assert (0.25 if faults else 0.5) * LIMITS[limit] < used <= LIMITS[limit] + 1e-9, (
            "and most of it is used"
        )
        assert getattr(ledger.spent, limit) <= LIMITS[limit] + 1e-9
        assert outcome.stopped and f"generate.budget.{limit}" in outcome.stopped
        assert outcome.lost == {"one": 600 - len(replies)} and len(replies) > 10
        assert ledger.spent.requests == meter.requests
        if not faults:
            assert spent(ledger) == (meter.requests, meter.tokens, pytest.approx(meter.usd), True)
        else:
            assert ledger.spent.tokens >= meter.tokens and ledger.spent.usd >= meter.usd - 1e-9
            assert not ledger.spent.measured

    def test_by_several_clients_and_restarts(
        self, limit: str, faults: float, llm: Any, tmp_path: Path, book: Path
    ) -> None:
        meter, budget = Meter(llm, faults=faults), Budget(**{limit: LIMITS[limit]})
        for i in range(3):
            ledger, stopped = Ledger(book, budget), []

            def ask(
                name: str, ledger: Ledger = ledger, i: int = i, stopped: list[Any] = stopped
            ) -> None:
                with client(
                    llm, tmp_path, ledger, endpoint=f"https://{name}/v1", concurrency=20
                ) as c:
                    replies = c.ask_all(requests(40 if i == 0 else 300, first=100 * i))
                    for n, _ in enumerate(replies):
                        if i == 0 and n == 10:
                            replies.close()  # cancelled with requests in flight
                            break
                    stopped.append(c.outcome.stopped)

            threads = [threading.Thread(target=ask, args=(name,)) for name in ("a", "b", "c")]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        assert getattr(meter, limit) <= LIMITS[limit] + 1e-9 and all(stopped)
        assert Ledger(book, budget).spent == ledger.spent
        assert ledger.spent.tokens >= meter.tokens and ledger.spent.usd >= meter.usd - 1e-9
        assert ledger.spent.requests >= meter.requests


@pytest.mark.slow
class TestRestart:
    def test_what_was_spent_is_known(self, llm: Any, tmp_path: Path, book: Path) -> None:
        Meter(llm)
        with client(llm, tmp_path, Ledger(book, Budget(requests=10))) as c:
            assert len(list(c.ask_all(requests(6)))) == 6
        again = Ledger(book, Budget(requests=10))
        assert again.spent.requests == 6
        with client(llm, tmp_path, again) as c:
            replies = list(c.ask_all(requests(30)))
        assert (
            len(llm.requests) == 10 and len(replies) == 10 and sum(r.bought for r in replies) == 4
        )

    def test_what_is_in_the_cache_costs_nothing_in_any_ledger(
        self, llm: Any, tmp_path: Path, book: Path
    ) -> None:
        Meter(llm)
        with client(llm, tmp_path, Ledger(book, Budget())) as c:
            bought = {r.key: r.usd for r in c.ask_all(requests(6))}
        other = Ledger(tmp_path / "other.jsonl", Budget(requests=1))
        with client(llm, tmp_path, other) as c:
            found = list(c.ask_all(requests(6)))
        assert (
            other.spent == Spent()
            and {r.key: r.usd for r in found} == bought
            and not any(r.bought for r in found)
        )

    def test_what_was_bought_is_handed_out_where_the_budget_ends_before_it(
        self, llm: Any, tmp_path: Path, book: Path
    ) -> None:
        Meter(llm)
        with client(llm, tmp_path, Ledger(book, Budget())) as c:
            bought = {r.key for r in c.ask_all(requests(30)[20:26])}
        with client(llm, tmp_path, Ledger(tmp_path / "other.jsonl", Budget(requests=1))) as c:
            replies = list(c.ask_all(requests(30)))
            assert c.outcome.over_budget and c.outcome.lost == {"one": 23}
        assert {r.key for r in replies if not r.bought} == bought and len(replies) == 7

    @pytest.mark.parametrize(
        "garbage", [b'{"key": "a", "try', b"\xff\xfe\x00", b"null\n[]\n{}\n", b'{"key": 3}\n']
    )
    def test_a_torn_line_breaks_nothing(self, garbage: bytes, book: Path) -> None:
        ledger = Ledger(book, Budget(requests=3))
        ledger.settle(hold(ledger, "a"), tokens=7, usd=0.25)
        with book.open("ab") as f:
            f.write(garbage)
        again = Ledger(book, Budget(requests=3))
        assert spent(again) == (1, 7, 0.25, True)
        again.settle(hold(again, "b"), tokens=2, usd=0.5)
        assert spent(Ledger(book, Budget())) == (2, 9, 0.75, True)

    def test_cut_anywhere_it_never_tells_less_than_was_settled_whole(self, book: Path) -> None:
        ledger = Ledger(book, Budget())
        for i in range(4):
            ledger.settle(hold(ledger, f"k{i}", tokens=100), tokens=10, usd=0.0)
        data = book.read_bytes()
        for n in range(len(data) + 1):
            book.write_bytes(data[:n])
            lines = data[:n].split(b"\n")[:-1]
            settled, reserved = (
                sum(b"settled" in x for x in lines),
                sum(b"settled" not in x for x in lines),
            )
            found = Ledger(book, Budget()).spent
            assert (
                found.tokens == 10 * settled + 100 * (reserved - settled)
                and found.requests == reserved
            )

    def test_a_try_that_a_kill_cut_off_counts_with_its_bound(self, book: Path) -> None:
        ledger = Ledger(book, Budget())
        hold(ledger, "a", tokens=100, usd=0.1)
        again = Ledger(book, Budget(tokens=150))
        assert spent(again) == (1, 100, 0.1, False)
        with pytest.raises(BudgetExhausted):
            again.reserve("b", tokens=51, usd=0.0)
        assert again.reserve("b", tokens=50, usd=0.0)

    def test_killed_between_the_answer_and_its_line_it_counts_what_it_was(
        self, llm: Any, tmp_path: Path, book: Path
    ) -> None:
        meter = Meter(llm)
        with client(llm, tmp_path, Ledger(book, Budget())) as c:
            list(c.ask_all(requests(3)))
        lines = book.read_bytes().splitlines(keepends=True)
        book.write_bytes(b"".join(x for x in lines if b"settled" not in x))
        again = Ledger(book, Budget())
        assert again.spent.tokens > meter.tokens and not again.spent.measured
        with client(llm, tmp_path, again) as c:
            assert not any(r.bought for r in c.ask_all(requests(3)))
        assert spent(again) == (3, meter.tokens, pytest.approx(meter.usd), True)
        assert Ledger(book, Budget()).spent == again.spent

    def test_kill_9_hides_nothing_that_was_sent(self, llm: Any, tmp_path: Path, book: Path) -> None:
        meter = Meter(llm, faults=0.2)
        code = (
            "import sys; from pathlib import Path; from types import SimpleNamespace as N\n"
            "from tasks.llm.budget import Ledger; from tasks.project import Budget\n"
            "from tests.llm.test_budget import client, requests\n"
            "home = Path(sys.argv[1]); ledger = Ledger(home / 'ledger.jsonl', Budget(tokens=12000))\n"
            "list(client(N(url=sys.argv[2]), home, ledger).ask_all(requests(600)))\n"
        )
        for i in range(4):
            before = meter.requests
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path), llm.url], cwd=ROOT
            )
            while process.poll() is None and meter.requests < before + 12 * (i + 1) % 30 + 1:
                time.sleep(0.002)
            process.kill()
            process.wait()
            time.sleep(0.7)  # what is still on its way to the server
            found = Ledger(book, Budget()).spent
            assert (
                found.requests >= meter.requests
                and found.tokens >= meter.tokens
                and found.usd >= meter.usd - 1e-9
            )
        with client(llm, tmp_path, Ledger(book, Budget(tokens=12000))) as c:
            list(c.ask_all(requests(600)))
            assert "generate.budget.tokens" in str(c.outcome.stopped)
        assert meter.tokens <= 12000

    def test_tries_are_told_apart(self, book: Path) -> None:
        for i in range(3):
            ledger = Ledger(book, Budget())
            ledger.settle(hold(ledger, "a"), tokens=5, usd=0.0)
            assert ledger.spent.requests == i + 1 and ledger.spent.tokens == 5 * (i + 1)

    def test_settled_twice_is_settled_once(self, book: Path) -> None:
        ledger = Ledger(book, Budget())
        held = hold(ledger, "a")
        ledger.settle(held, tokens=5, usd=0.0)
        ledger.settle(held, tokens=5, usd=0.0)
        assert ledger.spent.tokens == Ledger(book, Budget()).spent.tokens == 5


def hold(ledger: Ledger, key: str, *, tokens: int = 10, usd: float = 0.0) -> Any:
    held = ledger.reserve(key, tokens=tokens, usd=usd)
    assert held
    return held


class TestWhatIsBilled:
    @pytest.mark.parametrize(
        ("fault", "billed"),
        [
            (scripted.status(500), False),
            (scripted.status(429), False),
            (scripted.drop, True),
            (scripted.html, True),
        ],
        ids=["500", "429", "dropped", "html"],
    )
    def test_of_a_failed_try(
        self, fault: Any, billed: bool, llm: Any, tmp_path: Path, book: Path
    ) -> None:
        llm.faults = [fault]
        ledger = Ledger(book, Budget())
        with client(llm, tmp_path, ledger) as c:
            (reply,) = c.ask_all(requests(1))
        bound = requests(1)[0].max_prompt_tokens + 20
        assert (reply.prompt_tokens, reply.completion_tokens) == (10, 20)
        assert ledger.spent.requests == 2 and ledger.spent.tokens == 30 + (bound if billed else 0)
        assert ledger.spent.measured is not billed

    def test_a_server_that_was_never_reached_bills_nothing(
        self, llm: Any, tmp_path: Path, book: Path
    ) -> None:
        ledger = Ledger(book, Budget())
        closed = scripted.Server()
        closed.__exit__()
        with (
            client(closed, tmp_path, ledger, retries=0) as c,
            pytest.raises(Exception, match="cannot be reached"),
        ):
            list(c.ask_all(requests(1)))
        assert spent(ledger) == (1, 0, 0.0, True)

    def test_a_timeout_may_be_billed(self, llm: Any, tmp_path: Path, book: Path) -> None:
        meter, ledger = Meter(llm, faults=1.0), Ledger(book, Budget())
        meter.rng.choice = lambda _: "hang"  # type: ignore[method-assign,assignment]
        with (
            client(llm, tmp_path, ledger, retries=0) as c,
            pytest.raises(Exception, match="did not answer any attempt"),
        ):
            list(c.ask_all(requests(2)))
        assert ledger.spent.tokens >= meter.tokens > 0 and not ledger.spent.measured

    def test_a_template_longer_than_the_margin_is_learned(
        self, llm: Any, tmp_path: Path, book: Path
    ) -> None:
        """A provider adds 1,000 tokens to each prompt: learned from the first reply."""

        def long(h: Any) -> None:
            usage = {
                "prompt_tokens": 1000 + len(h.body["messages"][0]["content"]),
                "completion_tokens": 20,
            }
            h.send(200, {**scripted.completion("a text"), "usage": usage})

        llm.always = long
        ledger = Ledger(book, Budget(tokens=8000))
        with client(llm, tmp_path, ledger, concurrency=1) as c:
            assert len(list(c.ask_all(requests(50)))) == 7
        assert ledger.spent.tokens <= 8000

    def test_nothing_fits_from_the_start(self, llm: Any, tmp_path: Path, book: Path) -> None:
        with client(llm, tmp_path, Ledger(book, Budget(usd=0.0))) as c:
            assert list(c.ask_all(requests(3))) == [] and not llm.requests
            assert c.outcome.lost == {"one": 3} and "generate.budget.usd" in str(c.outcome.stopped)

    def test_a_model_without_a_price_has_no_dollars(
        self, llm: Any, tmp_path: Path, book: Path
    ) -> None:
        with client(llm, tmp_path, Ledger(book, Budget(usd=0.0)), price=Price()) as c:
            assert len(list(c.ask_all(requests(3)))) == 3


Steps = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 100), st.integers(0, 3)), max_size=60
)


@given(steps=Steps, limit=st.integers(1, 3000), requests_limit=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_in_any_order_of_reserving_and_settling(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int, int]],
    limit: int,
    requests_limit: int,
) -> None:
    """Whatever is settled within its reservation, used and reserved together never pass a limit."""
    book = tmp_path_factory.mktemp("book") / "ledger.jsonl"
    ledger = Ledger(book, Budget(tokens=limit, requests=requests_limit))
    held, used, n = [], 0, 0
    for tokens, share, which in steps:
        if which and held:
            h = held.pop(which % len(held))
            ledger.settle(h, tokens=h.tokens * share // 100, usd=0.0)
            used += h.tokens * share // 100
            continue
        try:
            h = ledger.reserve(str(tokens), tokens=tokens, usd=0.0)
        except BudgetExhausted:
            assert not held and (used + tokens > limit or n + 1 > requests_limit)
            continue
        if h:
            held.append(h)
            n += 1
        else:
            assert held and (
                used + sum(h.tokens for h in held) + tokens > limit or n + 1 > requests_limit
            )
        assert used + sum(h.tokens for h in held) <= limit and n <= requests_limit
    assert ledger.spent.tokens == used
    assert Ledger(book, Budget()).spent.tokens == used + sum(h.tokens for h in held)


class TestEstimate:
    def test_before_anything_is_sent(self) -> None:
        told = estimate_usage(requests(100), Endpoint(price=Price(input=1.0, output=2.0)), 0.5)
        assert told.requests == 200 and told.completion_tokens == 2 * sum(
            r.max_tokens for r in requests(100)
        )
        assert 0 < told.prompt_tokens < 2 * sum(r.max_prompt_tokens for r in requests(100))
        assert told.usd == pytest.approx(
            (told.prompt_tokens + 2 * told.completion_tokens) / 1e6, abs=1e-6
        )
        assert Estimate.model_validate_json(told.model_dump_json()) == told
        assert (told + told).requests == 400 and (told + told).usd == pytest.approx(
            2 * told.usd, abs=1e-6
        )

    def test_a_batch_costs_half(self) -> None:
        settings = {"endpoint": "https://a/v1", "price": Price(input=1.0, output=2.0)}
        once, batch = (
            estimate_usage(requests(9), Endpoint(**settings, batch=b)) for b in (False, True)
        )
        assert (
            batch.usd == pytest.approx(once.usd / 2, abs=1e-6) and batch.requests == once.requests
        )

    def test_of_nothing(self) -> None:
        assert estimate_usage([], Endpoint(), 0.0).usd == 0.0


@given(st.text(max_size=300))
def test_no_tokenizer_makes_more_tokens_than_the_bound(text: str) -> None:
    """Bytes bound the tokens of any byte-level tokenizer."""
    request = Request((("user", text),), 1.0, 1.0, 1, 0)
    assert request.max_prompt_tokens > len(text.encode("utf-8", "replace"))
    assert request.expected_prompt_tokens <= request.max_prompt_tokens


def test_spent_is_json(book: Path) -> None:
    assert json.loads(Ledger(book, Budget()).spent.model_dump_json()) == {
        "requests": 0,
        "tokens": 0,
        "usd": 0.0,
        "measured": True,
    }
