"""The review queue as a CSV or JSONL file, and the decisions that were written into it.

Label sets are lists, in CSV as JSON: `["bug", "billing"]`, or `[]` for none.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.dataset.formats import column_names, read_fields
from tasks.decisions import Decision, Decisions, label_after
from tasks.errors import UserError, suggestion
from tasks.labels import unknown_labels
from tasks.records import Label, Record, content_id
from tasks.review.ranked_row import RankedRow
from tasks.text.tokens import replace_surrogates

COLUMNS = ("id", "text", "label", "opinion", "probability", "reason", "decision")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # a cell that a spreadsheet would run, however often quoted
_WORDS = ("accept", "reject")
_LONGEST = 32_000  # characters; a spreadsheet truncates a longer cell


@dataclass(frozen=True, slots=True)
class ReviewChoice:
    """The decision about a row: accept, reject, or relabel with the new label."""

    record: Record
    choice: str
    label: Label | None = None


def export_queue(out: Path, rows: list[RankedRow]) -> None:
    """Write the rows with an empty column `decision`.

    Raises UserError when `out` exists or is neither CSV nor JSONL.
    """
    if out.exists():
        raise UserError(f"{out} exists already: give --export a new file")
    cells = [_cells_of(row) for row in rows]
    if out.suffix == ".jsonl":
        lines = (json.dumps(c, ensure_ascii=False) + "\n" for c in cells)
        atomic.write_bytes(out, "".join(lines).encode())
    elif out.suffix == ".csv":
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS)
        table.writeheader()
        table.writerows({k: _csv_cell(v) for k, v in c.items()} for c in cells)
        atomic.write_bytes(out, text.getvalue().encode("utf-8-sig"))  # Excel needs the BOM
    else:
        suffix = out.suffix or "no suffix"
        raise UserError(f"--export {out}: {suffix} is not supported; use .csv or .jsonl")


def import_decisions(
    path: Path,
    rows: Mapping[str, Record],
    labels: list[str],
    decided: Decisions,
    *,
    separator: str | None = None,
) -> list[Decision]:
    """The decisions imported from the file; one that is made already is skipped.

    Nothing is written unless the whole file is right; see `read_choices` for the errors.
    """
    current = decided.current()
    new = []
    for c in read_choices(path, rows, labels, separator=separator):
        made = current.get(c.record.id)
        after = label_after(c.record, c.choice, c.label)
        rejects = c.choice == "reject"
        if not made or (made.decision == "reject") != rejects or made.label_after != after:
            new.append((c.record, c.choice, c.label))
    return decided.record(new)


def read_choices(
    path: Path, rows: Mapping[str, Record], labels: list[str], *, separator: str | None = None
) -> list[ReviewChoice]:
    """What the column `decision` says, in the file's order; an empty cell decides nothing.

    `accept` and `reject` are choices, anything else a label; `label:accept` is a label of that
    name. With a `separator` a text has a set of labels: a JSON list, or labels separated by it.
    Raises UserError with the line for an unknown id or label, a text that is not the id's, and
    two decisions about one row.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give --import the file that --export wrote")
    missing = sorted({"id", "text", "decision"} - set(column_names(path)))
    if missing:
        raise UserError(
            f"{path} has no column {missing[0]!r}: keep id, text and decision as --export wrote "
            f"them"
        )
    found: dict[str, ReviewChoice] = {}
    for place, (cell, key, text) in _read_cells(path, "decision", "id", "text"):
        if cell in ("", None):
            continue
        try:
            if key not in rows:
                raise ValueError(f"no row has the id {key!r}; export the queue again")
            if len(str(text)) < _LONGEST and content_id(str(text)) != key:
                raise ValueError(f"the text is not that of row {key}: the columns have shifted")
            word, label = (
                _choice_of_set(cell, labels, separator) if separator else _choice(cell, labels)
            )
            if word == "accept" and rows[key].label is None:
                raise ValueError("it has no label to accept: write one of the labels, or reject")
            choice = ReviewChoice(rows[key], word, label)
            if found.setdefault(key, choice) != choice:
                raise ValueError(f"row {key} has another decision on an earlier line")
        except ValueError as e:
            raise UserError(f"{path}: {place}: {e}; nothing was imported") from None
    return list(found.values())


def ids_in_file(path: Path) -> set[str]:
    """The ids that the file names; none where it does not exist."""
    return {str(key) for _, (key,) in _read_cells(path, "id")} if path.exists() else set()


def quote_formula(cell: str) -> str:
    """The cell with ' before it where a spreadsheet would run it."""
    return "'" + cell if _FORMULA.match(cell) else cell


def unquote_formula(cell: str) -> str:
    """The cell without the ' that `quote_formula` put before it; any other ' stays."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _cells_of(row: RankedRow) -> dict[str, object]:
    values = (
        row.id,
        row.record.text,
        row.record.label,
        row.opinion,
        row.probability,
        row.why(),
        "",
    )
    return dict(zip(COLUMNS, values, strict=True))


def _csv_cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return json.dumps(value, ensure_ascii=False)
    return quote_formula(value) if isinstance(value, str) else value


def _read_cells(path: Path, *names: str) -> Iterator[tuple[str, list[Any]]]:
    """Each row's place, and its values in the columns `names`; None where there is none."""
    quoted = path.suffix.lower() in {".csv", ".tsv"}
    for place, fields in read_fields(path):
        yield place, [_value(fields.get(name), quoted=quoted) for name in names]


def _value(value: Any, *, quoted: bool) -> Any:
    """A cell's text without white space around it; a list as it is."""
    if value is None or isinstance(value, list):
        return value
    text = replace_surrogates(str(value))
    return (unquote_formula(text) if quoted else text).strip()


def _choice(cell: Any, labels: Sequence[str]) -> tuple[str, str | None]:
    """(choice, new label) of a cell. Raises ValueError for one that is neither."""
    text = str(cell)
    if text.lower() in _WORDS and (text in _WORDS or text not in labels):
        return text.lower(), None
    for label in (text, text.removeprefix("label:")):
        if label in labels:
            return "relabel", label
    raise ValueError(
        f"{cell!r} is no decision{suggestion(text, [*_WORDS, *labels])}: write accept, reject or "
        f"one of the labels {', '.join(labels)}"
    )


def _choice_of_set(
    cell: Any, labels: Sequence[str], separator: str
) -> tuple[str, tuple[str, ...] | None]:
    """(choice, new label set) of a cell: as `_choice`, a JSON list, or labels separated."""
    if isinstance(cell, str):
        try:
            choice, label = _choice(cell, labels)
            return choice, None if label is None else (label,)
        except ValueError:
            cell = _split_set(cell, separator)
    unknown = [v for v in cell if not isinstance(v, str) or unknown_labels([v], labels)]
    if unknown:
        hint = suggestion(str(unknown[0]), [*_WORDS, *labels])
        raise ValueError(
            f"{unknown[0]!r} is no decision{hint}: write accept, reject, labels separated by "
            f"{separator!r}, or a list ([] for none of them); the labels are {', '.join(labels)}"
        )
    return "relabel", tuple(sorted(set(cell)))


def _split_set(cell: str, separator: str) -> list[Any]:
    try:
        parsed = json.loads(cell)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, list):
        return parsed
    return [part.strip() for part in cell.split(separator) if part.strip()]
