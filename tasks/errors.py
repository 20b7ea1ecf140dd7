"""The two kinds of failure that callers handle differently; every other exception is a bug."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can fix: one sentence with the value, the place and the remedy."""


class TransientError(RuntimeError):
    """A fault outside this process that may pass: worth another attempt later."""


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like `word`, if any is close."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), None)


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or an empty string."""
    match = closest(word, known)
    return f" (did you mean {match!r}?)" if match else ""


def one_line(error: BaseException, limit: int = 300) -> str:
    """The error's message on one line, cut at `limit` characters: part of a message of ours."""
    return " ".join(str(error).split())[:limit]
