"""Plan requests to an LLM from the labels' descriptions, and read its replies as records.

Each request draws one subtopic of its label's description and one style, so that the texts differ (attribute-conditioned
prompts: Yu et al. 2023, "Large Language Model as Attributed Training Data Generator", arXiv:2306.15895).
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tasks import files
from tasks.errors import UserError
from tasks.files import Stage
from tasks.llm.client import Client, Reply, Request
from tasks.progress import Report, silent
from tasks.project import Generate, Project
from tasks.records import Record, Rejected, count_by_check, count_by_label, whole, words
from tasks.references import digest_of_path, resolve

VERSION = 1
FIRST_GUESS = 0.95  # acceptance assumed before any was measured
LEAST_GUESS = 0.2  # a round never asks for more than five times what is missing

_REFUSAL = re.compile(
    r"^\W*(i['’]?m sorry|i am sorry|sorry,|i can(?:no|['’])t|i am unable|i['’]m unable|as an ai\b|as a language model|"
    r"i do not have (?:access|personal)|i don['’]t have (?:access|personal))",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^\W*(?:sure|certainly|of course|here(?:['’]s| is| are)|okay)\b[^\n]{0,160}?[:!]\s*\n+", re.IGNORECASE
)
_HEADING = re.compile(r"^(?:#+ .*|\*{0,2}(?:title|headline|subject)\s*:.*)\n+", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"\[[A-Z][A-Za-z' /]{1,30}\]|\{[a-z_]+\}|<(?:name|date|place|city|company|location)>|(?i:lorem ipsum)"
)
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)|[。！？][”’」』）]*")


def subtopics(description: str) -> list[str]:
    """The parts of a description: at `;` where it has one, otherwise at `,`."""
    parts = [p.strip(" .") for p in description.split(";" if ";" in description else ",")]
    return [p for p in parts if p] or [description]


def missing(project: Project, accepted: dict[str, int]) -> dict[str, int]:
    """Rows that each label still lacks of its quota; labels that have it are left out."""
    quota = project.generate.quota(project.label_names, {})
    return {label: n for label in project.label_names if (n := quota[label] - accepted.get(label, 0)) > 0}


def to_request(
    lacking: dict[str, int], *, asked: dict[str, int], accepted: dict[str, int], budget: int
) -> dict[str, int]:
    """Requests a label for the next round: what is missing over the label's measured acceptance, within `budget`.

    A budget too small for all is shared in proportion.
    """
    wanted = {}
    for label, n in lacking.items():
        tried = asked.get(label, 0)
        rate = max(accepted.get(label, 0) / tried, LEAST_GUESS) if tried >= 10 else FIRST_GUESS
        wanted[label] = math.ceil(n / rate)
    total, budget = sum(wanted.values()), max(budget, 0)
    if total <= budget:
        return wanted
    shared = {label: n * budget // total for label, n in wanted.items()}
    by_remainder = sorted(wanted, key=lambda label: -(wanted[label] * budget % total))
    for label in by_remainder[: budget - sum(shared.values())]:
        shared[label] += 1
    return {label: n for label, n in shared.items() if n}


def request_budget(generate: Generate, labels: int) -> int:
    """Requests that one retrain may make."""
    return generate.budget.requests or 10 * sum(generate.quota([str(i) for i in range(labels)], {}).values())


def plan(
    project: Project, *, count: dict[str, int], seeds: list[Record], round_number: int, generation: int
) -> list[Request]:
    """Requests of one round, the labels interleaved; the same arguments give the same requests."""
    g = project.generate
    requests = []
    for label, n in count.items():
        topics = subtopics(project.labels[label])
        examples = [r for r in seeds if r.label == label]
        for i in range(n):
            name = f"{g.seed}/{generation}/{round_number}/{label}/{i}"
            rng = random.Random(hashlib.sha256(name.encode()).digest())  # noqa: S311
            topic, style = topics[i % len(topics)], rng.choice(g.styles)
            prompt = g.prompt.format(
                text_kind=g.text_kind, label=label, description=project.labels[label], topic=topic, style=style
            )
            shown = rng.sample(examples, min(g.examples, len(examples)))
            if shown:
                texts = "\n\n".join(" ".join(r.text.split())[:600] for r in shown)
                prompt = f"Examples:\n\n{texts}\n\n{prompt} Write it anew: do not repeat the examples."
            tag = {
                "label": label,
                "topic": topic,
                "style": style,
                "seeds": [r.id for r in shown],
                "round": round_number,
            }
            seed = rng.randrange(2**31)
            requests.append(Request((("user", prompt),), g.temperature, g.top_p, g.max_tokens, seed, tag))
    order = random.Random(f"{g.seed}/{generation}/{round_number}")  # noqa: S311
    order.shuffle(requests)
    return requests


def parse(reply: Reply, *, model: str, min_words: int) -> Record | Rejected:
    """The record in a reply, or why there is none. Nothing is mended except the wrapping: a preamble line, a heading,
    and a last sentence that the token limit cut.
    """
    tag = reply.request.tag
    lineage = {
        "topic": tag["topic"],
        "style": tag["style"],
        "seeds": tag["seeds"],
        "round": tag["round"],
        "generator": model,
        "request": reply.key,
        "tokens": [reply.prompt_tokens, reply.completion_tokens],
    }
    raw = whole(reply.text or "")

    def rejected(check: str, reason: str, value: float | None = None) -> Rejected:
        return Rejected(Record.of(raw, tag["label"], "synthetic", **lineage), check, reason, value)

    if not raw.strip():
        return rejected("empty_reply", f"the model sent no text (finish_reason {reply.finish_reason})")
    if reply.finish_reason == "content_filter" or _REFUSAL.match(raw):
        return rejected("refusal", "the model declined")
    text = _HEADING.sub("", _PREAMBLE.sub("", raw.strip() + "\n")).strip().strip("*").strip()
    if reply.finish_reason == "length":
        ends = list(_SENTENCE_END.finditer(text))
        text = text[: ends[-1].end()] if ends else ""
    n = len(words(text))
    if n < min_words:
        return rejected("fragment", f"{n} whole words are fewer than {min_words}", n)
    holes = _PLACEHOLDER.findall(text)
    if holes:
        return rejected("placeholder", f"a template's hole was left: {holes[0]!r}", len(holes))
    return Record.of(text, tag["label"], "synthetic", **lineage)


def synthesise(
    project: Project,
    *,
    count: dict[str, int],
    round_number: int,
    generation: int,
    splits: Stage,
    beside: Path,
    home: Path,
    report: Report = silent,
) -> Stage:
    """One round of rows from the LLM: `rows.jsonl` and `rejected.jsonl`, with requests and tokens counted.

    `count` is requests a label. Raises UserError for what no retry mends, TransientError when the endpoint is down;
    what was bought until then is kept and not asked for again.
    """
    g = project.generate
    local = g.endpoint == "local"
    weights = resolve(g.model, beside=beside, cache=home / "cache", kind="model") if local else None
    # the name in cache keys: a local model is known by its content, wherever it lies
    model = digest_of_path(weights)[:24] if weights else g.model
    params = g.model_dump(
        mode="json", exclude={"concurrency", "timeout_seconds", "retries", "api_key_env", "per_label", "budget", "usd"}
    )
    params |= {"count": count, "round": round_number, "generation": generation, "labels": project.labels}
    params |= {"min_words": project.curate.min_words, "max_rounds": None}

    def build(out: Path, work: Path) -> dict[str, Any]:
        seeds = files.read_records(splits.directory / "seed.jsonl") if g.examples else []
        requests = plan(project, count=count, seeds=seeds, round_number=round_number, generation=generation)
        with ExitStack() as stack:
            url, key = g.endpoint, os.environ.get(g.api_key_env, "") or "none"
            if weights:
                from tasks.llm.local import local_server

                url, key = stack.enter_context(local_server(weights, slots=g.concurrency)), "none"
            client = Client(
                base_url=url,
                api_key=key,
                name=g.endpoint,
                model=model,
                cache=home / "cache" / "llm",
                timeout=g.timeout_seconds,
                retries=g.retries,
                concurrency=g.concurrency,
            )
            stack.callback(client.close)
            replies = []
            for reply in client.ask_all(requests):
                replies.append(reply)
                report(len(replies), len(requests), "replies")
        # neither the order of arrival nor the endpoint's address may matter
        replies.sort(key=lambda r: r.request.key("local", model))
        parsed = [parse(r, model=g.model, min_words=project.curate.min_words) for r in replies]
        rows = [p for p in parsed if isinstance(p, Record)]
        rejected = [p for p in parsed if isinstance(p, Rejected)]
        files.write_records(out / "rows.jsonl", rows)
        files.write_records(out / "rejected.jsonl", rejected)
        return {
            "requests": dict(count),
            "replies": len(replies),
            "lost": len(requests) - len(replies),
            "bought": sum(r.bought for r in replies),
            "rows": count_by_label(rows),
            "rejected": count_by_check(rejected),
            "prompt_tokens": sum(r.prompt_tokens for r in replies),
            "completion_tokens": sum(r.completion_tokens for r in replies),
        }

    inputs = {"splits": splits.digest, "model": model}
    return files.stage(home, "synthesise", version=VERSION, params=params, inputs=inputs, build=build)


def check_endpoint(project: Project) -> None:
    """Raises UserError when the project needs a key that the environment does not hold."""
    g = project.generate
    if g.endpoint.startswith("https://api.openai.com") and not os.environ.get(g.api_key_env):
        raise UserError(f"generate.endpoint is {g.endpoint} but the environment has no {g.api_key_env}: export the key")
