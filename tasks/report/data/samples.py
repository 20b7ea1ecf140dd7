"""Sample rows: accepted ones of each label, and some that each check rejected."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable

from tasks.records import Record, Rejected, label_text
from tasks.report.data.distance import sample_by_id
from tasks.report.data.figures import RejectedSample, SampleRow, Samples
from tasks.report.data.rows import RetrainRows

EACH = 5
CHARACTERS = 700  # of a text


def sample_rows(
    g: RetrainRows, labels: list[str], *, hidden: Callable[[str, str], bool]
) -> Samples:
    """Accepted rows of each label and rejected ones of each check, five each, the first by id.

    A row that is `hidden` (see rows.hidden_texts) is never shown: of accepted ones others are, of
    rejected ones only the reason is.
    """
    accepted = {
        label: _shown([r for r in g.accepted if label in r.labels], hidden) for label in labels
    }
    groups: dict[str, list[Rejected]] = defaultdict(list)
    for r in [*g.unusable, *g.rejected]:
        groups[r.check].append(r)
    rejected = {
        check: [
            _rejected_row(r, hidden)
            for r in sorted(rows, key=lambda r: (r.record.id, r.reason))[:EACH]
        ]
        for check, rows in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    }
    return Samples(accepted=accepted, rejected=rejected)


def _shown(rows: list[Record], hidden: Callable[[str, str], bool]) -> list[SampleRow]:
    found = (r for r in sample_by_id(rows, len(rows)) if not hidden(r.id, r.text))
    return [
        SampleRow(
            id=r.id,
            label=label_text(r.label),
            source=r.source,
            text=_short(r.text),
            lineage=_lineage(r),
        )
        for r in itertools.islice(found, EACH)
    ]


def _rejected_row(rejected: Rejected, hidden: Callable[[str, str], bool]) -> RejectedSample:
    r = rejected.record
    return RejectedSample(
        id=r.id,
        label=label_text(r.label),
        source=r.source,
        text=None if hidden(r.id, r.text) else _short(r.text),
        lineage=_lineage(r),
        reason=rejected.reason,
        value=rejected.value,
        other=rejected.other,
    )


def _lineage(r: Record) -> dict[str, str | int]:
    return {k: r.lineage[k] for k in ("topic", "style", "generator", "round") if k in r.lineage}


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[:CHARACTERS].rstrip() + " …"
