"""The sealed test set: the only code that opens it, and the count of its openings."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tasks import atomic
from tasks.errors import UserError
from tasks.records import Record, read_records
from tasks.stage import Stage

REAL = {"seed", "dev", "test"}  # sources of labelled real text


def open_sealed(sealed: Stage, *, home: Path, by: str) -> list[Record]:
    """The test rows; the opening is counted first. `by` names the model that is to be scored.

    Raises UserError where a row is not real text: scores on what a model wrote say nothing of real use.
    """
    looks = home / "looks" / f"{sealed.digest[:32]}.jsonl"
    atomic.append_line(looks, {"when": datetime.now(UTC).isoformat(timespec="seconds"), "by": by})
    rows = read_records(sealed.directory / "test.jsonl")
    strangers = [r for r in rows if r.source not in REAL]
    if strangers:
        raise UserError(
            f"{sealed.directory / 'test.jsonl'}: {len(strangers)} of {len(rows)} test rows are not real text (the first, "
            f"{strangers[0].id}, is {strangers[0].source}); a test set holds real text alone, so take them out of data.test"
        )
    return rows


def count_openings(sealed: Stage, *, home: Path) -> int:
    """How often this test set was opened from this workspace."""
    return len(atomic.read_lines(home / "looks" / f"{sealed.digest[:32]}.jsonl"))
