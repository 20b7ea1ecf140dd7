"""Requests of a round with their answers, read from the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.dataset.split import split_dataset
from tasks.llm.request import ReplyCache
from tasks.project.reader import load_project
from tasks.synthesise.exchanges import Exchange, sample_exchanges
from tasks.synthesise.plan import RoundRequest
from tasks.synthesise.stage import synthesise
from tasks.workspace import Workspace
from tests.kit import toy

COUNT = {"metal": 3, "fruit": 3, "bird": 3}
ASKED = RoundRequest(count=COUNT, round_number=0, generation=0, more_topics={})
Sample = Callable[..., list[Exchange]]


@pytest.fixture
def sample(
    tmp_path: Path, encoder: Path, llm: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Sample:
    """The exchanges of a round, whose endpoint has a password in its address."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    url = llm.url.replace("http://", "http://user:password@")
    generate = {"endpoint": url, "price": {"input": 1.0, "output": 2.0}}
    config = toy.project(tmp_path / "p", endpoint=llm.url, encoder=encoder, generate=generate)
    project, workspace = load_project(config, []), Workspace(home)
    splits = split_dataset(project, workspace=workspace)
    synthesise(project, ASKED, splits=splits, workspace=workspace)
    return partial(sample_exchanges, project, splits=splits, workspace=workspace, asked=ASKED)


def test_exchanges_are_what_was_sent_and_received(sample: Sample, llm: Any) -> None:
    exchanges = sample(n=4)
    assert len(exchanges) == 4 and exchanges == sample(n=9)[:4]
    for e in exchanges:
        assert e.body in llm.requests and e.text and e.finish_reason == "stop"
        assert (e.prompt_tokens, e.completion_tokens, e.measured) == (10, 20, True)
        assert (e.prompt_usd, e.usd) == pytest.approx((10 / 1e6, 50 / 1e6))
        assert e.provider == "127.0.0.1" and e.seconds is not None and 0 < e.seconds < 5
        assert "secret" not in str(e) and "password" not in str(e)


def test_an_exchange_needs_an_answer_but_not_its_time(sample: Sample, home: Path) -> None:
    every = sample(n=9)
    cache = ReplyCache(Workspace(home).llm_cache)
    cache.path(every[0].key).unlink()
    completion = cache.get(every[1].key)
    assert completion is not None
    cache.put(every[1].key, replace(completion, seconds=None))  # as for a batch
    exchanges = sample(n=9)
    assert [e.key for e in exchanges] == [e.key for e in every[1:]]
    assert exchanges[0].seconds is None and exchanges[1].seconds is not None
