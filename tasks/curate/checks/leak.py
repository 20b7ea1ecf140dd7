"""Reject training rows that repeat a dev or test row, in whole or in part.

The test set stays sealed: rows are compared with 64-bit hashes of its word 4-grams, computed when
it was sealed, and with the embeddings of its short texts. Overlap of n-grams is the usual test of
contamination (Brown et al. 2020, appendix C, arXiv:2005.14165). A rejected row loses its text,
which would reveal the sealed one.
"""

from __future__ import annotations

from dataclasses import replace

from tasks.curate.context import CurationContext
from tasks.records import Partition, Record, Rejected, partition
from tasks.text.fingerprints import WORDS, is_short


def leak(records: list[Record], context: CurationContext) -> Partition:
    """Rows that share less than `curate.leak` of their n-grams with each dev or test row."""
    limit, held_out = context.settings.leak, context.held_out

    def check(r: Record) -> Rejected | None:
        share, other = (1.0, r.id) if r.id in held_out.id_set else held_out.closest(r.text)
        if share == 0 or share < limit:
            return None
        reason = (
            f"{share:.2f} of its word {WORDS}-grams are also in the held-out row {other} "
            f"(curate.leak {limit})"
        )
        return Rejected(replace(r, text=""), "leak", reason, round(share, 4), other)

    return partition(records, check)


def short_leak(records: list[Record], context: CurationContext) -> Partition:
    """Rows of 12 words or more, and those whose cosine with each short held-out text is below the limit.

    The limit is `curate.short_leak`.
    """
    limit, held_out = context.settings.short_leak, context.held_out
    short = [r for r in records if is_short(r.text)] if limit > 0 and len(held_out.vectors) else []
    if not short:
        return records, []
    cosines, others = held_out.closest_short(context.vectors(short))
    closest = {r.id: (float(c), o) for r, c, o in zip(short, cosines, others, strict=True)}

    def check(r: Record) -> Rejected | None:
        cosine, other = closest.get(r.id, (-1.0, ""))
        if cosine < limit:
            return None
        reason = (
            f"its embedding has cosine {cosine:.2f} with that of the held-out row {other} "
            f"(curate.short_leak {limit})"
        )
        return Rejected(replace(r, text=""), "short_leak", reason, round(cosine, 4), other)

    return partition(records, check)


def screen_prompt_seeds(seeds: list[Record], context: CurationContext) -> Partition:
    """(seed rows that an LLM may see, seed rows that repeat a dev or test row)."""
    shown, leaks = leak(seeds, context)
    shown, short_leaks = short_leak(shown, context)
    return shown, leaks + short_leaks
