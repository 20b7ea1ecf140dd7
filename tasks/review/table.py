"""The queue as a CSV or JSONL file for a spreadsheet, and the decisions written into it read back."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

from tasks import files
from tasks.errors import UserError, nearest
from tasks.readers import Columns, column_names, read_rows
from tasks.records import Record, content_id
from tasks.review.decisions import Decision, Decisions
from tasks.review.queue import Doubt

COLUMNS = ("id", "text", "label", "opinion", "probability", "reason", "decision")
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # a cell that a spreadsheet would run, however often it was quoted
LONGEST = 32_000  # characters; a spreadsheet cuts a longer cell off


def quoted(cell: str) -> str:
    """The cell with ' before it where a spreadsheet would run it. `unquoted` is its inverse."""
    return "'" + cell if FORMULA.match(cell) else cell


def unquoted(cell: str) -> str:
    """The cell without the ' that `quoted` put before it; any other ' stays."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def write(out: Path, rows: list[Doubt]) -> None:
    """Write the rows with an empty column `decision`. Raises UserError when `out` exists or is neither CSV nor JSONL."""
    if out.exists():
        raise UserError(f"{out} is there already: give --export a new file")
    cells = [
        {
            "id": d.id,
            "text": d.record.text,
            "label": str(d.record.label),
            "opinion": d.opinion,
            "probability": d.probability,
            "reason": d.why(),
            "decision": "",
        }
        for d in rows
    ]
    if out.suffix == ".jsonl":
        files.write_bytes(out, "".join(json.dumps(c, ensure_ascii=False) + "\n" for c in cells).encode())
    elif out.suffix == ".csv":
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS)
        table.writeheader()
        table.writerows({k: quoted(v) if isinstance(v, str) else v for k, v in c.items()} for c in cells)
        files.write_bytes(out, text.getvalue().encode("utf-8-sig"))  # without a BOM, Excel reads no UTF-8
    else:
        raise UserError(f"--export {out}: {out.suffix or 'no suffix'} is not written here; use .csv or .jsonl")


def read(path: Path, rows: dict[str, Record], labels: list[str]) -> list[tuple[Record, str, str | None]]:
    """What the column `decision` says: (row, choice, new label), in the file's order; an empty cell decides nothing.

    `accept` and `reject` are decisions, anything else a label; `label:accept` is a label of that name. Raises UserError
    with the line for an unknown id, an unknown label, a text that is not the id's, and two decisions about one row.
    """
    if not path.exists():
        raise UserError(f"{path} is not there: give --import the file that --export wrote")
    lacking = {"id", "text", "decision"} - set(column_names(path))
    if lacking:
        raise UserError(
            f"{path} has no column {sorted(lacking)[0]!r}: keep id, text and decision as --export wrote them"
        )
    csv_quotes = path.suffix.lower() in {".csv", ".tsv"}
    words: dict[str, tuple[str, str | None]] = {label: ("relabel", label) for label in labels}
    words |= {f"label:{label}": ("relabel", label) for label in labels}
    words |= {"accept": ("accept", None), "reject": ("reject", None)}
    found: dict[str, tuple[Record, str, str | None]] = {}
    for row in read_rows(path, Columns("text", "decision", "id")):
        said, key, text = (
            (unquoted(v) if csv_quotes else v) for v in (str(row.label or "").strip(), row.id or "", row.text)
        )
        if not said:
            continue
        if row.fault:
            raise UserError(f"{path}: {row.place}: {row.fault}; nothing was imported")
        if key not in rows:
            raise UserError(
                f"{path}: {row.place}: no row has the id {key!r}; export the queue again; nothing was imported"
            )
        if len(text) < LONGEST and content_id(text) != key:
            raise UserError(f"{path}: {row.place}: the text is not that of row {key}: the columns have shifted apart; "
                            "nothing was imported")  # fmt: skip
        choice = words.get(said) or words.get(said.lower() if said.lower() in ("accept", "reject") else "")
        if choice is None:
            known = ["accept", "reject", *labels]
            raise UserError(
                f"{path}: {row.place}: {said!r} is no decision{nearest(said, known)}: write accept, reject or one of the "
                f"labels {', '.join(labels)}; nothing was imported"
            )
        made = (rows[key], *choice)
        if found.setdefault(key, made) != made:
            raise UserError(
                f"{path}: {row.place}: row {key} has another decision on an earlier line; nothing was imported"
            )
    return list(found.values())


def take(path: Path, rows: dict[str, Record], labels: list[str], decided: Decisions) -> list[Decision]:
    """The decisions imported from the file; those that stand already are left out, so doing it twice is doing it once.

    Nothing is written unless the whole file is right.
    """
    standing = decided.current()
    wanted = []
    for r, choice, label in read(path, rows, labels):
        now = standing.get(r.id)
        after = None if choice == "reject" else label or r.label
        if now is None or (now.decision == "reject") != (choice == "reject") or now.label_after != after:
            wanted.append((r, choice, label))
    return decided.record(wanted)
