"""Set aside generated texts that are too short or too long to be an example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records import Record, Rejected
from tasks.text.tokens import words

if TYPE_CHECKING:
    from tasks.curate.context import Context


def length(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records of `curate.min_words` to `curate.max_words` words; real texts are not judged."""
    least, most = context.settings.min_words, context.settings.max_words
    kept, rejected = [], []
    for r in records:
        n = len(words(r.text))
        if not r.is_synthetic or least <= n <= most:
            kept.append(r)
        elif n < least:
            rejected.append(
                Rejected(r, "too_short", f"{n} words are fewer than curate.min_words ({least})", n)
            )
        else:
            rejected.append(
                Rejected(r, "too_long", f"{n} words are more than curate.max_words ({most})", n)
            )
    return kept, rejected
