"""Set aside training rows that repeat a dev or test row, in whole or in part.

The test set stays sealed: what is compared are 64-bit hashes of its word 4-grams, made when it was sealed. Overlap of
n-grams is the usual test of contamination (Brown et al. 2020, appendix C, arXiv:2005.14165).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.records import Record, Rejected, ngrams

if TYPE_CHECKING:
    import numpy as np

    from tasks.curate.run import Context

WORDS = 4


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hashed_ngrams(text: str) -> set[int]:
    """64-bit hashes of the word 4-grams of the folded text; a shorter text gives one, of the whole."""
    return {_hash(gram) for gram in ngrams(text, WORDS)}


@dataclass(frozen=True)
class Fingerprints:
    """Hashes of held-out rows: `ids` (rows), and for each hash the row it stands in, as two parallel arrays."""

    ids: list[str]
    hashes: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, records: list[Record]) -> Fingerprints:
        import numpy as np

        pairs = [(h, i) for i, r in enumerate(records) for h in sorted(hashed_ngrams(r.text))]
        hashes = np.array([h for h, _ in pairs], dtype=np.uint64)
        return cls([r.id for r in records], hashes, np.array([i for _, i in pairs], dtype=np.int32))

    def save(self, path: Path) -> None:
        import numpy as np

        np.savez(path, ids=np.array(self.ids, dtype="U24"), hashes=self.hashes, rows=self.rows)

    @classmethod
    def load(cls, path: Path) -> Fingerprints:
        import numpy as np

        with np.load(path, allow_pickle=False) as data:
            return cls([str(i) for i in data["ids"]], data["hashes"], data["rows"])

    @cached_property
    def _index(self) -> dict[int, list[int]]:
        index: dict[int, list[int]] = defaultdict(list)
        for h, row in zip(self.hashes.tolist(), self.rows.tolist(), strict=True):
            index[h].append(row)
        return index

    def closest(self, text: str) -> tuple[float, str | None]:
        """The largest share of the text's n-grams that stand in one held-out row, and that row's id."""
        grams = hashed_ngrams(text)
        hits = Counter(row for h in grams for row in self._index.get(h, ()))
        if not hits:
            return 0.0, None
        row, n = min(hits.items(), key=lambda item: (-item[1], item[0]))
        return n / len(grams), self.ids[row]


def leak(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records that share less than `curate.leak` of their n-grams with any one dev or test row, and are none of them."""
    limit = context.settings.leak
    held = set(context.held_out.ids)
    kept, rejected = [], []
    for r in records:
        share, other = (1.0, r.id) if r.id in held else context.held_out.closest(r.text)
        if share > 0 and share >= limit:
            reason = f"{share:.2f} of its word {WORDS}-grams stand in the held-out row {other} (curate.leak {limit})"
            rejected.append(Rejected(r, "leak", reason, round(share, 4), other))
        else:
            kept.append(r)
    return kept, rejected
