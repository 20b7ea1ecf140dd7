"""Sample rows: accepted ones of each label, and some that each check rejected."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tasks.records import Record, Rejected, label_text
from tasks.report.data.distance import sample_by_id
from tasks.report.data.rows import RetrainRows

EACH = 5
CHARACTERS = 700  # of a text


def sample_rows(
    g: RetrainRows, labels: list[str], *, hidden: Callable[[str, str], bool]
) -> dict[str, Any]:
    """{accepted: {label: [row]}, rejected: {check: [row]}}, five each, the first by id.

    A row that is `hidden` (see rows.hidden_texts) is never shown: of accepted ones others are, of rejected ones only the
    reason is.
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
    return {"accepted": accepted, "rejected": rejected}


def _shown(rows: list[Record], hidden: Callable[[str, str], bool]) -> list[dict[str, Any]]:
    found = (r for r in sample_by_id(rows, len(rows)) if not hidden(r.id, r.text))
    return [_row(r) for r in itertools.islice(found, EACH)]


def _row(r: Record) -> dict[str, Any]:
    lineage = {k: r.lineage[k] for k in ("topic", "style", "generator", "round") if k in r.lineage}
    return {
        "id": r.id,
        "label": label_text(r.label),
        "source": r.source,
        "text": _short(r.text),
        "lineage": lineage,
    }


def _rejected_row(r: Rejected, hidden: Callable[[str, str], bool]) -> dict[str, Any]:
    text = None if hidden(r.record.id, r.record.text) else _short(r.record.text)
    return _row(r.record) | {"text": text, "reason": r.reason, "value": r.value, "other": r.other}


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[:CHARACTERS].rstrip() + " …"
