"""Keep one of each group of texts that are the same, exactly or nearly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records import Record, Rejected, ngrams

if TYPE_CHECKING:
    from tasks.curate.run import Context

PERMUTATIONS = 128


def exact(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """The first of each folded text. A text under two labels keeps its first label only where that row is real."""
    groups: dict[str, list[Record]] = {}
    for r in records:
        groups.setdefault(r.id, []).append(r)
    kept, rejected = [], []
    for first, *others in groups.values():
        unlike = next((r for r in others if r.label != first.label), first)
        if unlike is first or first.source == "seed":
            kept.append(first)
            unlike = first
        else:
            others = [first, *others]
        for r in others:
            other = unlike if r.label == first.label else first
            if r.label == other.label:
                rejected.append(Rejected(r, "exact_duplicate", f"the same text as row {other.id}", 1.0, other.id))
            else:
                reason = f"the same text as row {other.id}, which is {other.label!r}, not {r.label!r}"
                rejected.append(Rejected(r, "two_labels", reason, 1.0, other.id))
    return kept, rejected


def shingles(text: str, n: int = 3) -> set[bytes]:
    """The word n-grams of the folded text; a shorter text is one shingle."""
    return {gram.encode() for gram in ngrams(text, n)}


def near(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """The first of each group whose word 3-grams overlap by `curate.near_duplicate` or more.

    Candidates come from MinHash LSH (Broder 1997; the datasketch library), and the similarity that decides is the exact
    Jaccard similarity of their shingles. A pair just above the threshold can be missed by LSH.
    """
    from datasketch import MinHash, MinHashLSH

    threshold = context.settings.near_duplicate
    if threshold <= 0 or not records:
        return records, []
    sets = [shingles(r.text) for r in records]
    # the bands are chosen below the threshold, so that few true pairs are missed
    index = MinHashLSH(threshold=max(0.1, threshold - 0.15), num_perm=PERMUTATIONS)
    hashes = MinHash.bulk(sets, num_perm=PERMUTATIONS, seed=1)
    kept: list[Record] = []
    rejected: list[Rejected] = []
    for i, (r, h) in enumerate(zip(records, hashes, strict=True)):
        best, at = 0.0, -1
        for j in index.query(h):
            similarity = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
            if similarity > best or (similarity == best and j < at):
                best, at = similarity, j
        if at >= 0 and best >= threshold:
            other = records[at]
            reason = f"{best:.2f} of its word 3-grams are those of row {other.id} (curate.near_duplicate {threshold})"
            rejected.append(Rejected(r, "near_duplicate", reason, round(best, 4), other.id))
        else:
            index.insert(i, h)
            kept.append(r)
    return kept, rejected
