"""Set aside the rows of generators that the project no longer wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records import Record, Rejected

if TYPE_CHECKING:
    from tasks.curate.context import Context


def dropped_generator(
    records: list[Record], context: Context
) -> tuple[list[Record], list[Rejected]]:
    """Records that no generator of `curate.drop_generators` wrote."""
    names = set(context.settings.drop_generators)
    kept, rejected = [], []
    for r in records:
        if r.lineage.get("generator") in names:
            name = r.lineage["generator"]
            reason = f"the generator {name!r} is in curate.drop_generators"
            rejected.append(Rejected(r, "dropped_generator", reason))
        else:
            kept.append(r)
    return kept, rejected
