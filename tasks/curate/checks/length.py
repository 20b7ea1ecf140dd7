"""Reject generated texts that are too short or too long to be an example."""

from __future__ import annotations

from tasks.curate.context import CurationContext
from tasks.records import Partition, Record, Rejected, partition
from tasks.text.tokens import split_words


def length(records: list[Record], context: CurationContext) -> Partition:
    """Rows of `curate.min_words` to `curate.max_words` words, and every real row."""
    least, most = context.settings.min_words, context.settings.max_words

    def check(r: Record) -> Rejected | None:
        n = len(split_words(r.text))
        if not r.is_synthetic or least <= n <= most:
            return None
        if n < least:
            reason = f"{n} words are fewer than curate.min_words ({least})"
            return Rejected(r, "too_short", reason, n)
        return Rejected(r, "too_long", f"{n} words are more than curate.max_words ({most})", n)

    return partition(records, check)
