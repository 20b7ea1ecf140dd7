"""Requests to LLMs from the labels' descriptions.

Each request draws one subtopic of its label's description, one style and one value of each attribute, so that the texts
differ (attribute-conditioned prompts: Yu et al. 2023, "Large Language Model as Attributed Training Data Generator",
arXiv:2306.15895). Seed rows are shown in random rotation. A share of the requests asks for texts near another label.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from typing import Any

from tasks.errors import UserError, suggestion
from tasks.figures import Figures
from tasks.llm.request import Request
from tasks.project import Endpoint, Project
from tasks.records import Record

GOLDEN = (
    0.6180339887498949  # its multiples modulo 1 fill every share evenly from the first request on
)
SHOWN_CHARACTERS = 600  # of a seed row
FOCUS_NEAR = 0.5  # of the requests for a label that is confused with another


class Focus(Figures):
    """What the dev set says is hard: subtopics of missed rows, and labels that are mistaken for each other."""

    topics: dict[str, list[str]]
    near: dict[str, list[str]]


class RoundRequest(Figures):
    """What one round of generation is asked for.

    `count` is rows per label, `more_topics` the proposed subtopics by label, `focus` what dev says is hard.
    """

    count: dict[str, int]
    round_number: int
    generation: int
    more_topics: dict[str, list[str]]
    focus: Focus | None = None


def split_subtopics(description: str) -> list[str]:
    """The parts of a description: at `;` where it has one, otherwise at `,`."""
    parts = [p.strip(" .") for p in description.split(";" if ";" in description else ",")]
    return [p for p in parts if p] or [description]


def plan_requests(project: Project, asked: RoundRequest, *, seeds: list[Record]) -> list[Request]:
    """The requests of one round, the labels interleaved; the same arguments give the same requests.

    A request's tag holds its label, generator, rows asked for, and what was drawn; in a multi-label project also `labels`,
    which are two in a share of the requests (`generate.pairs`). Raises UserError where no generator is left to ask.
    """
    g, focus = project.generate, asked.focus
    series = f"{g.seed}/{asked.generation}/{asked.round_number}"
    requests = []
    pairs = _together(project, seeds)
    generators = active_generators(project) if any(asked.count.values()) else {}
    for label, rows in asked.count.items():
        topics = split_subtopics(project.labels[label]) + asked.more_topics.get(label, [])
        topics = (focus.topics.get(label) if focus else None) or topics
        for i in range(math.ceil(rows / g.rows_per_reply)):
            name = f"{series}/{label}/{i}"
            rng = random.Random(hashlib.sha256(name.encode()).digest())  # noqa: S311
            wanted_rows = min(g.rows_per_reply, rows - i * g.rows_per_reply)
            drawn = {
                "label": label,
                "topic": topics[i % len(topics)],
                "style": rng.choice(g.styles),
            }
            if project.multi_label:
                drawn |= _about_two(project, drawn, pairs[label], rng)
            about = set(drawn.get("labels", [label]))
            examples = [r for r in seeds if about <= set(r.labels)]
            source = _generator(generators, i)
            requests.append(
                _request(
                    project,
                    drawn,
                    rng,
                    source=source,
                    examples=examples,
                    rows=wanted_rows,
                    focus=focus,
                )
            )
            requests[-1].tag["round"] = asked.round_number
    random.Random(series).shuffle(requests)  # noqa: S311
    return requests


def _together(project: Project, seeds: list[Record]) -> dict[str, list[str]]:
    """For each label the labels that stand beside it in seed rows, as often as they do; any other where there are no seed rows."""
    names = project.label_names
    if not seeds:
        return {label: [other for other in names if other != label] for label in names}
    return {
        label: [o for r in seeds if label in r.labels for o in r.labels if o != label]
        for label in names
    }


def _about_two(
    project: Project, drawn: dict[str, Any], beside: list[str], rng: random.Random
) -> dict[str, Any]:
    """What a request of a multi-label project asks for: the label drawn, or it and one that it occurs with."""
    label = drawn["label"]
    if not beside or rng.random() >= project.generate.pairs:
        return {"labels": [label]}
    other = rng.choice(beside)
    topic = rng.choice(split_subtopics(project.labels[other]))
    return {"labels": sorted([label, other]), "topic": f"{drawn['topic']} and {topic}"}


def _request(
    project: Project,
    drawn: dict[str, Any],
    rng: random.Random,
    *,
    source: tuple[str, Endpoint],
    examples: list[Record],
    rows: int,
    focus: Focus | None,
) -> Request:
    g, label = project.generate, str(drawn["label"])
    asked = [label, *(other for other in drawn.get("labels", ()) if other != label)]
    fields = {name: value for name, value in drawn.items() if name != "labels"}
    fields |= {
        "label": " and ".join(asked),
        "description": "; and ".join(project.labels[k] for k in asked),
    }
    prompt = g.prompt.format(text_kind=g.text_kind, **fields)
    shown = rng.sample(examples, min(g.examples, len(examples)))
    seed = rng.randrange(2**31)
    attributes = {
        name: rng.choice(_values(v, label)) for name, v in g.attributes.items() if _values(v, label)
    }
    prompt += "".join(
        f" {name.replace('_', ' ').capitalize()}: {value}." for name, value in attributes.items()
    )
    near = _near(project, label, rng, focus)
    if near:
        topic = rng.choice(split_subtopics(project.labels[near]))
        prompt += f" It also touches on {topic}, but it is clearly about {drawn['topic']}."
    schema = None
    if g.format == "json":
        schema = row_schema(project.label_names, several=project.multi_label)
        names = ", ".join(project.label_names)
        which = f"`label`. The label is the one of these that the text is about: {names}."
        if project.multi_label:
            which = f"`labels`. The labels are those of these that the text is about, one or more: {names}."
        prompt += (
            f"\n\nWrite {rows} of them, each different, as JSON: an object whose key `rows` holds a list of objects with "
            f"`text` and {which}"
        )
    tag = {**drawn, **attributes, "rows": rows, "prompt": prompt, "seeds": [r.id for r in shown]}
    tag |= {"near": near} if near else {}
    name, endpoint = source
    tag["generator"] = name
    if shown:
        texts = "\n\n".join(" ".join(r.text.split())[:SHOWN_CHARACTERS] for r in shown)
        prompt = f"Examples:\n\n{texts}\n\n{prompt} Write it anew: do not repeat the examples."
    return Request(
        (("user", prompt),),
        endpoint.temperature,
        endpoint.top_p,
        endpoint.max_tokens * rows,
        seed,
        schema=schema,
        tag=tag,
    )


def _values(values: Any, label: str) -> tuple[str, ...]:
    return values.get(label, ()) if isinstance(values, dict) else values


def _near(project: Project, label: str, rng: random.Random, focus: Focus | None) -> str | None:
    """The label that this text is to lie close to, if any."""
    confused = focus.near.get(label) if focus else None
    if confused:
        return rng.choice(confused) if rng.random() < FOCUS_NEAR else None
    if rng.random() < project.generate.borderline:
        return rng.choice([other for other in project.label_names if other != label])
    return None


def active_generators(project: Project) -> dict[str, tuple[float, Endpoint]]:
    """The generators that are asked: all but `curate.drop_generators`, with their shares of the requests, which add up to 1.

    Raises UserError where none is left.
    """
    every = project.generate.endpoints()
    left = {name: own for name, own in every.items() if name not in project.curate.drop_generators}
    if not left:
        raise UserError(
            f"curate.drop_generators holds every generator of the project ({', '.join(map(repr, every))}): nobody is left to ask; "
            f"take one out of it, or set generate.per_label to 0"
        )
    total = sum(share for share, _ in left.values())
    return {name: (share / total, endpoint) for name, (share, endpoint) in left.items()}


def unknown_generator_notices(project: Project) -> list[str]:
    """A sentence for each name in `curate.drop_generators` that is no generator's: it may be one that the project had once."""
    known = list(project.generate.endpoints())
    return [
        f"curate.drop_generators holds {name!r}{suggestion(name, known)}, which none of the generators is called: "
        f"{', '.join(map(repr, known))}; it sets nothing aside"
        for name in project.curate.drop_generators
        if name not in known
    ]


def _generator(sources: dict[str, tuple[float, Endpoint]], number: int) -> tuple[str, Endpoint]:
    """The generator of a label's request `number`: every prefix of the requests keeps the shares."""
    at, total = (number + 1) * GOLDEN % 1.0, 0.0
    for name, (share, endpoint) in sources.items():
        total += share
        if at < total:
            return name, endpoint
    return name, endpoint


def row_schema(labels: list[str], *, several: bool = False) -> str:
    """The JSON schema of a reply with several rows, as canonical JSON text; with `several` a row has a list of labels."""
    name, one = "labels" if several else "label", {"type": "string", "enum": labels}
    row = {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            name: {"type": "array", "items": one} if several else one,
        },
        "required": ["text", name],
        "additionalProperties": False,
    }
    rows = {"type": "array", "items": row}
    whole = {
        "type": "object",
        "properties": {"rows": rows},
        "required": ["rows"],
        "additionalProperties": False,
    }
    return json.dumps(whole, sort_keys=True, ensure_ascii=False)
