"""Keep one of each group of texts that are the same: to the letter, nearly, or in meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.curate.context import CurationContext
from tasks.records import Label, Partition, Record, Rejected, label_text, partition
from tasks.text.ngrams import ngram_hashes

if TYPE_CHECKING:
    import numpy as np

_PERMUTATIONS = 128
_WORDS = 3
_MOST_CANDIDATES = 100  # compared with a row; a denser neighbourhood gets no more candidates

_CHUNK = 512  # rows compared with one another at once
_MIN_REAL, _MOST_REAL = 8, 200  # real rows from which a label's mean embedding is computed


def exact(records: list[Record], context: CurationContext) -> Partition:
    """The first row of each folded text.

    A text with two labels is kept only where a person gave it one: the first such row.
    """
    groups: dict[str, list[Record]] = {}
    for r in records:
        groups.setdefault(r.id, []).append(r)
    kept, rejected = [], []
    for group in groups.values():
        first, *others = sorted(group, key=lambda r: not r.is_human_labelled)
        conflict = next((r for r in others if r.label != first.label), None)
        if conflict is None or first.is_human_labelled:
            kept.append(first)
            pairs = [(r, first) for r in others]
        else:
            pairs = [(r, conflict if r.label == first.label else first) for r in (first, *others)]
        for r, other in pairs:
            check = "exact_duplicate" if r.label == other.label else "two_labels"
            rejection = Rejected(r, check, f"the same text as row {other.id}", 1.0, other.id)
            rejected.append(_note_conflict(rejection, other, context))
    return kept, rejected


def _note_conflict(rejection: Rejected, other: Record, context: CurationContext) -> Rejected:
    """The rejection of a repeat of `other`. Where their labels differ, it says so and is doubtful.

    It is not doubtful where a person decided the other row's label. The suggested label is the
    other row's; of label sets, all labels of both.
    """
    r = rejection.record
    if r.label == other.label:
        return rejection
    conflict = f"that row is {label_text(other.label)!r}, not {label_text(r.label)!r}"
    rejection = replace(rejection, reason=f"{rejection.reason}; {conflict}")
    if other.source != "reviewed":
        sets = isinstance(r.label, tuple) and isinstance(other.label, tuple)
        suggested = tuple(sorted({*r.labels, *other.labels})) if sets else other.label
        context.doubt(rejection, suggested=suggested)
    return rejection


def near(records: list[Record], context: CurationContext) -> Partition:
    """The first of each group whose word 3-grams overlap by `curate.near_duplicate` or more.

    Candidates come from MinHash LSH (Broder 1997; the datasketch library); the exact Jaccard
    similarity of their 3-grams decides. LSH can miss a pair just above the threshold. A repeat in
    a neighbourhood of more than 100 rows can be missed too, so that time grows with rows only.
    """
    from datasketch import MinHash, MinHashLSH

    threshold = context.settings.near_duplicate
    if threshold <= 0 or not records:
        return records, []
    # the bands are chosen below the threshold, so that few true pairs are missed
    index = MinHashLSH(threshold=max(0.1, threshold - 0.15), num_perm=_PERMUTATIONS)
    indexed: list[tuple[Record, np.ndarray]] = []
    empty = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int)

    def check(r: Record) -> Rejected | None:
        grams = ngram_hashes(r.text, _WORDS)
        signature = empty.copy()
        signature.update_batch((grams >> 32).tolist())
        candidates = sorted(index.query(signature))
        similarity, at = max(
            ((_jaccard(grams, indexed[i][1]), -i) for i in candidates[:_MOST_CANDIDATES]),
            default=(0.0, 0),
        )
        if candidates and similarity >= threshold:
            other = indexed[-at][0]
            reason = (
                f"the Jaccard similarity of its word 3-grams with those of row {other.id} is "
                f"{similarity:.2f} (curate.near_duplicate {threshold})"
            )
            rejection = Rejected(r, "near_duplicate", reason, round(similarity, 4), other.id)
            return _note_conflict(rejection, other, context)
        if len(candidates) < _MOST_CANDIDATES:
            index.insert(len(indexed), signature)
            indexed.append((r, grams))
        return None

    return partition(records, check)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    import numpy as np

    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def semantic_duplicate(records: list[Record], context: CurationContext) -> Partition:
    """The first of each group of one label whose embeddings' cosine is `curate.semantic_duplicate` or more.

    The label's mean embedding is subtracted first, so that what a text says counts and not its
    topic (the common direction of embeddings tells little: Mu and Viswanath 2018,
    arXiv:1702.01417). It is the mean of these rows and, in a pass before, of the label's real rows
    where there are eight or more: where most rows say the same, that is their own mean. Neighbours
    come from an HNSW index (Malkov and Yashunin 2018, arXiv:1603.09320; the usearch library),
    which can miss one. Not covered: a label with fewer real rows that says one thing over and over.
    """
    threshold = context.settings.semantic_duplicate
    if threshold <= 0 or not records:
        return records, []
    groups: dict[Label | None, list[Record]] = {}
    for r in records:
        groups.setdefault(r.label, []).append(r)
    repeats: dict[str, tuple[Record, float]] = {}
    for label, group in groups.items():
        x = context.vectors(group)
        for mean in _means(x, label, context):
            left = [i for i, r in enumerate(group) if r.id not in repeats]
            for i, (j, cosine) in _find_repeats(_centred(x[left], mean), threshold).items():
                repeats[group[left[i]].id] = group[left[j]], cosine

    def check(r: Record) -> Rejected | None:
        if r.id not in repeats or r.is_human_labelled:
            return None
        other, cosine = repeats[r.id]
        reason = (
            f"less its label's mean, its embedding has cosine {cosine:.2f} with that of row "
            f"{other.id} (curate.semantic_duplicate {threshold})"
        )
        return Rejected(r, "semantic_duplicate", reason, round(cosine, 4), other.id)

    return partition(records, check)


def _means(x: np.ndarray, label: Label | None, context: CurationContext) -> Iterator[np.ndarray]:
    """The mean embedding of the label's real rows where they are enough, and that of `x`, its rows."""
    real = [r for r in context.real if r.label == label][:_MOST_REAL]
    if len(real) >= _MIN_REAL:
        yield context.vectors(real).mean(0)
    yield x.mean(0)


def _centred(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The embeddings less `mean`, of length 1."""
    import numpy as np

    moved = x - mean
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)


def _find_repeats(x: np.ndarray, threshold: float) -> dict[int, tuple[int, float]]:
    """Rows of `x` (of length 1) that repeat an earlier row which repeats none: {row: (that row, cosine)}."""
    import numpy as np

    index = _hnsw_index(x.shape[1]) if len(x) > _CHUNK else None
    repeats: dict[int, tuple[int, float]] = {}
    for start in range(0, len(x), _CHUNK):
        chunk = x[start : start + _CHUNK]
        if start and index is not None:
            matches = index.search(chunk, 1)
            cosines = 1 - matches.distances[:, 0]
            for i in map(int, np.flatnonzero(cosines >= threshold)):
                repeats[start + i] = int(matches.keys[i, 0]), float(cosines[i])
        close = np.tril(chunk @ chunk.T, -1) >= threshold
        for i in map(int, np.flatnonzero(close.any(1))):
            earlier = [int(j) for j in np.flatnonzero(close[i]) if start + j not in repeats]
            if earlier and start + i not in repeats:
                repeats[start + i] = start + earlier[0], float(chunk[i] @ chunk[earlier[0]])
        new = [i for i in range(start, start + len(chunk)) if i not in repeats]
        if index is not None and new:
            # one thread: the same rows give the same index
            index.add(np.array(new, dtype=np.uint64), x[new], threads=1)
    return repeats


def _hnsw_index(dimensions: int) -> Any:
    from usearch.index import Index

    return Index(
        ndim=dimensions,
        metric="cos",
        dtype="f32",
        connectivity=16,
        expansion_add=64,
        expansion_search=48,
    )
