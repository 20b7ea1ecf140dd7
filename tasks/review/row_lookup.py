"""The data behind a curate stage, and the row of it that a user names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.errors import UserError
from tasks.records import Record, Rejected, label_text
from tasks.report.data.rows import RetrainRows
from tasks.text.tokens import fold
from tasks.workspace import RetrainData, Workspace

_LISTED = 5  # rows in the error about an ambiguous name
_ID = re.compile(r"[0-9a-f]{4,24}")  # or the start of one

Hidden = Callable[[str, str], bool]  # of an id and a text: may the text not be shown?


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """A row as it was kept, or as it was rejected."""

    record: Record
    rejected: Rejected | None = None

    @property
    def origin(self) -> tuple[Any, Any]:
        """The request and the row's number in the reply; cleaning changes the id, but not these."""
        return self.record.lineage.get("request"), self.record.lineage.get("row")


def locate_retrain(workspace: Workspace, curated: Path, *, config: Path) -> RetrainData:
    """The data of a curate stage's inputs, located in the workspace by their digests.

    Raises UserError where the directory is not that of a curate stage, or an input is gone.
    """
    if not (curated / atomic.MANIFEST).exists():
        raise UserError(
            f"{curated} is not a curate stage (no manifest): give --curated "
            f"{workspace.stages}/curate/KEY"
        )
    manifest = atomic.read_json(curated / atomic.MANIFEST)
    inputs = manifest.get("inputs", {})

    def locate(name: str, stage: str) -> Path:
        for directory, published in published_stages(workspace, stage):
            if published["digest"] == inputs.get(name):
                return directory
        raise UserError(
            f"{name}, an input of {curated}, is not in {workspace.home}: set RESEED_HOME to its "
            f"workspace"
        )

    rounds = [name for name in inputs if name.startswith("round-")]
    rounds.sort(key=lambda name: int(name.removeprefix("round-")))
    self_trained = [
        directory
        for directory, published in published_stages(workspace, "self_training")
        if published["inputs"].get("training") == manifest["digest"]
    ]
    return RetrainData(
        config=config,
        splits=locate("splits", "splits"),
        curated=curated,
        rounds=tuple(locate(name, "synthesise") for name in rounds),
        self_trained=max(self_trained, key=lambda d: d.stat().st_mtime, default=None),
    )


def published_stages(workspace: Workspace, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The directories of the stage with their manifests."""
    for directory in workspace.published(name):
        yield directory, atomic.read_json(directory / atomic.MANIFEST)


def find_row(row: str, rows: RetrainRows, hidden: Hidden) -> tuple[RowOutcome, list[RowOutcome]]:
    """The row that is meant, a kept one before rejected ones, and the other rows with its text.

    `row` is an id, the start of one, or a piece of the text; the id and text that a row had in
    its reply name it too. Raises UserError when no row, or more than one, is meant.
    """
    query = row.strip()
    if not query:
        raise UserError(
            "--explain '' names no row: give an id, the start of one, or a piece of its text"
        )
    kept = [*rows.kept, *(r for r in rows.trained_on if r.source == "harvested")]
    outcomes = [RowOutcome(r) for r in kept]
    outcomes += [RowOutcome(r.record, r) for r in [*rows.rejected, *rows.unusable]]
    by_origin = {o.origin: o for o in reversed(outcomes) if o.origin[0]}
    in_replies = [(w, o) for w in rows.written if (o := by_origin.get(RowOutcome(w).origin))]
    matches = _match(query, [(o.record, o) for o in outcomes] + in_replies)
    if not matches:
        raise UserError(
            f"no row of the last retrain has the id or the text {shorten(query)!r}: give an id, or "
            f"less text"
        )
    by_id: dict[str, list[RowOutcome]] = {}
    for o in matches:
        if o not in by_id.setdefault(o.record.id, []):
            by_id[o.record.id].append(o)
    if len(by_id) > 1:
        listed = [_describe(same[0], hidden) for same in list(by_id.values())[:_LISTED]]
        more = f", and {len(by_id) - _LISTED} more" if len(by_id) > _LISTED else ""
        raise UserError(
            f"{shorten(query)!r} names {len(by_id)} rows: give the id of one of them: "
            f"{', '.join(listed)}{more}"
        )
    ((first, *others),) = by_id.values()
    same_id = [o for o in outcomes if o.record.id == first.record.id]
    return first, others + [o for o in same_id if o != first and o not in others]


def _match(query: str, named: list[tuple[Record, RowOutcome]]) -> list[RowOutcome]:
    """The outcomes of the rows with that id, else that start of an id, else that text."""
    key, piece = query.lower(), fold(query)
    matches: list[RowOutcome] = []
    if _ID.fullmatch(key):
        matches = [o for r, o in named if r.id == key]
        matches = matches or [o for r, o in named if r.id.startswith(key)]
    return matches or [o for r, o in named if piece and piece in fold(r.text)]


def _describe(o: RowOutcome, hidden: Hidden) -> str:
    r = o.record
    secret = o.rejected is not None and hidden(r.id, r.text)
    text = "not shown" if secret else repr(shorten(" ".join(r.text.split())))
    return f"{r.id} ({label_text(r.label)}, {o.rejected.check if o.rejected else 'kept'}: {text})"


def shorten(text: str, n: int = 50) -> str:
    """The text cut to `n` characters."""
    return text if len(text) <= n else text[: n - 1] + "…"
