"""Clean the wrapping of a text: Unicode form, control characters, markup of a chat, white space."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from tasks.records import Record, Rejected, content_id

if TYPE_CHECKING:
    from tasks.curate.run import Context

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffd]")
_EMPHASIS = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")


def clean(text: str) -> str:
    """NFC text without control characters, bold markers, or runs of white space; paragraphs stay lines."""
    text = _EMPHASIS.sub(r"\1", _CONTROL.sub("", "\n".join(text.splitlines())))  # before NFC: they part what it joins
    return _LINES.sub("\n", _SPACES.sub(" ", unicodedata.normalize("NFC", text))).strip()


def normalise(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Every record with its text cleaned and its id made anew; what has no text left is rejected."""
    kept, rejected = [], []
    for r in records:
        text = clean(r.text)
        if text:
            kept.append(r.but(text=text, id=content_id(text)))
        else:
            rejected.append(Rejected(r, "empty", "no text is left after cleaning"))
    return kept, rejected
