"""Read the sealed test set and count its uses. No other code reads it."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks import atomic
from tasks.dataset.split import SealedResult
from tasks.errors import UserError
from tasks.records import Record, read_records
from tasks.workspace import Workspace

REAL = {"seed", "dev", "test"}  # sources of labelled real text


def open_sealed(sealed: SealedResult, *, workspace: Workspace, by: str) -> list[Record]:
    """The test rows; the use is counted first. `by` names the model that is to be scored.

    Raises UserError where a row is not real text, because its score would not hold in production.
    """
    use = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "by": by}
    atomic.append_line(workspace.test_set_uses(sealed.digest), use)
    rows = read_records(sealed.directory / "test.jsonl")
    if synthetic := [r for r in rows if r.source not in REAL]:
        raise UserError(
            f"{sealed.directory / 'test.jsonl'}: {len(synthetic)} of {len(rows)} test rows are not "
            f"real text (the first, {synthetic[0].id}, is {synthetic[0].source}): remove them from "
            "data.test"
        )
    return rows


def count_test_set_uses(sealed: SealedResult, *, workspace: Workspace) -> int:
    """How many times this test set was used in this workspace."""
    return len(atomic.read_lines(workspace.test_set_uses(sealed.digest)))
