"""The nouns that every stage shares."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Source = Literal["seed", "synthetic", "harvested", "reviewed", "dev", "test", "unlabelled"]

_SPACE = re.compile(r"\s+")


def folded(text: str) -> str:
    """`text` in NFKC, lower case, single spaces: the form in which two rows are the same row."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()


_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def words(text: str) -> list[str]:
    """What stands between white space; in Chinese and Japanese, which write none, each character."""
    return _WORD.findall(text)


def ngrams(text: str, n: int) -> set[str]:
    """The word n-grams of the folded text; a shorter text is one n-gram."""
    found = words(folded(text))
    return {" ".join(found[i : i + n]) for i in range(max(1, len(found) - n + 1))}


def whole(text: str) -> str:
    """`text` with `?` for each half of a surrogate pair, which JSON allows and no file or encoder takes."""
    return text.encode("utf-8", "replace").decode()


def content_id(text: str) -> str:
    """24 hex digits of the SHA-256 of the folded text."""
    return hashlib.sha256(folded(text).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Record:
    """One text with its label and where both came from. `lineage` holds only JSON values."""

    id: str
    text: str
    label: str | None
    source: Source
    lineage: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, label: str | None, source: Source, **lineage: Any) -> Record:
        """A record whose id is its content's hash."""
        return cls(content_id(text), text, label, source, lineage)

    @property
    def origin(self) -> Source:
        """Its source; of a reviewed row, the source that it had before."""
        was: Source = self.lineage["reviewed"]["was"]["source"] if self.source == "reviewed" else self.source
        return was

    def but(self, **changes: Any) -> Record:
        """This record with some fields replaced."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Record:
        return cls(**row)


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
        return cls(Record.from_json(row["record"]), row["check"], row["reason"], row["value"], row["other"])


def count_by_label(records: Iterable[Record]) -> dict[str, int]:
    """Rows a label, in the labels' alphabetical order."""
    return dict(sorted(Counter(str(r.label) for r in records).items()))


def count_by_check(rejected: Iterable[Rejected]) -> dict[str, int]:
    """Rejected rows a check, most first."""
    return dict(Counter(r.check for r in rejected).most_common())


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON value in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
