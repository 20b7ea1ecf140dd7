"""Set aside generated rows whose label a probe, trained on the other rows, does not see in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.records import Record, Rejected, label_text

if TYPE_CHECKING:
    from tasks.curate.context import Context


def agreement(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records whose own label has an out-of-fold probability of `curate.agreement` or more; of a set, each of its labels, by
    a probe of that label against the rest.

    Rows that a person labelled are kept whatever the probe says, and listed as doubtful. Nothing is judged while a label
    has fewer than two rows.
    """
    least = context.settings.agreement
    opinions = context.opinions(records) if least > 0 else None
    if opinions is None:
        return records, []
    kept, rejected = [], []
    for r in records:
        value = opinions.own(r)
        if value >= least:
            kept.append(r)
            continue
        label, most = opinions.seen(r)
        reason = f"the probe gives {label_text(r.label)!r} {value:.2f} and {label_text(label)!r} {most:.2f} (curate.agreement {least})"
        found = Rejected(r, "off_label", reason, round(value, 4))
        context.doubt(found, suggested=label, probability=round(most, 4))
        if r.is_human_labelled:
            kept.append(r)
        else:
            rejected.append(found)
    return kept, rejected
