"""Rows as tables for MLflow."""

from __future__ import annotations

from pathlib import Path

from tasks.records import Record, label_text, read_records, read_rejected
from tasks.stage import Table


def record_row(r: Record) -> dict[str, object]:
    """One record as a row of a table."""
    label = None if r.label is None else label_text(r.label)
    return {
        "id": r.id,
        "label": label,
        "source": r.source,
        "topic": r.lineage.get("topic", ""),
        "text": r.text,
    }


def record_table(path: Path) -> Table:
    """The records of a file, one row each."""
    return [record_row(r) for r in read_records(path)]


def rejected_table(path: Path) -> Table:
    """The rejected records of a file, sorted by check and label, one row each."""
    rows = sorted(read_rejected(path), key=lambda r: (r.check, label_text(r.record.label)))
    return [
        {
            "check": r.check,
            "reason": r.reason,
            "value": r.value,
            "other": r.other,
            **record_row(r.record),
        }
        for r in rows
    ]
