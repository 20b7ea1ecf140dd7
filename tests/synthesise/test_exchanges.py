"""A sample of a round's requests, read from the answers on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.dataset.split import split_dataset
from tasks.llm.request import ReplyCache
from tasks.project.reader import load_project
from tasks.synthesise.exchanges import sample_exchanges
from tasks.synthesise.plan import RoundRequest
from tasks.synthesise.stage import synthesise
from tasks.workspace import Workspace
from tests.kit import toy

COUNT = {"metal": 3, "fruit": 3, "bird": 3}
ASKED = RoundRequest(count=COUNT, round_number=0, generation=0, more_topics={})


@pytest.fixture
def made(
    tmp_path: Path, encoder: Path, llm: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """One round, and what is needed to sample it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    url = llm.url.replace("http://", "http://user:password@")
    generate = {"endpoint": url, "price": {"input": 1.0, "output": 2.0}}
    config = toy.project(tmp_path / "p", endpoint=llm.url, encoder=encoder, generate=generate)
    project = load_project(config, [])
    workspace = Workspace(home)
    splits = split_dataset(project, workspace=workspace)
    synthesise(project, ASKED, splits=splits, workspace=workspace)
    return project, {"splits": splits, "workspace": workspace, "asked": ASKED}


def test_it_is_what_was_sent_and_what_came_back(made: Any, llm: Any) -> None:
    project, about = made
    found = sample_exchanges(project, n=4, **about)
    assert len(found) == 4 and found == sample_exchanges(project, n=9, **about)[:4]
    for e in found:
        assert e.body in llm.requests and e.text and e.finish_reason == "stop"
        assert (e.prompt_tokens, e.completion_tokens, e.measured) == (10, 20, True)
        assert e.usd == pytest.approx((10 / 1e6, 40 / 1e6)) and e.provider == "127.0.0.1"
        assert e.seconds is not None and 0 < e.seconds < 5
        assert "secret" not in str(e) and "password" not in str(e)


def test_a_request_without_an_answer_is_passed_over_and_one_without_a_time_says_so(
    made: Any,
) -> None:
    project, about = made
    whole = sample_exchanges(project, n=9, **about)
    folder = about["workspace"].llm_cache
    cache = ReplyCache(folder)
    first, second = whole[0].key, whole[1].key
    (folder / first[:2] / f"{first}.json").unlink()
    kept = cache.find(second)
    assert kept is not None and set(kept) == ReplyCache.FIELDS
    cache.keep(second, kept)  # as a batch keeps them
    found = sample_exchanges(project, n=9, **about)
    assert [e.key for e in found] == [e.key for e in whole[1:]]
    assert found[0].seconds is None and found[1].seconds is not None
