"""The review page: in a real browser with a keyboard alone, and from outside with requests that must not get in."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from flows.review.session import ReviewSession
from flows.review.state import ReviewState, row_history_pairs
from tasks.decisions import Decisions, current_decisions, read_decisions
from tasks.records import Label
from tasks.review.queue import rank_rows
from tasks.workspace import Workspace
from tests.conftest import ROOT
from tests.kit.review import XSS, Place, place, place_of_sets

LABELS = {"1": "metal", "2": "fruit", "3": "bird"}


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Place:
    return place(tmp_path_factory.mktemp("review"), encoder, required=4)


# --- the state, without a browser


@pytest.fixture
def state(where: Place, encoder: Path, tmp_path: Path) -> ReviewState:
    rows = rank_rows(where.project, where.data, encoder=encoder)
    return ReviewState(
        ReviewSession(where.project, rows, Decisions(tmp_path / "d.jsonl", by="ana"), where.splits)
    )


def test_a_key_pressed_at_a_page_that_changed_since_decides_nothing(state: ReviewState) -> None:
    first = state.row
    assert first is not None
    state.press("a", 0)
    state.press("a", 0)  # pressed before the next row was seen
    assert set(state.session.decisions.current()) == {first.id} and state.row is not first
    state.press("j", 0)  # moving decides nothing, so it may be fast
    assert state.index == 2
    for key in ("q", "", "0", "9", "٣", "Enter", "Escape", "<script>"):
        state.press(key, state.version)
    assert state.index == 2 and len(state.session.decisions.current()) == 1


def test_a_decision_from_another_page_is_seen_by_this_one(state: ReviewState) -> None:
    other = ReviewState(state.session)
    other.press("r", 0)
    assert other.index == 1 and state.index == 0
    state.press("j", 0)
    assert len(state.decided) == 1
    state.press("u", state.version)
    assert state.session.decisions.current() == {} and state.index == 0


def test_the_like_are_listed_before_they_are_decided(state: ReviewState) -> None:
    state.index = next(i for i, d in enumerate(state.queue) if d.like)
    row = state.queue[state.index]
    state.press("l", 0)
    assert state.similar is not None
    listed = [d.id for d in state.similar.rows]
    assert listed == [row.id, *(i for i, _ in row.like)] and len(set(listed)) == len(listed)
    state.press("Enter", 1)
    assert state.similar is not None and not state.session.decisions.current(), (
        "nothing was chosen yet"
    )
    state.press("2", state.version)
    assert not state.session.decisions.current()
    state.press("Escape", state.version)
    assert state.similar is None and not state.session.decisions.current()
    for key in ("l", "2", "Enter"):
        state.press(key, state.version)
    assert {d.id: d.label_after for d in state.decided.values()} == dict.fromkeys(listed, "fruit")
    state.press("u", state.version)
    assert state.decided == {}


def test_a_row_that_nothing_is_like_is_asked_about_too(state: ReviewState) -> None:
    state.index = next(i for i, d in enumerate(state.queue) if not d.like)
    state.press("l", state.version)
    state.press("2", state.version)
    assert (
        state.similar is not None
        and len(state.similar.rows) == 1
        and not state.session.decisions.current()
    )
    state.press("Enter", state.version)
    assert len(state.session.decisions.current()) == 1


def test_history_tells_origin_checks_and_decisions(state: ReviewState) -> None:
    row = next(d for d in state.queue if d.check)
    state.index = state.queue.index(row)
    state.press("1", state.version)
    state.press("u", state.version)
    told = dict(row_history_pairs(row, state.session))
    assert (
        told["source"] == "synthetic"
        and told["topic"].startswith("topic")
        and told["generator"] == "scripted"
    )
    assert told["rejected (off_label)"] == row.reason
    assert any(v.startswith("relabelled by ana") and v.endswith("(undone)") for v in told.values())


def test_an_empty_queue_is_a_page_too(where: Place, tmp_path: Path) -> None:
    state = ReviewState(
        ReviewSession(where.project, [], Decisions(tmp_path / "d.jsonl", by="ana"), where.splits)
    )
    state.press("a", 0)
    assert state.row is None and not (tmp_path / "d.jsonl").exists()


# --- the server


@contextmanager
def served(where: Place, home: Path) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """`reseed review` in its own process: (what it announced, the process)."""
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "review",
        str(where.config),
        "--no-open",
        "--by",
        "ana",
        "--json",
    ]
    command += ["--curated", str(where.curated), "--splits", str(where.splits)]
    environment = {**os.environ, "RESEED_HOME": str(home)}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, process.communicate(timeout=30)[1]
        yield json.loads(line), process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()


def ask(url: str, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
    connection.putrequest("GET", path, skip_host="host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}


UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec_websocket_version": "13",
    "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.slow
def test_only_who_has_the_address_gets_in_and_only_from_this_machine(
    where: Place, home: Path
) -> None:
    with served(where, home) as (said, process):
        url = said["address"]
        parts = urllib.parse.urlsplit(url)
        assert (
            parts.hostname == "127.0.0.1"
            and len(parts.path.strip("/")) >= 32
            and said["pending"] == said["queue"]
        )
        status, body, headers = ask(url, parts.path)
        assert status == 200 and b"the probe predicts" in body
        assert (
            "default-src 'self'" in headers["content-security-policy"]
            and headers["referrer-policy"] == "no-referrer"
        )
        assert set(re.findall(rb'(?:src|href)="(?:https?:)?//([^"/]+)', body)) == set(), (
            "nothing is loaded from elsewhere"
        )
        token = parts.path.strip("/")
        for path in (
            "/",
            "/wrong/",
            f"/{token[:-1]}x/",
            "/_nicegui_ws/socket.io/?EIO=4&transport=polling",
            "/docs",
        ):
            assert ask(url, path)[0] == 404, path
        socket_io = f"{parts.path}_nicegui_ws/socket.io/?EIO=4&transport="
        for wrong in (
            {"host": "evil.example"},
            {"host": f"evil.example:{parts.port}"},
            {"host": "127.0.0.1"},
            {"host": ""},
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": f"https://127.0.0.1:{parts.port}"},
        ):
            assert ask(url, parts.path, **wrong)[0] == 403, wrong
            assert ask(url, socket_io + "polling", **wrong)[0] == 403, wrong
            assert ask(url, socket_io + "websocket", **UPGRADE, **wrong)[0] == 403, wrong
        assert ask(url, parts.path, origin=f"http://127.0.0.1:{parts.port}")[0] == 200
        with (
            pytest.raises(OSError),
            socket.create_connection((_own_address(), parts.port or 0), timeout=5),
        ):
            pass
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1].count("Traceback") == 0
    assert not Workspace(home).decisions("toy").parent.exists(), "looking decides nothing"


def _own_address() -> str:
    """Another loopback address of this machine: what listens on all of them answers there."""
    return "127.0.0.2"


@pytest.mark.slow
def test_a_taken_port_is_said_in_a_line(where: Place, home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "flows.cli.main",
            "review",
            str(where.config),
            "--no-open",
            "--port",
            str(port),
        ]
        command += ["--curated", str(where.curated), "--splits", str(where.splits)]
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "RESEED_HOME": str(home)},
            check=False,
        )
    assert ran.returncode == 2 and f"port {port}" in ran.stderr and "Traceback" not in ran.stderr


# --- the browser


class Page:
    """The page as a person sees it: what stands on it, and keys."""

    def __init__(self, browser: Any, address: str) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 800})
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.goto(address)
        self.page.wait_for_selector("[data-version]")
        self.page.wait_for_function("window.socket && window.socket.connected")

    def press(self, *keys: str) -> None:
        """Each key, and wait until the page has changed."""
        for key in keys:
            before = self.page.get_attribute("[data-version]", "data-version")
            self.page.keyboard.press(key)
            self.page.wait_for_selector(
                f'[data-version]:not([data-version="{before}"])', timeout=20_000
            )

    def says(self, selector: str) -> str:
        return str(self.page.inner_text(selector)).strip()

    @property
    def row(self) -> str:
        """The text of the row that is shown."""
        return str(self.page.text_content(".text"))


@pytest.fixture
def opened(where: Place, home: Path, browser: Any) -> Iterator[Callable[[], Page]]:
    """Serve, and give a function that opens the page."""
    with served(where, home) as (said, _):
        pages: list[Page] = []

        def open_page() -> Page:
            pages.append(Page(browser, said["address"]))
            return pages[-1]

        yield open_page
        for p in pages:
            assert p.errors == []
            p.page.close()


def stored(home: Path) -> dict[str, tuple[str, Label | None]]:
    return {
        i: (d.decision, d.label_after)
        for i, d in current_decisions(Workspace(home).decisions("toy")).items()
    }


def test_a_keyboard_is_enough(opened: Callable[[], Page], home: Path) -> None:
    p = opened()
    total = int(p.says(".progress").split()[2])
    assert p.says(
        ".progress"
    ) == f"0 of {total} reviewed" and "4 required before training" in p.says(".top")
    for key in ("accept", "reject", "relabel", "apply to similar rows", "undo", "move"):
        assert key in p.says(".foot")
    assert (
        "the probe predicts" in p.says(".main")
        and len(p.page.query_selector_all(".neighbours .near")) == 5
    )
    assert "synthetic" in p.says(".history")
    texts = [p.row]
    p.press("a")
    texts.append(p.row)
    p.press("r")
    texts.append(p.row)
    label = p.says(".main .label")
    key = next(k for k, name in LABELS.items() if name != label)
    p.press(key)
    assert p.says(".progress") == f"3 of {total} reviewed" and len({*texts, p.row}) == 4
    assert [d for d, _ in stored(home).values()] == ["accept", "reject", "relabel"]
    assert list(stored(home).values())[2][1] == LABELS[key]
    p.press("u")
    assert (
        p.row == texts[2]
        and p.says(".progress") == f"2 of {total} reviewed"
        and len(stored(home)) == 2
    )
    p.press("k")
    assert p.row == texts[1] and p.says(".done") == "rejected"
    p.press("ArrowUp")
    assert p.row == texts[0] and p.says(".done") == "accepted"
    p.press("ArrowDown", "j")
    assert p.row == texts[2] and not p.page.query_selector(".done")
    p.page.reload()
    p.page.wait_for_function("window.socket && window.socket.connected")
    assert p.row == texts[2] and p.says(".progress") == f"2 of {total} reviewed", (
        "it goes on where it was"
    )
    assert {d.by for d in read_decisions(Workspace(home).decisions("toy"))} == {"ana"}


def test_applying_to_the_like_is_shown_first_and_undone_at_once(
    opened: Callable[[], Page], home: Path
) -> None:
    p = opened()
    while not p.page.query_selector_all(
        ".panel .near:nth-of-type(4)"
    ):  # title, plan, this row, one like it
        p.press("Escape", "j", "l")
    p.press("Escape")
    text = p.row
    p.press("l")
    listed = p.page.query_selector_all(".panel .near")
    assert (
        len(listed) >= 2 and stored(home) == {} and f"These {len(listed)} rows" in p.says(".panel")
    )
    p.press("3")
    assert "relabelled as bird" in p.says(".plan") and stored(home) == {}
    p.press("Escape")
    assert p.row == text and stored(home) == {}
    p.press("l", "r")
    assert "rejected: Enter confirms" in p.says(".plan")
    p.press("Enter")
    assert [d for d, _ in stored(home).values()] == ["reject"] * len(listed)
    assert f"{len(listed)} rows: rejected" in p.says(".message")
    p.press("u")
    assert stored(home) == {} and p.row == text


def test_generated_text_is_text(opened: Callable[[], Page], where: Place) -> None:
    p = opened()
    for _ in range(20):
        if XSS in p.row:
            break
        p.press("j")
    assert XSS in p.row, "the text is shown as it is"
    p.press("l", "Escape")
    assert p.page.evaluate("window.hacked") is None
    assert p.page.query_selector_all(".desk script, .desk img, .desk iframe") == []
    assert all(
        urllib.parse.urlsplit(u).hostname == "127.0.0.1" for u in p.requests if u.startswith("http")
    ), p.requests
    assert not any("onerror" in u or u.endswith("/x") for u in p.requests)


def test_what_was_decided_outlives_a_kill_of_the_server(
    where: Place, home: Path, browser: Any
) -> None:
    for done in range(3):
        with served(where, home) as (said, process):
            assert said["reviewed"] == done
            p = Page(browser, said["address"])
            assert p.says(".progress").startswith(f"{done} of ")
            p.press("ar1"[done])
            process.kill()
            process.wait(20)
            p.page.close()
        assert len(stored(home)) == done + 1
    path = Workspace(home).decisions("toy")
    path.write_bytes(path.read_bytes()[:-9])  # as a kill in the middle of a line leaves it
    with served(where, home) as (said, _):
        assert said["reviewed"] == 2
        p = Page(browser, said["address"])
        p.press("a", "u", "a")
        assert p.says(".progress").startswith("3 of ")
        p.page.close()
    assert len(stored(home)) == 3


def test_keys_with_a_modifier_are_the_browsers(opened: Callable[[], Page], home: Path) -> None:
    p = opened()
    for key in ("Control+a", "Alt+r", "Meta+1"):
        p.page.keyboard.press(key)
    p.press("j")
    assert stored(home) == {}


def test_no_command_line_shows_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The browser is given a file that only this user can read, and the file the address."""
    import webbrowser

    from flows.review.server import _open

    given: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(given.append(url)))
    _open("http://127.0.0.1:1/SECRET/?a&b", tmp_path / "open.html")
    assert given == [(tmp_path / "open.html").as_uri()] and "SECRET" not in given[0]
    assert (tmp_path / "open.html").stat().st_mode & 0o777 == 0o600
    assert "url=http://127.0.0.1:1/SECRET/?a&amp;b" in (tmp_path / "open.html").read_text()


def test_sets_by_keyboard(encoder: Path, tmp_path: Path, home: Path, browser: Any) -> None:
    where = place_of_sets(tmp_path / "sets", encoder)
    with served(where, home) as (said, _):
        p = Page(browser, said["address"])
        first = p.row
        assert p.says(".main .label") == "bird" and "label on or off" in p.says(".foot")
        assert p.says(".labels .current") == "3\nbird" and "none of them" in p.says(".labels")
        p.press("1", "3")
        assert "It will be metal: Enter confirms" in p.says(".plan") and stored(home) == {}
        assert p.says(".labels .chosen") == "1\nmetal" and not p.page.query_selector(
            ".labels .current"
        )
        p.press("Enter")
        assert [*stored(home).values()] == [("relabel", ("metal",))] and p.row != first
        second = p.row
        p.press("0")
        assert p.says(".labels .chosen") == "0\nnone of them" and "It will be (no label)" in p.says(
            ".plan"
        )
        p.press("Escape")
        assert not p.page.query_selector(".plan") and len(stored(home)) == 1
        p.press("0", "Enter")
        assert [*stored(home).values()][1] == ("relabel", ())
        p.press("k")
        assert p.row == second and p.says(".done") == "relabelled: (no label)"
        p.press("u", "a")
        assert [d for d, _ in stored(home).values()] == ["relabel", "accept"]
        while not p.page.query_selector_all(".panel .near:nth-of-type(4)"):
            p.press("Escape", "j", "l")
        listed = len(p.page.query_selector_all(".panel .near"))
        p.press("0")
        assert (
            "All of them will be relabelled as (no label)" in p.says(".plan")
            and len(stored(home)) == 2
        )
        p.press("Enter")
        assert [*stored(home).values()][2:] == [("relabel", ())] * listed
        p.press("u")
        assert len(stored(home)) == 2 and p.errors == []
        p.page.close()
