"""Keep one of each group of texts that are the same, exactly or nearly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tasks.records import Label, Record, Rejected, label_text
from tasks.text.ngrams import ngram_hashes

if TYPE_CHECKING:
    import numpy as np

    from tasks.curate.context import Context

PERMUTATIONS = 128
WORDS = 3
DENSE = 100  # rows among the candidates from which a neighbourhood is known well enough


def exact(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """The first of each folded text. A text under two labels keeps one only where a person gave it: the first such row."""
    groups: dict[str, list[Record]] = {}
    for r in records:
        groups.setdefault(r.id, []).append(r)
    kept, rejected = [], []
    for group in groups.values():
        first, *others = sorted(group, key=lambda r: not r.is_human_labelled)
        unlike = next((r for r in others if r.label != first.label), first)
        if unlike is first or first.is_human_labelled:
            kept.append(first)
            unlike = first
        else:
            others = [first, *others]
        for r in others:
            other = unlike if r.label == first.label else first
            if r.label == other.label:
                rejected.append(
                    Rejected(
                        r, "exact_duplicate", f"the same text as row {other.id}", 1.0, other.id
                    )
                )
                continue
            reason = f"the same text as row {other.id}, which is {label_text(other.label)!r}, not {label_text(r.label)!r}"
            rejected.append(Rejected(r, "two_labels", reason, 1.0, other.id))
            if other.source != "reviewed":  # what a person has decided is no doubt
                context.doubt(rejected[-1], suggested=both(r.label, other.label))
    return kept, rejected


def both(own: Label | None, other: Label | None) -> Label | None:
    """What a person may make of a text that stands under two labels: the other one; of label sets, all labels of both."""
    return (
        tuple(sorted({*own, *other}))
        if isinstance(own, tuple) and isinstance(other, tuple)
        else other
    )


def repeats(
    r: Record, other: Record, check: str, reason: str, value: float, context: Context
) -> Rejected:
    """`r` set aside as a repeat of `other`; under another label it is listed as doubtful too."""
    unlike = r.label != other.label
    reason += (
        f"; that one is {label_text(other.label)!r}, not {label_text(r.label)!r}" if unlike else ""
    )
    found = Rejected(r, check, reason, round(value, 4), other.id)
    if unlike and other.source != "reviewed":
        context.doubt(found, suggested=both(r.label, other.label))
    return found


def near(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """The first of each group whose word 3-grams overlap by `curate.near_duplicate` or more.

    Candidates come from MinHash LSH (Broder 1997; the datasketch library), and the similarity that decides is the exact
    Jaccard similarity of their 3-grams. A pair just above the threshold can be missed by LSH; so can a repeat of a row
    that stood among a hundred like it, of which no more are kept as candidates, so that time grows with rows only.
    """
    from datasketch import MinHash, MinHashLSH

    threshold = context.settings.near_duplicate
    if threshold <= 0 or not records:
        return records, []
    grams = [ngram_hashes(r.text, WORDS) for r in records]
    # the bands are chosen below the threshold, so that few true pairs are missed
    index = MinHashLSH(threshold=max(0.1, threshold - 0.15), num_perm=PERMUTATIONS)
    kept: list[Record] = []
    rejected: list[Rejected] = []
    numbers = ((g >> 32).tolist() for g in grams)
    hashes = MinHash.generator(numbers, num_perm=PERMUTATIONS, seed=1, hashfunc=int)
    for i, (r, h) in enumerate(zip(records, hashes, strict=True)):
        candidates = sorted(index.query(h))
        best, at = max(
            ((_jaccard(grams[i], grams[j]), -j) for j in candidates[:DENSE]), default=(0.0, 0)
        )
        if candidates and best >= threshold:
            other = records[-at]
            reason = f"{best:.2f} of its word 3-grams are those of row {other.id} (curate.near_duplicate {threshold})"
            rejected.append(repeats(r, other, "near_duplicate", reason, best, context))
            continue
        if len(candidates) < DENSE:
            index.insert(i, h)
        kept.append(r)
    return kept, rejected


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    import numpy as np

    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


CHUNK = 512  # rows compared with one another at once
LEAST_REAL = 8  # rows of a label that tell where it lies,
MOST_REAL = 200  # and as many are enough


def semantic_duplicate(
    records: list[Record], context: Context
) -> tuple[list[Record], list[Rejected]]:
    """The first of each group of one label, or label set, whose embeddings' cosine is `curate.semantic_duplicate` or more.

    The label's mean is taken off the embeddings first: what is left is not the topic but what a text says of it (as the
    common direction of embeddings tells little: Mu and Viswanath 2018, arXiv:1702.01417). It is the mean of these rows and,
    a second time, of real rows of the label where there are eight or more: where most rows say the same, that is their own
    mean. Neighbours come from an HNSW index (Malkov and Yashunin 2018, arXiv:1603.09320; the usearch library), which can
    miss one. Not covered: a label that says one thing over and over and has fewer real rows.
    """
    threshold = context.settings.semantic_duplicate
    if threshold <= 0 or not records:
        return records, []
    groups: dict[Label | None, list[int]] = {}
    for i, r in enumerate(records):
        groups.setdefault(r.label, []).append(i)
    found: dict[int, tuple[int, float]] = {}
    for members in groups.values():
        x = context.vectors([records[i] for i in members])
        for mean in _means(x, records[members[0]].label, context):
            left = [at for at, i in enumerate(members) if i not in found]
            again = _repeated(_without(mean, x[left]), threshold)
            found |= {members[left[i]]: (members[left[j]], s) for i, (j, s) in again.items()}
    kept, rejected = [], []
    for i, r in enumerate(records):
        if i not in found or r.is_human_labelled:
            kept.append(r)
            continue
        j, s = found[i]
        reason = f"its meaning is {s:.2f} that of row {records[j].id} (curate.semantic_duplicate {threshold})"
        rejected.append(repeats(r, records[j], "semantic_duplicate", reason, s, context))
    return kept, rejected


def _means(x: np.ndarray, label: Label | None, context: Context) -> Iterator[np.ndarray]:
    """What texts of the label have in common: the mean of its real rows where they are enough, and that of `x`, its rows."""
    real = [r for r in context.real if r.label == label][:MOST_REAL]
    if len(real) >= LEAST_REAL:
        yield context.vectors(real).mean(0)
    yield x.mean(0)


def _without(mean: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The embeddings from `mean` on, of length 1."""
    import numpy as np

    moved = x - mean
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)


def _repeated(x: np.ndarray, threshold: float) -> dict[int, tuple[int, float]]:
    """Rows of `x` (length 1 each) that repeat an earlier row which repeats none: {row: (that row, cosine)}."""
    import numpy as np

    index = _index(x.shape[1]) if len(x) > CHUNK else None
    found: dict[int, tuple[int, float]] = {}
    for start in range(0, len(x), CHUNK):
        chunk = x[start : start + CHUNK]
        if start and index is not None:
            matches = index.search(chunk, 1)
            for at, (key, distance) in enumerate(
                zip(matches.keys[:, 0], matches.distances[:, 0], strict=True), start
            ):
                if 1 - distance >= threshold:
                    found[at] = (int(key), float(1 - distance))
        close = np.tril(chunk @ chunk.T, -1) >= threshold
        for i in map(int, np.flatnonzero(close.any(1))):
            earlier = [int(j) for j in np.flatnonzero(close[i]) if start + j not in found]
            if earlier and start + i not in found:
                found[start + i] = (start + earlier[0], float(chunk[i] @ chunk[earlier[0]]))
        new = np.array(
            [i for i in range(start, start + len(chunk)) if i not in found], dtype=np.uint64
        )
        if index is not None and len(new):
            index.add(
                new, x[new.astype(int)], threads=1
            )  # one thread: the same rows give the same index
    return found


def _index(dimensions: int) -> Any:
    from usearch.index import Index

    return Index(
        ndim=dimensions,
        metric="cos",
        dtype="f32",
        connectivity=16,
        expansion_add=64,
        expansion_search=48,
    )
