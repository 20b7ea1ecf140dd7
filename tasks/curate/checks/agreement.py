"""Reject rows whose label a probe, fitted on the other rows, does not see in them."""

from __future__ import annotations

from tasks.curate.context import CurationContext
from tasks.records import Partition, Record, Rejected, label_text, partition


def agreement(records: list[Record], context: CurationContext) -> Partition:
    """Rows whose own label has an out-of-fold probability of `curate.agreement` or more.

    Of a label set that is the probability of its least probable label. Rows that a person labelled
    are kept and listed as doubtful. Nothing is rejected while a label has fewer than two rows.
    """
    minimum = context.settings.agreement
    opinions = context.opinions(records) if minimum > 0 else None
    if opinions is None:
        return records, []

    def check(r: Record) -> Rejected | None:
        opinion = opinions[r.id]
        if opinion.own >= minimum:
            return None
        reason = (
            f"the probe gives {label_text(r.label)!r} {opinion.own:.2f} and "
            f"{label_text(opinion.predicted)!r} {opinion.probability:.2f} "
            f"(curate.agreement {minimum})"
        )
        rejection = Rejected(r, "off_label", reason, round(opinion.own, 4))
        context.doubt(rejection, suggested=opinion.predicted, probability=opinion.probability)
        return None if r.is_human_labelled else rejection

    return partition(records, check)
