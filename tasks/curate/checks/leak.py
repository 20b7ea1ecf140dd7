"""Set aside training rows that repeat a dev or test row, in whole or in part.

The test set stays sealed: what is compared are 64-bit hashes of its word 4-grams, made when it was sealed, and the
embeddings of its short texts. Overlap of n-grams is the usual test of contamination (Brown et al. 2020, appendix C,
arXiv:2005.14165).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.records import Record, Rejected
from tasks.text.fingerprints import WORDS, is_short

if TYPE_CHECKING:
    from tasks.curate.context import Context


def leak(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records that share less than `curate.leak` of their n-grams with any one dev or test row, and are none of them.

    A record that is set aside loses its text: it would tell the sealed one.
    """
    limit, held_out = context.settings.leak, context.held_out
    kept, rejected = [], []
    for r in records:
        share, other = (1.0, r.id) if r.id in held_out.id_set else held_out.closest(r.text)
        if share > 0 and share >= limit:
            reason = f"it has {share:.2f} of its word {WORDS}-grams in common with the held-out row {other} (curate.leak {limit})"
            rejected.append(Rejected(replace(r, text=""), "leak", reason, round(share, 4), other))
        else:
            kept.append(r)
    return kept, rejected


def short_leak(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records of under 12 words whose embedding's cosine with every short dev or test row is below `curate.short_leak`."""
    limit, held_out = context.settings.short_leak, context.held_out
    short = [r for r in records if is_short(r.text)] if limit > 0 and len(held_out.vectors) else []
    if not short:
        return records, []
    best, others = held_out.closest_short(context.vectors(short))
    found = {
        id(r): (float(s), other)
        for r, s, other in zip(short, best, others, strict=True)
        if s >= limit
    }
    kept, rejected = [], []
    for r in records:
        if id(r) in found:
            s, other = found[id(r)]
            reason = f"its meaning is {s:.2f} that of the held-out row {other} (curate.short_leak {limit})"
            rejected.append(Rejected(replace(r, text=""), "short_leak", reason, round(s, 4), other))
        else:
            kept.append(r)
    return kept, rejected


def leaks_into_prompts(
    seeds: list[Record], context: Context
) -> tuple[list[Record], list[Rejected]]:
    """(seed rows that may be shown to an LLM, those that repeat a dev or test row, also in other words, and may not)."""
    shown, hidden = leak(seeds, context)
    shown, in_other_words = short_leak(shown, context)
    return shown, hidden + in_other_words
