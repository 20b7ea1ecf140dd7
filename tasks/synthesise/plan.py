"""Requests to LLMs, planned from the labels' descriptions.

Each request draws one subtopic of its label's description, one style and one value of each
attribute, so that the texts differ (attribute-conditioned prompts: Yu et al. 2023, "Large Language
Model as Attributed Training Data Generator", arXiv:2306.15895). Seed rows are shown in random
rotation. A share of the requests asks for texts near another label.
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

GOLDEN_RATIO = 0.6180339887498949  # its multiples modulo 1 fill every share evenly from the start
MAX_SEED_CHARACTERS = 600  # shown of a seed row
FOCUS_NEAR = 0.5  # share of the requests for a confused label that ask for text near the other one


class Focus(Figures):
    """What is hard on dev: subtopics of misclassified rows, and labels that are confused."""

    topics: dict[str, list[str]]
    near: dict[str, list[str]]


class RoundRequest(Figures):
    """What one round of generation is asked for.

    `count` is rows per label, `more_topics` the proposed subtopics by label, `focus` what is hard
    on dev.
    """

    count: dict[str, int]
    round_number: int
    generation: int
    more_topics: dict[str, list[str]]
    focus: Focus | None = None


def split_subtopics(description: str) -> list[str]:
    """The parts of a description, split at `;` where it has one, otherwise at `,`."""
    parts = [p.strip(" .") for p in description.split(";" if ";" in description else ",")]
    return [p for p in parts if p] or [description]


def plan_requests(project: Project, asked: RoundRequest, *, seeds: list[Record]) -> list[Request]:
    """The requests of one round, the labels interleaved; the same arguments give the same requests.

    A request's tag holds its label, its generator, the rows asked for, and what was drawn; in a
    multi-label project also `labels`, which are two in a share of the requests (`generate.pairs`).
    Raises UserError where no generator is left.
    """
    planner = _Planner(project, asked, seeds)
    per_reply = project.generate.rows_per_reply
    requests = [
        planner.request(label, number, rows=min(per_reply, rows - number * per_reply))
        for label, rows in asked.count.items()
        for number in range(math.ceil(rows / per_reply))
    ]
    random.Random(planner.series).shuffle(requests)  # noqa: S311
    return requests


class _Planner:
    """Plans the requests of one round."""

    def __init__(self, project: Project, asked: RoundRequest, seeds: list[Record]) -> None:
        self.project, self.asked, self.seeds = project, asked, seeds
        self.series = f"{project.generate.seed}/{asked.generation}/{asked.round_number}"
        self.generators = active_generators(project) if any(asked.count.values()) else {}

    def request(self, label: str, number: int, *, rows: int) -> Request:
        """The label's request `number`, for so many rows."""
        g, name = self.project.generate, f"{self.series}/{label}/{number}"
        rng = random.Random(hashlib.sha256(name.encode()).digest())  # noqa: S311
        topics = self._topics(label)
        tag: dict[str, Any] = {"label": label, "topic": topics[number % len(topics)]}
        tag["style"] = rng.choice(g.styles)
        if self.project.multi_label:
            self._draw_pair(tag, rng)
        labels = set(tag.get("labels", [label]))
        examples = [r for r in self.seeds if labels <= set(r.labels)]
        shown = rng.sample(examples, min(g.examples, len(examples)))
        seed = rng.randrange(2**31)
        attributes = {
            attribute: rng.choice(values)
            for attribute, by_label in g.attributes.items()
            if (values := by_label.get(label) if isinstance(by_label, dict) else by_label)
        }
        near = self._near(label, rng)
        prompt = self._prompt(tag, attributes, near, rows, rng)
        tag |= {**attributes, "rows": rows, "prompt": prompt, "seeds": [r.id for r in shown]}
        tag |= {"near": near} if near else {}
        tag["generator"], endpoint = _pick_generator(self.generators, number)
        tag["round"] = self.asked.round_number
        if shown:
            texts = "\n\n".join(" ".join(r.text.split())[:MAX_SEED_CHARACTERS] for r in shown)
            prompt = f"Examples:\n\n{texts}\n\n{prompt} Write it anew: do not repeat the examples."
        return Request(
            (("user", prompt),),
            endpoint.temperature,
            endpoint.top_p,
            endpoint.max_tokens * rows,
            seed,
            schema=_row_schema(self.project) if g.format == "json" else None,
            tag=tag,
        )

    def _topics(self, label: str) -> list[str]:
        focus = self.asked.focus.topics.get(label) if self.asked.focus else None
        topics = split_subtopics(self.project.labels[label])
        return focus or topics + self.asked.more_topics.get(label, [])

    def _draw_pair(self, tag: dict[str, Any], rng: random.Random) -> None:
        """Add `labels`: the label alone, or with one that it occurs with, and its topic."""
        label = tag["label"]
        companions = self._companions(label)
        tag["labels"] = [label]
        if companions and rng.random() < self.project.generate.pairs:
            other = rng.choice(companions)
            topic = rng.choice(split_subtopics(self.project.labels[other]))
            tag |= {"labels": sorted([label, other]), "topic": f"{tag['topic']} and {topic}"}

    def _companions(self, label: str) -> list[str]:
        """The labels beside it in seed rows, with repeats; all others without seed rows."""
        if not self.seeds:
            return [other for other in self.project.label_names if other != label]
        return [o for r in self.seeds if label in r.labels for o in r.labels if o != label]

    def _near(self, label: str, rng: random.Random) -> str | None:
        """The label that the text should be close to, if any."""
        confused = self.asked.focus.near.get(label) if self.asked.focus else None
        if confused:
            return rng.choice(confused) if rng.random() < FOCUS_NEAR else None
        if rng.random() < self.project.generate.borderline:
            return rng.choice([other for other in self.project.label_names if other != label])
        return None

    def _prompt(
        self,
        tag: dict[str, Any],
        attributes: dict[str, str],
        near: str | None,
        rows: int,
        rng: random.Random,
    ) -> str:
        g, descriptions = self.project.generate, self.project.labels
        label = tag["label"]
        labels = [label, *(other for other in tag.get("labels", ()) if other != label)]
        prompt = g.prompt.format(
            text_kind=g.text_kind,
            topic=tag["topic"],
            style=tag["style"],
            label=" and ".join(labels),
            description="; and ".join(descriptions[k] for k in labels),
        )
        for name, value in attributes.items():
            prompt += f" {name.replace('_', ' ').capitalize()}: {value}."
        if near:
            topic = rng.choice(split_subtopics(descriptions[near]))
            prompt += f" It also touches on {topic}, but it is clearly about {tag['topic']}."
        return prompt + (_json_instruction(self.project, rows) if g.format == "json" else "")


def _json_instruction(project: Project, rows: int) -> str:
    names = ", ".join(project.label_names)
    which = f"`label`. The label is the one of these that the text is about: {names}."
    if project.multi_label:
        which = (
            f"`labels`. The labels are those of these that the text is about, one or more: {names}."
        )
    return (
        f"\n\nWrite {rows} of them, each different, as JSON: an object whose key `rows` holds a list "
        f"of objects with `text` and {which}"
    )


def active_generators(project: Project) -> dict[str, tuple[float, Endpoint]]:
    """The generators but for `curate.drop_generators`, with their shares of the requests.

    The shares add up to 1. Raises UserError where no generator is left.
    """
    every = project.generate.endpoints()
    dropped = project.curate.drop_generators
    active = {name: generator for name, generator in every.items() if name not in dropped}
    if not active:
        raise UserError(
            f"curate.drop_generators lists every generator ({', '.join(map(repr, every))}), so no "
            f"generator is left: take one off the list, or set generate.per_label to 0"
        )
    total = sum(share for share, _ in active.values())
    return {name: (share / total, endpoint) for name, (share, endpoint) in active.items()}


def unknown_generator_notices(project: Project) -> list[str]:
    """A notice for each name in `curate.drop_generators` that is not a generator (any more)."""
    known = list(project.generate.endpoints())
    return [
        f"curate.drop_generators lists {name!r}{suggestion(name, known)}, which is not a generator "
        f"({', '.join(map(repr, known))}): it rejects nothing"
        for name in project.curate.drop_generators
        if name not in known
    ]


def _pick_generator(
    generators: dict[str, tuple[float, Endpoint]], number: int
) -> tuple[str, Endpoint]:
    """The generator of a label's request `number`; any first requests keep the shares."""
    position, total = (number + 1) * GOLDEN_RATIO % 1.0, 0.0
    for name, (share, endpoint) in generators.items():
        total += share
        if position < total:
            return name, endpoint
    return name, endpoint


def _row_schema(project: Project) -> str:
    """The JSON schema of a reply with several rows, as canonical JSON text."""
    label = {"type": "string", "enum": project.label_names}
    row: dict[str, Any] = {"text": {"type": "string"}}
    row |= (
        {"labels": {"type": "array", "items": label}} if project.multi_label else {"label": label}
    )
    rows = {"rows": {"type": "array", "items": _object_schema(row)}}
    return json.dumps(_object_schema(rows), sort_keys=True, ensure_ascii=False)


def _object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
