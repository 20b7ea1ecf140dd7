"""Ask the LLM once for more subtopics of each label."""

from __future__ import annotations

import re
from pathlib import Path

from tasks import atomic
from tasks.atomic import digest_of
from tasks.llm.generators import resolve_generators
from tasks.llm.request import Request
from tasks.project import Project
from tasks.stage import StageResult, Table, run_stage
from tasks.synthesise.ask import ask_generator, open_ledger, run_until_complete
from tasks.synthesise.plan import active_generators, split_subtopics
from tasks.text.tokens import fold, replace_surrogates, split_words
from tasks.workspace import Workspace

VERSION = 3
TOPICS_PER_LABEL = 12
MAX_TOPIC_WORDS = 12  # a longer line is conversation
_BULLET = re.compile(r"^\s*(?:[-*•]+|\(?\d{1,2}[.):])\s*")


class ProposeResult(StageResult):
    """Proposed subtopics by label, and the reason for each label that was not answered."""

    topics: dict[str, list[str]]
    unanswered: dict[str, str]

    def tables(self) -> dict[str, Table]:
        """The subtopics, one per row."""
        rows = [
            {"label": k, "topic": topic} for k, topics in self.topics.items() for topic in topics
        ]
        return {"topics": [*rows]}

    def summary(self) -> str:
        """The labels without proposed subtopics."""
        return "\n".join(
            f"{label}: no subtopics were proposed: {reason}"
            for label, reason in self.unanswered.items()
        )


def propose(project: Project, *, generation: int, workspace: Workspace) -> ProposeResult:
    """`topics.json`: more subtopics of each label, proposed by the first generator.

    A label whose reply holds no list has none; a label without a reply (`unanswered`) is asked for
    again by a later call.
    """
    generator = resolve_generators(project, workspace=workspace)[proposing_generator(project)]
    requests = proposal_requests(project)

    def build(out: Path, scratch: Path) -> ProposeResult:
        ledger = open_ledger(project, generation=generation, workspace=workspace)
        replies, outcome = ask_generator(generator, requests, ledger=ledger, workspace=workspace)
        topics = {
            r.request.label: parse_list(
                r.text or "", known=split_subtopics(project.labels[r.request.label])
            )
            for r in replies
        }
        atomic.write_json(out / "topics.json", topics)
        reason = outcome.stopped or "the request failed after every retry"
        unanswered = {label: outcome.deferred.get(label, reason) for label in outcome.lost}
        return ProposeResult(topics=topics, unanswered=unanswered)

    def attempt(number: int) -> ProposeResult:
        g = project.generate
        return run_stage(
            ProposeResult,
            "propose",
            workspace=workspace,
            version=VERSION,
            params={
                "labels": project.labels,
                "text_kind": g.text_kind,
                "seed": g.seed,
                "generation": generation,
                "attempt": number,
            },
            inputs={"generator": digest_of(generator.identity())},
            build=build,
        )

    return run_until_complete(attempt, is_incomplete=lambda r: bool(r.unanswered))


def parse_list(text: str, *, known: list[str]) -> list[str]:
    """The items of a list with bullets, one per line, without the `known` ones and conversation."""
    items: dict[str, str] = {}
    known_folded = {fold(k) for k in known}
    for line in filter(_BULLET.match, text.splitlines()):
        item = replace_surrogates(_BULLET.sub("", line)).strip(" .*\"'")
        is_topic = 1 <= len(split_words(item)) <= MAX_TOPIC_WORDS and not item.endswith(":")
        if is_topic and fold(item) not in known_folded:
            items.setdefault(fold(item), item)
    return list(items.values())[:TOPICS_PER_LABEL]


def proposing_generator(project: Project) -> str:
    """The generator that is asked for subtopics. Raises UserError where none is left."""
    return next(iter(active_generators(project)))


def proposal_requests(project: Project) -> list[Request]:
    """One request for each label."""
    g = project.generate
    return [
        Request(
            (("user", _question(g.text_kind, label, description)),),
            temperature=0.7,
            top_p=0.95,
            max_tokens=200,
            seed=g.seed,
            tag={"label": label},
        )
        for label, description in project.labels.items()
    ]


def _question(kind: str, label: str, description: str) -> str:
    return (
        f"List {TOPICS_PER_LABEL} different specific subtopics that a {kind} in the category "
        f"{label!r} ({description}) could be about. "
        "Write one on each line, numbered, a few words each, nothing else."
    )
