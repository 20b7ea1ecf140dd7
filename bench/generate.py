"""How fast the client keeps a language model busy, and how many usable rows come of it, compared with other ways to ask.

    python -m bench.generate                      # the client against a bare loop, on the real local model: 4 minutes
    python -m bench.generate --peer-python /path/to/venv/bin/python    # and rows per second compared with distilabel
    python -m bench.generate --json               # one JSON object with the ratios, last on stdout

Part one: the same requests (other seeds) go to SmolLM2 in llama.cpp's server with 8 slots, in turn through Reseed's client and
through a bare asyncio loop of 8 workers that post JSON and keep nothing, each twice or more, interleaved. The client is told
nothing about the server (it starts with 4 requests at once), has its cache and its ledger on the disk, and a budget. The same
against a scripted server that takes 50 ms, which shows what the client itself takes.

Part two needs a Python of its own that holds `distilabel[openai]` and `requests`: its GenerateTextClassificationData asks the
same model on the same server, right after Reseed did. `parsed` are rows with a text and one of the project's labels, `curated` those
that pass Reseed's checks too, whoever wrote them. Seconds are of asking and reading; `seconds_with_checks` adds the checks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tasks.curate.context import CurationContext
from tasks.curate.stage import run_checks
from tasks.encoder.embed import embed
from tasks.llm.budget import Ledger
from tasks.llm.client import Client
from tasks.llm.local import local_server
from tasks.llm.request import Request
from tasks.llm.wire import chat_body
from tasks.project import Budget, Endpoint, Project
from tasks.project.reader import load_project
from tasks.records import Record
from tasks.references import resolve
from tasks.synthesise.parse import parse_reply
from tasks.synthesise.plan import RoundRequest, plan_requests
from tasks.text.fingerprints import Fingerprints
from tasks.text.tokens import replace_surrogates

ROOT = Path(__file__).resolve().parent.parent
SCRIPTED = (
    "import sys; from tests.kit.scripted import Server\n"
    "s = Server(); s.delay = float(sys.argv[1]); print(s.url, flush=True); sys.stdin.read()"
)
TARGET = 0.90
PEER_TOKENS = 300  # room for the JSON object with three texts that distilabel asks for

Arm = Callable[[str, list[Request]], tuple[int, int]]  # (url, requests) -> replies, written tokens


def ours(url: str, requests: list[Request], *, concurrency: int) -> tuple[int, int]:
    """Through Reseed's client, which knows nothing of the server."""
    with tempfile.TemporaryDirectory() as home:
        ledger = Ledger(Path(home) / "ledger.jsonl", Budget(requests=10**6, tokens=10**9))
        endpoint = Endpoint(endpoint=url, model="m", concurrency=concurrency)
        with Client(
            endpoint,
            url=url,
            key="none",
            model="m",
            cache=Path(home) / "cache",
            ledger=ledger,
        ) as client:
            replies = list(client.ask_all(requests))
    return len(replies), sum(r.completion_tokens for r in replies)


def bare(url: str, requests: list[Request], *, concurrency: int) -> tuple[int, int]:
    """Through as many workers as the server has slots; nothing is kept, counted or limited."""

    async def every() -> list[int]:
        waiting, tokens = iter(requests), []

        async def work(api: httpx.AsyncClient) -> None:
            for request in waiting:
                answer = await api.post(f"{url}/chat/completions", json=chat_body(request, "m"))
                tokens.append(int(answer.json()["usage"]["completion_tokens"]))

        async with httpx.AsyncClient(timeout=120) as api:
            await asyncio.gather(*(work(api) for _ in range(concurrency)))
        return tokens

    tokens = asyncio.run(every())
    return len(tokens), sum(tokens)


def side_by_side(
    url: str, project: Project, *, rows: int, pairs: int, concurrency: int
) -> dict[str, Any]:
    """Tokens and replies a second of both, and the ratio of ours to the bare loop's."""
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    replies: dict[str, list[float]] = {"ours": [], "bare": []}
    each = -(-rows // len(project.labels))
    bare(
        url, requests_of(project, each=1, generation=10**6), concurrency=concurrency
    )  # the model is read from disk
    for i in range(2 * pairs):
        name, arm = (("ours", ours), ("bare", bare))[i % 2]
        requests = requests_of(project, each=each, generation=i)
        began = time.perf_counter()
        n, tokens = arm(url, requests, concurrency=concurrency)
        seconds = time.perf_counter() - began
        if n != len(requests):
            raise SystemExit(f"{name}: only {n} of {len(requests)} requests were answered")
        rates[name].append(tokens / seconds)
        replies[name].append(n / seconds)
        print(
            f"  {name}: {n} replies, {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s",
            flush=True,
        )
    mean = {name: statistics.mean(found) for name, found in rates.items()}
    return {
        "tokens_per_second": {name: round(x, 1) for name, x in mean.items()},
        "replies_per_second": {name: round(statistics.mean(x), 2) for name, x in replies.items()},
        "ratio": round(mean["ours"] / mean["bare"], 3),
        "runs": {name: [round(x, 1) for x in found] for name, found in rates.items()},
    }


def requests_of(project: Project, *, each: int, generation: int) -> list[Request]:
    """The project's own requests, `each` for every label; another generation has other seeds."""
    count = dict.fromkeys(project.labels, each)
    asked = RoundRequest(count=count, round_number=1, generation=generation, more_topics={})
    return plan_requests(project, asked, seeds=[])


def scripted(
    project: Project, *, rows: int, pairs: int, concurrency: int, delay: float
) -> dict[str, Any]:
    """The same against a server that only waits, in a process of its own."""
    command = [sys.executable, "-c", SCRIPTED, str(delay)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        try:
            url = process.stdout.readline().strip()
            found = side_by_side(url, project, rows=rows, pairs=pairs, concurrency=concurrency)
        finally:
            process.stdin.close()
    return found | {
        "delay_seconds": delay,
        "concurrency": concurrency,
        "ideal_replies_per_second": concurrency / delay,
    }


def reseed_rows(
    url: str, project: Project, *, rows: int, slots: int, encoder: Path
) -> dict[str, Any]:
    """Rows that pass every check, and the seconds for asking, reading and checking them."""
    each = -(-rows // len(project.labels))
    requests = requests_of(project, each=each, generation=77)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        endpoint = Endpoint(endpoint=url, model="m", concurrency=slots)
        ledger = Ledger(Path(home) / "ledger.jsonl", Budget())
        with Client(
            endpoint,
            url=url,
            key="none",
            model="m",
            cache=Path(home) / "cache",
            ledger=ledger,
        ) as client:
            replies = list(client.ask_all(requests))
    parsed = [
        row for reply in replies for row in parse_reply(reply, min_words=project.curate.min_words)
    ]
    records = [row for row in parsed if isinstance(row, Record)]
    asked = time.perf_counter() - began
    kept = curated(records, project, encoder)
    seconds = time.perf_counter() - began
    return figures(len(requests), len(records), kept, asked) | {
        "seconds_with_checks": round(seconds, 2)
    }


def distilabel_rows(
    url: str, project: Project, *, rows: int, python: Path, encoder: Path
) -> dict[str, Any]:
    """Rows that distilabel parsed with one of the project's labels, and those of them that pass Reseed's checks too."""
    labels = "; ".join(f"{label} ({line})" for label, line in project.labels.items())
    task = f"Classify a {project.generate.text_kind} as one of: {labels}."
    command = [
        python,
        ROOT / "bench" / "peer_distilabel.py",
        url,
        str(rows),
        task,
        str(PEER_TOKENS),
    ]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=550)
    if run.returncode:
        raise SystemExit(f"{python} can't run distilabel: {run.stderr.strip()[-400:]}")
    answer = json.loads(run.stdout.strip().splitlines()[-1])
    known = {label.casefold(): label for label in project.labels}
    records = [
        Record.create(
            replace_surrogates(row["input_text"]),
            known[row["label"].strip().casefold()],
            "synthetic",
        )
        for row in answer["rows"]
        if isinstance(row["input_text"], str)
        and isinstance(row["label"], str)
        and row["label"].strip().casefold() in known
    ]
    parsed = sum(
        isinstance(row["input_text"], str) and bool(row["label"]) for row in answer["rows"]
    )
    found = figures(rows, len(records), curated(records, project, encoder), answer["seconds"])
    return found | {"parsed_with_any_label": parsed}


def curated(records: list[Record], project: Project, encoder: Path) -> int:
    """How many pass the project's checks; there is no real text to compare with."""
    context = CurationContext(
        settings=project.curate,
        held_out=Fingerprints.from_records([]),
        embed=lambda texts: embed(encoder, texts, max_length=project.train.max_length),
    )
    return len(run_checks(records, context)[0])


def figures(asked: int, parsed: int, kept: int, seconds: float) -> dict[str, Any]:
    return {
        "asked": asked,
        "parsed": parsed,
        "curated": kept,
        "seconds": round(seconds, 2),
        "parsed_per_second": round(parsed / seconds, 3),
        "curated_per_second": round(kept / seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--project", type=Path, default=ROOT / "configs" / "bbc-news.yaml")
    parser.add_argument("--rows", type=int, default=80, help="requests of each run of part one")
    parser.add_argument("--pairs", type=int, default=2, help="runs of each")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument(
        "--peer-python", type=Path, help="a Python that has distilabel[openai] and requests"
    )
    parser.add_argument(
        "--peer-rows", type=int, default=40, help="rows asked for in part two, of each"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object last on stdout")
    options = parser.parse_args()
    project = load_project(options.project)
    weights = resolve(
        project.generate.model, config_dir=project.config_dir, cache=ROOT, kind="model"
    )

    print("against a scripted server:", flush=True)
    found: dict[str, Any] = {
        "scripted": scripted(project, rows=600, pairs=options.pairs, concurrency=16, delay=0.05)
    }
    print(f"against {weights.name} with {options.slots} slots:", flush=True)
    with local_server(weights, slots=options.slots) as url:
        found["local"] = side_by_side(
            url, project, rows=options.rows, pairs=options.pairs, concurrency=options.slots
        )
        if options.peer_python:
            encoder = resolve(
                project.train.model, config_dir=project.config_dir, cache=ROOT, kind="model"
            )
            rows = {"rows": options.peer_rows, "encoder": encoder}
            found["rows"] = {
                "reseed": reseed_rows(url, project, slots=options.slots, **rows),
                "distilabel": distilabel_rows(url, project, python=options.peer_python, **rows),
            }
        else:
            print(
                "rows per second compared with distilabel: left out, as --peer-python was not given",
                flush=True,
            )
    found["target"], found["reached"] = TARGET, found["local"]["ratio"] >= TARGET
    print(json.dumps(found) if options.json else json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
