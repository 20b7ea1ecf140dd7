"""The nouns that every stage shares."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks.atomic import write_lines
from tasks.text.tokens import fold

Label = str | tuple[str, ...]  # one label; in a multi-label project a text's set of them, sorted
NO_LABEL = "(no label)"  # how the empty set is shown
Source = Literal["seed", "synthetic", "harvested", "reviewed", "dev", "test", "unlabelled"]


def content_id(text: str) -> str:
    """24 hex digits of the SHA-256 of the folded text."""
    return hashlib.sha256(fold(text).encode()).hexdigest()[:24]


def label_text(label: Label | None) -> str:
    """A label for a person and for counting: itself; the labels of a set joined by +."""
    return " + ".join(label) or NO_LABEL if isinstance(label, tuple) else str(label)


@dataclass(frozen=True, slots=True)
class Record:
    """One text with its label and where both came from. `lineage` holds only JSON values.

    `label` is a text, or in a multi-label project a sorted tuple of them, maybe empty; None: it is not labelled.
    """

    id: str
    text: str
    label: Label | None
    source: Source
    lineage: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, text: str, label: Label | None, source: Source, **lineage: Any) -> Record:
        """A record whose id is the hash of its text."""
        label = tuple(sorted(set(label))) if isinstance(label, tuple) else label
        return cls(content_id(text), text, label, source, lineage)

    @property
    def labels(self) -> tuple[str, ...]:
        """Its labels: one, in a multi-label project any number; none of an unlabelled text."""
        return (self.label,) if isinstance(self.label, str) else self.label or ()

    @property
    def origin(self) -> Source:
        """Its source; of a reviewed row, the source that it had before."""
        was: Source = (
            self.lineage["reviewed"]["was"]["source"] if self.source == "reviewed" else self.source
        )
        return was

    @property
    def is_real(self) -> bool:
        """True for a training row that no LLM wrote and a person gave its label: a seed row, or a reviewed text of real use."""
        return self.origin == "seed" or (self.source == "reviewed" and self.origin == "unlabelled")

    @property
    def is_human_labelled(self) -> bool:
        """True for a row that a person labelled: no check of quality rejects it."""
        return self.source in ("seed", "reviewed")

    @property
    def is_synthetic(self) -> bool:
        """True for a row that an LLM wrote and no person reviewed."""
        return self.source == "synthetic"

    @property
    def group(self) -> str | None:
        """The content hash of its group in data.group_column, so that a name need not travel; None: it stands alone."""
        named = self.lineage.get("group")
        return content_id(named) if named else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Record:
        label = row["label"]
        return cls(**{**row, "label": tuple(label)} if isinstance(label, list) else row)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that a check set aside: never dropped, always countable by its check."""

    record: Record
    check: str
    reason: str
    value: float | None = None
    other: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Rejected:
        return cls(
            Record.from_json(row["record"]), row["check"], row["reason"], row["value"], row["other"]
        )


Partition = tuple[list[Record], list[Rejected]]  # (kept, rejected)


def partition(records: Iterable[Record], check: Callable[[Record], Rejected | None]) -> Partition:
    """(kept, rejected): the records for which `check` returns None, and what it returns for the others."""
    kept: list[Record] = []
    rejected: list[Rejected] = []
    for record in records:
        rejection = check(record)
        if rejection is None:
            kept.append(record)
        else:
            rejected.append(rejection)
    return kept, rejected


def count_by_label(records: Iterable[Record]) -> dict[str, int]:
    """Rows a label, in the labels' alphabetical order; a row with several counts for each, one with none as NO_LABEL."""
    return dict(
        sorted(
            Counter(label for r in records for label in r.labels or (label_text(r.label),)).items()
        )
    )


def count_by_source(records: Iterable[Record]) -> dict[str, int]:
    """Rows a source, in the sources' alphabetical order."""
    return dict(sorted(Counter(r.source for r in records).items()))


def count_by_check(rejected: Iterable[Rejected]) -> dict[str, int]:
    """Rejected rows a check, most first."""
    return dict(Counter(r.check for r in rejected).most_common())


def write_records(path: Path, rows: Iterable[Record | Rejected]) -> None:
    """JSON Lines, one record or rejected row a line."""
    write_lines(path, (row.to_json() for row in rows))


def iter_records(path: Path) -> Iterator[Record]:
    """The records of a file, one after another, however many there are."""
    with path.open(encoding="utf-8") as f:
        for line in f:
            yield Record.from_json(json.loads(line))


def read_records(path: Path) -> list[Record]:
    return list(iter_records(path))


def read_rejected(path: Path) -> list[Rejected]:
    with path.open(encoding="utf-8") as f:
        return [Rejected.from_json(json.loads(line)) for line in f]
