"""Reject the rows of generators that the project dropped."""

from __future__ import annotations

from tasks.curate.context import CurationContext
from tasks.records import Partition, Record, Rejected, partition


def dropped_generator(records: list[Record], context: CurationContext) -> Partition:
    """Rows that no generator of `curate.drop_generators` wrote."""
    dropped = set(context.settings.drop_generators)

    def check(r: Record) -> Rejected | None:
        name = r.lineage.get("generator")
        if name not in dropped:
            return None
        reason = f"the generator {name!r} is in curate.drop_generators"
        return Rejected(r, "dropped_generator", reason)

    return partition(records, check)
