"""Words and word n-grams of a text."""

from __future__ import annotations

import re
import unicodedata

_SPACE = re.compile(r"\s+")


def fold(text: str) -> str:
    """`text` in NFKC, lower case, single spaces: the form in which two rows are the same row."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()


_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


def words(text: str) -> list[str]:
    """What stands between white space; in Chinese and Japanese, which write none, each character."""
    return _WORD.findall(text)


def ngrams(text: str, n: int) -> set[str]:
    """The word n-grams of the folded text; a shorter text is one n-gram."""
    found = words(fold(text))
    return {" ".join(found[i : i + n]) for i in range(max(1, len(found) - n + 1))}


def replace_surrogates(text: str) -> str:
    """`text` with `?` for each half of a surrogate pair, which JSON allows and no file or encoder takes."""
    return text.encode("utf-8", "replace").decode()
