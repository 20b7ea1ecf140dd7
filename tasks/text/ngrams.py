"""Word n-grams as 64-bit hashes, so that comparing texts is comparing arrays of numbers."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from tasks.text.tokens import fold, split_words

if TYPE_CHECKING:
    import numpy as np

# without symbols that change the meaning (C++, C#, 5%, emoji)
_PUNCTUATION = re.compile(
    r"[!\"'(),\-./:;?\[\]{}_`*«»¡¿\u2010-\u205e\u3001-\u3003\u3008-\u3011！，？：（）]"
)
_PRIMES = (
    0x9E3779B97F4A7C15,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x27D4EB2F165667C5,
    0xFF51AFD7ED558CCD,
)
_MASK = 2**64 - 1


def plain_words(text: str) -> list[str]:
    """The words of the folded text without punctuation, unless nothing else is in it."""
    plain = fold(text)
    return split_words(_PUNCTUATION.sub("", plain)) or split_words(plain)


@lru_cache(maxsize=2**18)
def _hash_word(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def ordered_ngram_hashes(words: list[str], n: int) -> np.ndarray:
    """Hashes (uint64) of the word n-grams in their order; fewer than `n` words are one n-gram."""
    import numpy as np

    n = max(1, min(n, len(words)))
    ids = np.array([_hash_word(w) for w in words] or [0], dtype=np.uint64)
    size = len(ids) - n + 1
    total = np.full(size, n * _PRIMES[-1] & _MASK, dtype=np.uint64)
    for i in range(n):
        total = (total ^ ids[i : i + size]) * np.uint64(_PRIMES[i % 4])
        total ^= total >> np.uint64(29)
    return total


def ngram_hashes(text: str, n: int) -> np.ndarray:
    """The hashes of a text's word n-grams, sorted and unique."""
    import numpy as np

    return np.unique(ordered_ngram_hashes(plain_words(text), n))


def covered_share(words: list[str], known: np.ndarray, n: int) -> float:
    """The share of the words that are in an n-gram whose hash is in the sorted array `known`."""
    import numpy as np

    if len(words) < n or not len(known):
        return 0.0
    grams = ordered_ngram_hashes(words, n)
    at = np.minimum(np.searchsorted(known, grams), len(known) - 1)
    hit = known[at] == grams
    covered = np.zeros(len(words), dtype=bool)
    for i in range(n):
        covered[i : i + len(hit)] |= hit
    return float(covered.mean())
