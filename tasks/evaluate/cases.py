"""A project's own tests of what its classifier must be able to do, as a YAML file: read strictly, filled in, graded.

Behavioural testing after CheckList (Ribeiro et al. 2020, "Beyond Accuracy", arXiv:2005.04118), with its three kinds:
minimum functionality (a text has a label), invariance (a change leaves the answer), directional (a change moves a probability).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from tasks.errors import UserError, suggestion
from tasks.project import Project
from tasks.project.base import Positive, Section, Texts
from tasks.project.reader import read_mapping, validate_mapping
from tasks.records import Label, label_text

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["minimum_functionality", "invariance", "directional"]
Pair = Annotated[tuple[str, str], Field(strict=False)]
OneOrMore = Annotated[
    Texts, BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]

# what a kind asks for, and what would mean nothing to it
NEEDS = {
    "minimum_functionality": (("texts", "label"), ("pairs", "vary", "moves", "by")),
    "invariance": ((), ("label", "moves", "by")),
    "directional": (("pairs", "label", "moves"), ("texts", "vary")),
}


class Check(Section):
    """One test: texts, or templates with `{slot}`, and what is expected of the answers."""

    kind: Kind
    texts: Texts | None = None
    pairs: Annotated[tuple[Pair, ...], Field(strict=False)] | None = None
    vary: str | None = None
    label: OneOrMore | None = None
    moves: Literal["rise", "fall"] | None = None
    by: Annotated[float, Field(gt=0, le=1)] | None = None
    most: Positive = 20

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """The templates that are filled alike: pairs, or each text alone."""
        return (
            list(self.pairs) if self.pairs is not None else [(text,) for text in self.texts or ()]
        )


class Cases(Section):
    """The file: slots with the values that fill them, and tests by name."""

    slots: dict[str, Texts] = Field(default_factory=dict)
    tests: dict[str, Check]


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a test: its texts, two or more where answers are compared."""

    test: str
    texts: tuple[str, ...]


def load_cases(project: Project) -> Cases:
    """The project's `evaluate.cases`, Raises UserError: file, test, mistake, remedy."""
    path = project.config_dir / str(project.evaluate.cases)
    remedy = "write it, or leave `evaluate.cases` out of the project file"
    raw = read_mapping(path, if_missing=remedy, start_with="`tests:`")
    cases = validate_mapping(Cases, raw, path)
    if not cases.tests:
        raise UserError(
            f"{path} has no tests: write one below `tests:`, or leave `evaluate.cases` out"
        )
    mistakes = [
        f"{path}: the slot {name!r} has no values: give some"
        for name, v in cases.slots.items()
        if not v
    ]
    for name, check in cases.tests.items():
        mistakes += [
            f"{path}: the test {name!r} {mistake}"
            for mistake in _mistakes(check, cases.slots, project)
        ]
    if mistakes:
        raise UserError("\n".join(mistakes))
    return cases


def _mistakes(check: Check, slots: Mapping[str, Texts], project: Project) -> Iterator[str]:
    needs, refuses = NEEDS[check.kind]
    kind = check.kind.replace("_", " ")
    yield from (
        f"has no {key!r}, which {kind} needs: add it" for key in needs if not _given(check, key)
    )
    yield from (
        f"has {key!r}, which means nothing to {kind}: remove it"
        for key in refuses
        if _given(check, key)
    )
    given = tuple(key for key in ("pairs", "texts", "vary") if _given(check, key))
    if check.kind == "invariance" and given not in (("pairs",), ("texts", "vary")):
        yield "needs either `pairs` of texts that must be answered alike, or `texts` and the slot to `vary`: give one of them"
    if (check.pairs is not None or check.texts is not None) and not check.groups:
        yield "has no text: write at least one"
    for label in check.label or ():
        if label not in project.labels:
            yield f"expects the label {label!r}{suggestion(label, list(project.labels))}, which is not the project's: mend it"
    if (
        check.label is not None
        and len(check.label) != 1
        and (check.kind == "directional" or not project.multi_label)
    ):
        yield f"has {len(check.label)} labels where there is one: write a single label"
    for text in (text for group in check.groups for text in group):
        yield from _misfilled(text, slots, check.vary if given == ("texts", "vary") else None)


def _given(check: Check, key: str) -> bool:
    return getattr(check, key) is not None


def _misfilled(text: str, slots: Mapping[str, Texts], vary: str | None) -> Iterator[str]:
    try:
        used = [name for _, name in _parts(text) if name is not None]
    except ValueError as e:
        yield f"has the text {text!r}, whose braces don't close ({e}): write {{slot}}, and {{{{ for a brace"
        return
    if not text.strip():
        yield "has an empty text: write it, or remove it"
    for name in used:
        if name not in slots:
            yield f"uses the slot {name!r}{suggestion(name, list(slots))}, which is not among `slots`: add it there"
    if vary is not None and vary not in used:
        yield f"varies the slot {vary!r}, which the text {text!r} has not: put {{{vary}}} into it"


def _parts(template: str) -> list[tuple[str, str | None]]:
    """Its literal texts, each with the slot that follows it, if any. Raises ValueError for a stray brace, or `{a.b}` and `{a!r}`."""
    found = []
    for literal, name, spec, conversion in Formatter().parse(template):
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise ValueError(f"{{{name}}} is no slot")
        found.append((literal, name))
    return found


def filled(cases: Cases) -> list[Case]:
    """Every test's cases: all ways to fill its templates, or `most` of them drawn with the test's name as the seed."""
    found = []
    for name, check in cases.tests.items():
        ways = [_ways(group, cases.slots, check.vary) for group in check.groups]
        sizes = [prod(len(values) for values in own.values()) for own in ways]
        for index in _drawn(sum(sizes), check.most, seed=name):
            which = 0
            while index >= sizes[which]:
                index -= sizes[which]
                which += 1
            chosen = {}
            for slot, values in ways[which].items():
                index, at = divmod(index, len(values))
                chosen[slot] = values[at]
            found.append(
                Case(name, tuple(_variants(check.groups[which], chosen, cases.slots, check.vary)))
            )
    return found


def _ways(group: Sequence[str], slots: Mapping[str, Texts], vary: str | None) -> dict[str, Texts]:
    """The slots that the templates use, in order, without the one that varies within a case."""
    used = [name for text in group for _, name in _parts(text) if name is not None and name != vary]
    return {name: slots[name] for name in dict.fromkeys(used)}


def _drawn(size: int, most: int, *, seed: str) -> list[int]:
    if size <= most:
        return list(range(size))
    return sorted(random.Random(seed).sample(range(min(size, 2**62)), most))  # noqa: S311  (a range has no longer length)


def _variants(
    group: Sequence[str], chosen: Mapping[str, str], slots: Mapping[str, Texts], vary: str | None
) -> Iterator[str]:
    for own in [chosen] if vary is None else [{**chosen, vary: value} for value in slots[vary]]:
        yield from (
            "".join(literal + (own[name] if name else "") for literal, name in _parts(text))
            for text in group
        )


def failure(
    check: Check, answers: Sequence[Label], p: np.ndarray, labels: Sequence[str]
) -> dict[str, str] | None:
    """What was expected of one case and what was answered, where that is not met.

    `answers` are of the case's texts, `p` their probabilities, shape (texts, labels), in the order of `labels`, the model's own.
    """
    if check.kind == "invariance":
        same = len(set(answers)) == 1
        told = " / ".join(dict.fromkeys(map(label_text, answers)))
        return None if same else {"expected": "the same answer", "answered": told}
    expected = check.label or ()
    if check.kind == "minimum_functionality":
        own = answers[0]
        met = (tuple(sorted(set(expected))) if isinstance(own, tuple) else expected[0]) == own
        return (
            None if met else {"expected": label_text(tuple(expected)), "answered": label_text(own)}
        )
    by = 0.01 if check.by is None else check.by
    wanted = f"the probability of {expected[0]} {check.moves}s by {by:g}"
    if expected[0] not in labels:  # a champion from before the label
        return {"expected": wanted, "answered": "the model has no such label"}
    before, after = (float(v) for v in p[:, list(labels).index(expected[0])])
    met = (after - before if check.moves == "rise" else before - after) >= by
    return None if met else {"expected": wanted, "answered": f"{before:.3f} to {after:.3f}"}
