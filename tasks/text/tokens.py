"""Words and word n-grams of a text."""

from __future__ import annotations

import re
import unicodedata

_SPACE = re.compile(r"\s+")


def fold(text: str) -> str:
    """`text` in NFKC and lower case with single spaces. Rows are the same if this is the same."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()


_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


def split_words(text: str) -> list[str]:
    """The words between white space, and each character of Chinese and Japanese."""
    return _WORD.findall(text)


def ngrams(text: str, n: int) -> set[str]:
    """The word n-grams of the folded text; fewer than `n` words are one n-gram."""
    words = split_words(fold(text))
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def replace_surrogates(text: str) -> str:
    """`text` with `?` for each half of a surrogate pair, which JSON allows but UTF-8 does not."""
    return text.encode("utf-8", "replace").decode()
