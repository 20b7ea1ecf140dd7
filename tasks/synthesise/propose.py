"""Ask the LLM once for more subtopics of each label."""

from __future__ import annotations

import re
from pathlib import Path

from tasks import atomic
from tasks.atomic import digest_of
from tasks.llm.generators import resolve_generators
from tasks.llm.request import Request
from tasks.project import Project
from tasks.stage import StageResult, Table
from tasks.synthesise.plan import active_generators, split_subtopics
from tasks.synthesise.stage import ask_generator, open_ledger, run_until_complete
from tasks.text.tokens import fold, replace_surrogates, words
from tasks.workspace import Workspace

VERSION = 2
ASKED = 12  # subtopics a label
MOST_WORDS = 12  # of one subtopic: a longer line is talk
_BULLET = re.compile(r"^\s*(?:[-*•]+|\(?\d{1,2}[.):])\s*")


def parse_list(text: str, *, known: list[str]) -> list[str]:
    """The items of a list, a line each, without bullets, the known ones, and lines that are talk."""
    found: list[str] = []
    seen = {fold(k) for k in known}
    for line in text.splitlines():
        item = replace_surrogates(_BULLET.sub("", line)).strip(" .*\"'")
        listed = bool(_BULLET.match(line))
        if (
            listed
            and 1 <= len(words(item)) <= MOST_WORDS
            and not item.endswith(":")
            and fold(item) not in seen
        ):
            seen.add(fold(item))
            found.append(item)
    return found[:ASKED]


class ProposeResult(StageResult):
    """Proposed subtopics by label, and the labels that were not answered, each with its reason."""

    topics: dict[str, list[str]]
    unanswered: dict[str, str]

    def tables(self) -> dict[str, Table]:
        return {
            "topics": [
                {"label": label, "topic": t} for label, own in self.topics.items() for t in own
            ]
        }

    def summary(self) -> str:
        return "\n".join(
            f"{label}: no subtopics were proposed: {why}" for label, why in self.unanswered.items()
        )


def propose(project: Project, *, generation: int, workspace: Workspace) -> ProposeResult:
    """`topics.json`: more subtopics for each label, proposed by the first generator. A label whose reply holds no list has none.

    A label without a reply (`unanswered`) is asked for again by a later call.
    """
    source = resolve_generators(project, workspace=workspace)[proposing_generator(project)]
    g = project.generate

    def build(out: Path, scratch: Path) -> ProposeResult:
        requests, ledger = (
            proposal_requests(project),
            open_ledger(project, generation=generation, workspace=workspace),
        )
        replies, outcome = ask_generator(source, requests, ledger=ledger, workspace=workspace)
        topics = {
            r.request.tag["label"]: parse_list(
                r.text or "", known=split_subtopics(r.request.tag["line"])
            )
            for r in replies
        }
        atomic.write_json(out / "topics.json", topics)
        unanswered = {
            label: outcome.parked.get(label)
            or outcome.stopped
            or "the request failed with all its tries"
            for label in outcome.lost
        }
        return ProposeResult(topics=topics, unanswered=unanswered)

    params = {
        "labels": project.labels,
        "text_kind": g.text_kind,
        "seed": g.seed,
        "generation": generation,
    }
    inputs = {"source": digest_of(source.identity())}
    return run_until_complete(
        ProposeResult,
        "propose",
        cut_short=lambda r: bool(r.unanswered),
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def proposing_generator(project: Project) -> str:
    """The name of the generator that is asked for subtopics. Raises UserError where none is left."""
    return next(iter(active_generators(project)))


def proposal_requests(project: Project) -> list[Request]:
    """A request for each label."""
    g = project.generate
    return [
        Request(
            (("user", _question(g.text_kind, label, line)),),
            0.7,
            0.95,
            200,
            g.seed,
            tag={"label": label, "line": line},
        )
        for label, line in project.labels.items()
    ]


def _question(kind: str, label: str, line: str) -> str:
    return (
        f"List {ASKED} different specific subtopics that a {kind} in the category {label!r} ({line}) could be about. "
        "Write one on each line, numbered, a few words each, nothing else."
    )
