"""The LLM that wrote the rows, asked for the labels itself: what it knows, what a text costs, and how long it takes."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.dataset.sealed import open_sealed
from tasks.dataset.split import SealedResult
from tasks.errors import TransientError
from tasks.evaluate.score import Answers, Latency, LlmScore, ScoreResult, measured, shared_settings
from tasks.llm.generators import ResolvedGenerator, open_client, resolve_generators
from tasks.llm.request import Reply, Request
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import Label, Record
from tasks.stage import run_stage
from tasks.synthesise.ask import open_ledger
from tasks.workspace import Workspace

VERSION = 2
CONTEXT = 4096  # tokens of a request with its answer: any LLM in use reads as many
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
    """The first generator's own labels of `evaluate.llm_rows` test rows, in the form of the other evaluations.

    It is told the labels with their descriptions and shown no example. What it costs counts in the challenger's budget; where
    that is spent, the rows answered until then are measured. An answer that is no label is wrong, and counted as `unparsed`.
    The rows are asked one at a time, so that `latency` is a text's own; it is of those that the cache did not have. Raises
    UserError and TransientError as tasks/llm/client.py does.
    """
    source = next(iter(resolve_generators(project, workspace=workspace).values()))

    def build(out: Path, scratch: Path) -> ScoreResult:
        every = open_sealed(sealed, workspace=workspace, by=f"llm {source.name}")
        rows = sample(every, project)
        ledger = open_ledger(project, generation=generation, workspace=workspace)
        requests = [request(project, r.text) for r in rows]
        replies, stopped = _ask(source, requests, ledger, workspace, scratch, progress)
        rows = rows[: len(replies)]
        said = [parse(reply.text or "", project) for reply in replies]
        nothing: Label = () if project.multi_label else ""
        answers = Answers([nothing if label is None else label for label in said])
        who = f"llm {source.name}"
        unknown = ScoreResult(
            model=who, scores=None, slices=[], calibration=None, probabilities=False
        )
        found = measured(out, project, who, rows, answers) if rows else unknown
        llm = _llm_score(source, replies, said, scratch, stopped)
        return found.model_copy(update={"sample": len(rows) < len(every), "llm": llm})

    params: dict[str, object] = {
        "labels": project.labels,
        "multi_label": project.multi_label,
        "rows": project.evaluate.llm_rows,
        "settings": shared_settings(project),
        "llm": {"endpoint": source.endpoint.endpoint, "model": source.model},
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


def sample(rows: list[Record], project: Project) -> list[Record]:
    """`evaluate.llm_rows` of the rows: each label in turn, within a label by the content hash. Of label sets by that alone."""
    ordered = sorted(rows, key=lambda r: r.id)
    if not project.multi_label:
        by_label = [[r for r in ordered if r.label == label] for label in project.label_names]
        ordered = [r for turn in zip_longest(*by_label) for r in turn if r is not None]
    return ordered[: project.evaluate.llm_rows]


def request(project: Project, text: str) -> Request:
    """The question about one text, which is cut to what surely fits: a token is a byte at least."""
    lines = "\n".join(f"- {label}: {line}" for label, line in project.labels.items())
    if project.multi_label:
        ask, how = (
            "Which of these labels fit the text below?",
            f"those that fit, parted by commas, or with {NONE}",
        )
    else:
        ask, how = "Which one of these labels fits the text below best?", "the one that fits best"
    names = ", ".join(project.label_names)
    longest = max(len(label.encode()) for label in project.label_names)
    most = 8 + longest * (len(project.labels) if project.multi_label else 1)

    def asked(shown: str) -> Request:
        question = f"{ask}\n\n{lines}\n\nText:\n{shown}\n\nThe labels: {names}. Answer with {how}, and nothing else."
        tag = {"label": "", "generator": "llm"}
        return Request(
            (("user", question),), temperature=0.0, top_p=1.0, max_tokens=most, seed=0, tag=tag
        )

    room = max(LEAST_TEXT, CONTEXT - asked("").max_prompt_tokens - most)
    return asked(text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore"))


def parse(answer: str, project: Project) -> Label | None:
    """The label that the answer is, or the only one that it names; of label sets, all that it names. None for anything else.

    Case, white space and the punctuation around it do not count.
    """
    text = _plain(answer)
    alone = [label for label in project.label_names if _plain(label) == text]
    if not project.multi_label and len(alone) == 1:
        return alone[0]
    named = _named(text, project.label_names)
    if project.multi_label:
        return tuple(sorted(named)) if named else () if text == NONE else None
    return named[0] if len(named) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" \"'`*_.,:;!()[]")


def _named(text: str, labels: Sequence[str]) -> list[str]:
    """Labels that stand in the text as whole words; one within another that stands there is not meant by itself."""
    found = []
    for label in sorted(labels, key=lambda label: -len(_plain(label))):
        name = _plain(label)
        pattern = rf"(?<!\w){re.escape(name)}(?!\w)"
        if name and re.search(pattern, text):
            found.append(label)
            text = re.sub(pattern, "\0", text)
    return found


def _ask(
    source: ResolvedGenerator,
    requests: list[Request],
    ledger: Any,
    workspace: Workspace,
    scratch: Path,
    progress: Progress,
) -> tuple[list[Reply], str | None]:
    """Replies to the first of the requests, and why there are no more. The seconds of each that was bought are kept in `scratch`."""
    one = replace(
        source, endpoint=source.endpoint.model_copy(update={"concurrency": 1, "batch": False})
    )
    context = max(r.max_prompt_tokens + r.max_tokens for r in requests)
    replies: list[Reply] = []
    with open_client(one, ledger=ledger, workspace=workspace, tokens=context) as client:
        for r in requests:
            began = time.monotonic()
            got = list(client.ask_all([r]))
            if not got:
                if not client.outcome.over_budget:
                    raise TransientError(
                        f"{source.name} gave no answer to a test row: {client.outcome.stopped or 'it was put off'}"
                    )
                return replies, client.outcome.stopped
            if got[0].bought:
                atomic.append_line(scratch / "seconds.jsonl", round(time.monotonic() - began, 4))
            replies += got
            progress(len(replies), len(requests), "test rows")
    return replies, None


def _llm_score(
    source: ResolvedGenerator,
    replies: list[Reply],
    said: list[Label | None],
    scratch: Path,
    stopped: str | None,
) -> LlmScore:
    import numpy as np

    seconds = atomic.read_lines(scratch / "seconds.jsonl")
    p50, p95 = np.quantile(seconds, [0.5, 0.95]).tolist() if seconds else (None, None)
    tokens, usd = (
        sum(r.prompt_tokens + r.completion_tokens for r in replies),
        sum(r.usd for r in replies),
    )
    n = max(1, len(replies))
    return LlmScore(
        name=source.name,
        local=source.endpoint.endpoint == "local",
        unparsed=sum(label is None for label in said),
        unparsed_share=sum(label is None for label in said) / n,
        latency=Latency(p50=p50, p95=p95, texts=len(seconds)),
        tokens=tokens,
        tokens_per_text=round(tokens / n, 1),
        usd=round(usd, 9),
        usd_per_text=round(usd / n, 9),
        measured=all(r.measured for r in replies),
        stopped=stopped,
    )
