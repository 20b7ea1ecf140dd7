"""A project's own tests of its classifier: a YAML file of templates, read strictly and filled in.

Behavioural testing after CheckList (Ribeiro et al. 2020, "Beyond Accuracy", arXiv:2005.04118), with
its three kinds: minimum functionality (a text has a label), invariance (a change leaves the
answer), directional (a change moves a probability).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from string import Formatter
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from tasks.errors import UserError, suggestion
from tasks.project import Project
from tasks.project.base import Positive, Section, Texts
from tasks.project.reader import read_mapping, validate_mapping

Kind = Literal["minimum_functionality", "invariance", "directional"]
Pair = Annotated[tuple[str, str], Field(strict=False)]
OneOrMore = Annotated[
    Texts, BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]

# the keys that a kind needs, and those that do not apply to it
KEYS = {
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
        """The templates that are filled together: pairs, or each text alone."""
        if self.pairs is not None:
            return list(self.pairs)
        return [(text,) for text in self.texts or ()]

    @property
    def templates(self) -> Iterator[str]:
        """Every template."""
        return (template for group in self.groups for template in group)

    def has(self, key: str) -> bool:
        """True where the file gives the key."""
        return getattr(self, key) is not None


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
    """The project's `evaluate.cases`. Raises UserError with file, test, mistake and remedy."""
    path = project.config_dir / str(project.evaluate.cases)
    remedy = "write it, or remove `evaluate.cases` from the project file"
    raw = read_mapping(path, if_missing=remedy, start_with="`tests:`")
    cases = validate_mapping(Cases, raw, path)
    if not cases.tests:
        raise UserError(
            f"{path} has no tests: write one below `tests:`, or remove `evaluate.cases`"
        )
    mistakes = [
        f"{path}: the slot {name!r} has no values: add at least one"
        for name, values in cases.slots.items()
        if not values
    ]
    for name, check in cases.tests.items():
        found = (*_key_mistakes(check, project), *_template_mistakes(check, cases.slots))
        mistakes += [f"{path}: the test {name!r} {mistake}" for mistake in found]
    if mistakes:
        raise UserError("\n".join(mistakes))
    return cases


def _key_mistakes(check: Check, project: Project) -> Iterator[str]:
    needed, foreign = KEYS[check.kind]
    kind = check.kind.replace("_", " ")
    for key in needed:
        if not check.has(key):
            yield f"has no {key!r}, which {kind} needs: add it"
    for key in foreign:
        if check.has(key):
            yield f"has {key!r}, which does not apply to {kind}: remove it"
    if check.kind == "invariance" and not _is_invariance(check):
        yield (
            "needs either `pairs` of texts that must get the same answer, or `texts` and the slot to "
            "`vary`: give one of the two"
        )
    labels = check.label or ()
    for label in [label for label in labels if label not in project.labels]:
        hint = suggestion(label, list(project.labels))
        yield f"expects the label {label!r}{hint}, which the project does not have: fix it"
    several = project.multi_label and check.kind != "directional"
    if check.label is not None and len(labels) != 1 and not several:
        yield f"has {len(labels)} labels where there can be one: give a single label"


def _is_invariance(check: Check) -> bool:
    keys = tuple(key for key in ("pairs", "texts", "vary") if check.has(key))
    return keys in (("pairs",), ("texts", "vary"))


def _template_mistakes(check: Check, slots: Mapping[str, Texts]) -> Iterator[str]:
    if (check.has("pairs") or check.has("texts")) and not check.groups:
        yield "has no text: add at least one"
    for text in check.templates:
        try:
            used = [name for _, name in _parts(text) if name is not None]
        except ValueError as e:
            yield (
                f"has the text {text!r}, whose braces do not form a slot ({e}): write {{slot}}, or {{{{ for "
                f"a brace"
            )
            continue
        if not text.strip():
            yield "has an empty text: fill it in, or remove it"
        for name in used:
            if name not in slots:
                hint = suggestion(name, list(slots))
                yield f"uses the slot {name!r}{hint}, which is not among `slots`: add it there"
        if check.texts is not None and check.vary is not None and check.vary not in used:
            slot = f"{{{check.vary}}}"
            yield f"varies the slot {check.vary!r}, which the text {text!r} lacks: add {slot} to it"


def _parts(template: str) -> list[tuple[str, str | None]]:
    """The literal texts, each with the slot that follows it, if any.

    Raises ValueError for a stray brace, and for `{a.b}` or `{a!r}`.
    """
    parts = []
    for literal, name, spec, conversion in Formatter().parse(template):
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise ValueError(f"{{{name}}} is no slot")
        parts.append((literal, name))
    return parts


def fill_cases(cases: Cases) -> list[Case]:
    """The cases of every test: all ways to fill its templates, or `most` of them.

    They are drawn with the test's name as the seed.
    """
    filled = []
    for name, check in cases.tests.items():
        ways = [_ways_to_fill(group, cases.slots, check.vary) for group in check.groups]
        sizes = [prod(len(values) for values in slots.values()) for slots in ways]
        for index in _draw_indices(sum(sizes), check.most, seed=name):
            group = 0
            while index >= sizes[group]:
                index -= sizes[group]
                group += 1
            values = {}
            for slot, choices in ways[group].items():
                index, choice = divmod(index, len(choices))
                values[slot] = choices[choice]
            variants = [values]
            if check.vary is not None:
                variants = [values | {check.vary: v} for v in cases.slots[check.vary]]
            templates = check.groups[group]
            filled.append(Case(name, tuple(_fill(t, v) for v in variants for t in templates)))
    return filled


def _ways_to_fill(
    templates: Sequence[str], slots: Mapping[str, Texts], vary: str | None
) -> dict[str, Texts]:
    """The slots that the templates use, in order, without the one that varies within a case."""
    used = [name for template in templates for _, name in _parts(template) if name is not None]
    return {name: slots[name] for name in dict.fromkeys(used) if name != vary}


def _draw_indices(size: int, most: int, *, seed: str) -> list[int]:
    if size <= most:
        return list(range(size))
    longest = 2**62  # of a range
    return sorted(random.Random(seed).sample(range(min(size, longest)), most))  # noqa: S311


def _fill(template: str, values: Mapping[str, str]) -> str:
    parts = _parts(template)
    return "".join(literal + (values[name] if name else "") for literal, name in parts)
