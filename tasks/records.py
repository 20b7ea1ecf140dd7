"""Rows as every stage reads and writes them: records, and records that a check rejected."""

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

Label = str | tuple[str, ...]  # one label, or in a multi-label project a sorted set
NO_LABEL = "(no label)"  # the empty set, as it is shown and counted
Source = Literal["seed", "synthetic", "harvested", "reviewed", "dev", "test", "unlabelled"]


def content_id(text: str) -> str:
    """24 hex digits of the SHA-256 of the folded text."""
    return hashlib.sha256(fold(text).encode()).hexdigest()[:24]


def label_text(label: Label | None) -> str:
    """A label as text; the labels of a set are joined by +."""
    return " + ".join(label) or NO_LABEL if isinstance(label, tuple) else str(label)


@dataclass(frozen=True, slots=True)
class Record:
    """One text with its label and where both came from. `lineage` holds JSON values.

    `label` is a text, in a multi-label project a sorted tuple of texts, and None if not labelled.
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
        """All labels of the text."""
        return (self.label,) if isinstance(self.label, str) else self.label or ()

    @property
    def origin(self) -> Source:
        """The source; for a reviewed row, its source before the review."""
        if self.source != "reviewed":
            return self.source
        source: Source = self.lineage["reviewed"]["was"]["source"]
        return source

    @property
    def is_real(self) -> bool:
        """True for a training row with real text and a person's label."""
        return self.origin == "seed" or (self.source == "reviewed" and self.origin == "unlabelled")

    @property
    def is_human_labelled(self) -> bool:
        """True for a row that a person labelled, which no quality check rejects."""
        return self.source in ("seed", "reviewed")

    @property
    def is_synthetic(self) -> bool:
        """True for a row that an LLM wrote and no person reviewed."""
        return self.source == "synthetic"

    @property
    def group(self) -> str | None:
        """The hash of its value in data.group_column, or None."""
        name = self.lineage.get("group")
        return content_id(name) if name else None

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Record:
        """The record that `to_json` wrote."""
        label = row["label"]
        return cls(**{**row, "label": tuple(label)} if isinstance(label, list) else row)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that a check rejected, and why.

    `value` is what the check measured, `other` the id of the row that the record was compared with.
    """

    record: Record
    check: str
    reason: str
    value: float | None = None
    other: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The rejected record as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Rejected:
        """The rejected record that `to_json` wrote."""
        return cls(
            Record.from_json(row["record"]), row["check"], row["reason"], row["value"], row["other"]
        )


Partition = tuple[list[Record], list[Rejected]]  # (kept, rejected)


def partition(records: Iterable[Record], check: Callable[[Record], Rejected | None]) -> Partition:
    """(kept, rejected): the records for which `check` returns None, and its results for others."""
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
    """Rows per label, sorted by label. A row counts for each of its labels, or as NO_LABEL."""
    counts = Counter(label for r in records for label in r.labels or (label_text(r.label),))
    return dict(sorted(counts.items()))


def count_by_source(records: Iterable[Record]) -> dict[str, int]:
    """Rows per source, sorted by source."""
    return dict(sorted(Counter(r.source for r in records).items()))


def count_by_check(rejected: Iterable[Rejected]) -> dict[str, int]:
    """Rejected rows per check, most first."""
    return dict(Counter(r.check for r in rejected).most_common())


def write_records(path: Path, rows: Iterable[Record | Rejected]) -> None:
    """Write one record or rejected record per line, as JSON."""
    write_lines(path, (row.to_json() for row in rows))


def iter_records(path: Path) -> Iterator[Record]:
    """The records of a file, with one in memory at a time."""
    with path.open(encoding="utf-8") as f:
        for line in f:
            yield Record.from_json(json.loads(line))


def read_records(path: Path) -> list[Record]:
    """The records of a file."""
    return list(iter_records(path))


def read_rejected(path: Path) -> list[Rejected]:
    """The rejected records of a file."""
    with path.open(encoding="utf-8") as f:
        return [Rejected.from_json(json.loads(line)) for line in f]
