"""The LLM that wrote the rows, asked for the labels itself: how good it is, how slow and how dear."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from tasks import atomic
from tasks.dataset.sealed import open_sealed
from tasks.dataset.split import SealedResult
from tasks.errors import TransientError
from tasks.evaluate.result import Latency, LlmScore, ScoreResult
from tasks.evaluate.score import Answers, score_rows, shared_settings
from tasks.llm.budget import Ledger
from tasks.llm.client import Client
from tasks.llm.generators import ResolvedGenerator, open_client, resolve_generators
from tasks.llm.request import Reply, Request
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import Label, Record
from tasks.stage import run_stage
from tasks.synthesise.ask import open_ledger
from tasks.workspace import Workspace

VERSION = 3
CONTEXT = 4096  # tokens of a request with its answer, which any LLM in use can read
LEAST_TEXT = 1024  # bytes of a text, however long the list of labels
NONE = "none"


def score_llm(
    project: Project,
    *,
    generation: int,
    sealed: SealedResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> ScoreResult:
    """The scores of the first generator's own labels of `evaluate.llm_rows` test rows.

    It reads the labels with their descriptions and no example. The cost counts in the challenger's
    budget; where that is spent, the rows answered so far are scored. An answer that is no label is
    wrong, and counted as `unparsed`. Rows are asked one at a time, so that `latency` is that of one
    text, over those that the cache did not have. Raises UserError and TransientError as
    tasks/llm/client.py does.
    """
    generator = next(iter(resolve_generators(project, workspace=workspace).values()))
    who = f"llm {generator.name}"

    def build(out: Path, scratch: Path) -> ScoreResult:
        all_rows = open_sealed(sealed, workspace=workspace, by=who)
        rows, seconds = choose_rows(all_rows, project), scratch / "seconds.jsonl"
        ledger = open_ledger(project, generation=generation, workspace=workspace)
        requests = [build_request(project, r.text) for r in rows]
        with _open_client(generator, requests, ledger, workspace) as client:
            replies, stopped = _ask(client, requests, generator.name, seconds, progress)
        rows = rows[: len(replies)]
        labels = [parse_answer(reply.text or "", project) for reply in replies]
        result = ScoreResult(
            model=who, scores=None, slices=[], calibration=None, probabilities=False
        )
        if rows:
            no_label: Label = () if project.multi_label else ""
            answers = Answers([no_label if label is None else label for label in labels])
            result = score_rows(project, who, rows, answers, out=out)
        llm = _llm_score(generator, replies, labels.count(None), seconds, stopped)
        return result.model_copy(update={"sample": len(rows) < len(all_rows), "llm": llm})

    params: dict[str, object] = {
        "labels": project.labels,
        "multi_label": project.multi_label,
        "rows": project.evaluate.llm_rows,
        "settings": shared_settings(project),
        "llm": {"endpoint": generator.endpoint.endpoint, "model": generator.model},
        "budget": project.generate.budget.model_dump(mode="json"),
    }
    return run_stage(
        ScoreResult,
        "ask_llm",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs={"sealed": sealed.digest},
        build=build,
    )


def choose_rows(rows: list[Record], project: Project) -> list[Record]:
    """`evaluate.llm_rows` of the rows, each label in turn, by id (a hash); label sets by id alone."""
    ordered = sorted(rows, key=lambda r: r.id)
    if not project.multi_label:
        by_label = [[r for r in ordered if r.label == label] for label in project.label_names]
        ordered = [r for turn in zip_longest(*by_label) for r in turn if r is not None]
    return ordered[: project.evaluate.llm_rows]


def build_request(project: Project, text: str) -> Request:
    """The question about one text, which is cut to what fits for certain: a token is a byte or more."""
    descriptions = "\n".join(f"- {label}: {line}" for label, line in project.labels.items())
    question, answer = (
        "Which one of these labels fits the text below best?",
        "the one that fits best",
    )
    if project.multi_label:
        question = "Which of these labels fit the text below?"
        answer = f"those that fit, separated by commas, or with {NONE}"
    names = ", ".join(project.label_names)
    longest = max(len(label.encode()) for label in project.label_names)
    most = 8 + longest * (len(project.labels) if project.multi_label else 1)

    def ask_about(shown: str) -> Request:
        prompt = (
            f"{question}\n\n{descriptions}\n\nText:\n{shown}\n\nThe labels: {names}. Answer with "
            f"{answer}, and nothing else."
        )
        tag = {"label": "", "generator": "llm"}
        messages = (("user", prompt),)
        return Request(messages, temperature=0.0, top_p=1.0, max_tokens=most, seed=0, tag=tag)

    room = max(LEAST_TEXT, CONTEXT - ask_about("").max_prompt_tokens - most)
    return ask_about(text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore"))


def parse_answer(answer: str, project: Project) -> Label | None:
    """The label that the answer is, or the only one that it names; of label sets all that it names.

    None for anything else. Case, white space and the punctuation around an answer do not count.
    """
    text = _normalise(answer)
    exact = [label for label in project.label_names if _normalise(label) == text]
    named = _labels_named(text, project.label_names)
    if project.multi_label:
        return tuple(sorted(named)) if named else () if text == NONE else None
    if len(exact) == 1:
        return exact[0]
    return named[0] if len(named) == 1 else None


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" \"'`*_.,:;!()[]")


def _labels_named(text: str, labels: Sequence[str]) -> list[str]:
    """The labels in the text as whole words; one that is part of a longer one there does not count."""
    named = []
    for label in sorted(labels, key=lambda label: -len(_normalise(label))):
        name = _normalise(label)
        pattern = rf"(?<!\w){re.escape(name)}(?!\w)"
        if name and re.search(pattern, text):
            named.append(label)
            text = re.sub(pattern, "\0", text)
    return named


def _open_client(
    generator: ResolvedGenerator, requests: list[Request], ledger: Ledger, workspace: Workspace
) -> AbstractContextManager[Client]:
    """A client that asks one request at a time, with room for the longest."""
    one_at_a_time = {"concurrency": 1, "batch": False}
    endpoint = generator.endpoint.model_copy(update=one_at_a_time)
    tokens = max(r.max_prompt_tokens + r.max_tokens for r in requests)
    generator = replace(generator, endpoint=endpoint)
    return open_client(generator, ledger=ledger, workspace=workspace, tokens=tokens)


def _ask(
    client: Client, requests: list[Request], name: str, seconds: Path, progress: Progress
) -> tuple[list[Reply], str | None]:
    """Replies to the first of the requests, and why there are no more.

    The seconds of each request that was not cached are appended to the file `seconds`.
    """
    replies: list[Reply] = []
    for request in requests:
        began = time.monotonic()
        answered = list(client.ask_all([request]))
        if not answered:
            if client.outcome.over_budget:
                return replies, client.outcome.stopped
            why = client.outcome.stopped or "the request was postponed"
            raise TransientError(f"{name} gave no answer to a test row: {why}")
        if answered[0].bought:
            atomic.append_line(seconds, round(time.monotonic() - began, 4))
        replies += answered
        progress(len(replies), len(requests), "test rows")
    return replies, None


def _llm_score(
    generator: ResolvedGenerator,
    replies: list[Reply],
    unparsed: int,
    seconds: Path,
    stopped: str | None,
) -> LlmScore:
    import numpy as np

    took = atomic.read_lines(seconds)
    p50, p95 = np.quantile(took, [0.5, 0.95]).tolist() if took else (None, None)
    tokens = sum(r.prompt_tokens + r.completion_tokens for r in replies)
    usd, n = sum(r.usd for r in replies), max(1, len(replies))
    return LlmScore(
        name=generator.name,
        local=generator.endpoint.endpoint == "local",
        unparsed=unparsed,
        unparsed_share=unparsed / n,
        latency=Latency(p50=p50, p95=p95, texts=len(took)),
        tokens=tokens,
        tokens_per_text=round(tokens / n, 1),
        usd=round(usd, 9),
        usd_per_text=round(usd / n, 9),
        measured=all(r.measured for r in replies),
        stopped=stopped,
    )
