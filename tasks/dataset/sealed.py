"""The sealed test set: the only code that opens it, and the count of its openings."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks import atomic
from tasks.dataset.split import SealedResult
from tasks.errors import UserError
from tasks.records import Record, read_records
from tasks.workspace import Workspace

REAL = {"seed", "dev", "test"}  # sources of labelled real text


def open_sealed(sealed: SealedResult, *, workspace: Workspace, by: str) -> list[Record]:
    """The test rows; the opening is counted first. `by` names the model that is to be scored.

    Raises UserError where a row is not real text: scores on what a model wrote say nothing of real use.
    """
    looks = workspace.test_set_uses(sealed.digest)
    atomic.append_line(looks, {"when": datetime.now(UTC).isoformat(timespec="seconds"), "by": by})
    rows = read_records(sealed.directory / "test.jsonl")
    strangers = [r for r in rows if r.source not in REAL]
    if strangers:
        raise UserError(
            f"{sealed.directory / 'test.jsonl'}: {len(strangers)} of {len(rows)} test rows are not real text (the first, "
            f"{strangers[0].id}, is {strangers[0].source}); a test set holds real text alone, so take them out of data.test"
        )
    return rows


def count_test_set_uses(sealed: SealedResult, *, workspace: Workspace) -> int:
    """How many times this test set was used in this workspace."""
    return len(atomic.read_lines(workspace.test_set_uses(sealed.digest)))
