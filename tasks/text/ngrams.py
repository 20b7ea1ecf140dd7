"""Word n-grams as 64-bit hashes: what stands in two texts is found by comparing numbers."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from tasks.text.tokens import fold, words

if TYPE_CHECKING:
    import numpy as np

# symbols that can carry the meaning (C++, C#, 5%, emoji) stay
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
    """The words of the folded text without punctuation; of a text that is all punctuation, the words as they are."""
    plain = fold(text)
    return words(_PUNCTUATION.sub("", plain)) or words(plain)


@lru_cache(maxsize=2**18)
def _word(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def ordered_ngram_hashes(found: list[str], n: int) -> np.ndarray:
    """64-bit hashes (uint64) of the word n-grams in their order; fewer words are one n-gram of their own."""
    import numpy as np

    n = max(1, min(n, len(found)))
    ids = np.array([_word(w) for w in found] or [0], dtype=np.uint64)
    size = len(ids) - n + 1
    total = np.full(size, n * _PRIMES[-1] & _MASK, dtype=np.uint64)
    for i in range(n):
        total = (total ^ ids[i : i + size]) * np.uint64(_PRIMES[i % 4])
        total ^= total >> np.uint64(29)
    return total


def ngram_hashes(text: str, n: int) -> np.ndarray:
    """The set of hashed word n-grams of a text: sorted, each once."""
    import numpy as np

    return np.unique(ordered_ngram_hashes(plain_words(text), n))


def covered_share(found: list[str], known: np.ndarray, n: int) -> float:
    """The share of the words that lie in an n-gram which is among the sorted hashes `known`."""
    import numpy as np

    if len(found) < n or not len(known):
        return 0.0
    grams = ordered_ngram_hashes(found, n)
    at = np.minimum(np.searchsorted(known, grams), len(known) - 1)
    hit = known[at] == grams
    words_hit = np.zeros(len(found), dtype=bool)
    for i in range(n):
        words_hit[i : i + len(hit)] |= hit
    return float(words_hit.mean())
