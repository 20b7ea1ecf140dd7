"""Fingerprints of held-out texts, to find training rows that repeat them without reading them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.records import Record
from tasks.text.ngrams import ngram_hashes, plain_words

if TYPE_CHECKING:
    import numpy as np

FINGERPRINTS = "held_out_fingerprints.npz"  # their file in the directory of the splits
WORDS = 4  # per n-gram
SHORT = 12  # words below which a text has too few n-grams, so that its embedding is compared too
_MIN_NGRAMS = 8  # of a held-out text that is searched for in longer texts
_MIN_SHARE = 0.5  # of its n-grams that a longer text must contain


def is_short(text: str) -> bool:
    """True for a text with so few n-grams that its embedding is compared too."""
    return len(plain_words(text)) < SHORT


@dataclass(frozen=True)
class Fingerprints:
    """What training rows are compared with.

    `ids` are those of the held-out rows, `hashes` the sorted hashes of their n-grams, and `rows`
    the row (index in `ids`) of each hash. `short_rows` are the rows with short texts, `vectors`
    their embeddings.
    """

    ids: list[str]
    hashes: np.ndarray
    rows: np.ndarray
    short_rows: np.ndarray
    vectors: np.ndarray

    @classmethod
    def from_records(
        cls, records: list[Record], embed: Callable[[list[str]], np.ndarray] | None = None
    ) -> Fingerprints:
        """The fingerprints of `records`; without `embed` they have no embeddings of short texts."""
        import numpy as np

        grams = [ngram_hashes(r.text, WORDS) for r in records]
        hashes = np.concatenate([*grams, np.zeros(0, np.uint64)])
        rows = np.repeat(np.arange(len(records), dtype=np.int32), [len(g) for g in grams])
        order = np.argsort(hashes, kind="stable")
        short = [i for i, r in enumerate(records) if is_short(r.text)] if embed else []
        vectors = embed([records[i].text for i in short]) if embed and short else np.zeros((0, 1))
        return cls(
            [r.id for r in records],
            hashes[order],
            rows[order],
            np.array(short, dtype=np.int32),
            vectors.astype(np.float16),
        )

    def save(self, path: Path) -> None:
        """Write the fingerprints to a file."""
        import numpy as np

        ids = np.array(self.ids, dtype="U24")
        np.savez(
            path,
            ids=ids,
            hashes=self.hashes,
            rows=self.rows,
            short_rows=self.short_rows,
            vectors=self.vectors,
        )

    @classmethod
    def load(cls, path: Path) -> Fingerprints:
        """The fingerprints that `save` wrote."""
        import numpy as np

        with np.load(path, allow_pickle=False) as data:
            ids = [str(i) for i in data["ids"]]
            return cls(ids, *(data[name] for name in ("hashes", "rows", "short_rows", "vectors")))

    @cached_property
    def _sizes(self) -> np.ndarray:
        import numpy as np

        return np.bincount(self.rows, minlength=len(self.ids))

    @cached_property
    def id_set(self) -> set[str]:
        """The ids of the held-out rows."""
        return set(self.ids)

    def closest(self, text: str) -> tuple[float, str | None]:
        """The largest share of n-grams in common with one held-out row, and that row's id.

        The share is that of the text's n-grams, or that of the held-out row's if it is larger and
        at least half of them are in the text.
        """
        import numpy as np

        grams = ngram_hashes(text, WORDS)
        starts, ends = (
            np.searchsorted(self.hashes, grams, side=side) for side in ("left", "right")
        )
        at = np.flatnonzero(ends > starts)
        if not len(at):
            return 0.0, None
        rows, hits = np.unique(
            np.concatenate([self.rows[starts[i] : ends[i]] for i in at]), return_counts=True
        )
        sizes = self._sizes[rows]
        inside = np.where((sizes >= _MIN_NGRAMS) & (hits >= _MIN_SHARE * sizes), hits / sizes, 0.0)
        shares = np.maximum(hits / len(grams), inside)
        best = int(shares.argmax())
        return float(shares[best]), self.ids[rows[best]]

    def closest_short(self, vectors: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """The cosine of each embedding with the closest short held-out text, and that row's id.

        The mean of the short texts is subtracted from all embeddings first, because the embeddings
        of some encoders all point in one direction.
        """
        import numpy as np

        short = self.vectors.astype(np.float32)
        centre = short.mean(0) if len(short) >= SHORT else np.zeros(short.shape[1], np.float32)
        x, y = (
            v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-9)
            for v in (vectors - centre, short - centre)
        )
        best, at = np.full(len(x), -1.0), np.zeros(len(x), dtype=int)
        for start in range(0, len(x), 1024):
            similar = x[start : start + 1024] @ y.T
            at[start : start + 1024] = similar.argmax(1)
            best[start : start + 1024] = similar.max(1)
        return best, [self.ids[self.short_rows[i]] for i in at]
