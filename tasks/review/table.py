"""The queue as a CSV or JSONL file for a spreadsheet, and the decisions written into it read back.

Label sets stand in it as lists, in CSV as JSON: `["bug", "billing"]`, or `[]` for none.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.dataset.readers import column_names, read_fields
from tasks.decisions import Decision, Decisions, label_after
from tasks.errors import UserError, suggestion
from tasks.labels import unknown_labels
from tasks.records import Label, Record, content_id
from tasks.review.queue import Doubt
from tasks.text.tokens import replace_surrogates

COLUMNS = ("id", "text", "label", "opinion", "probability", "reason", "decision")
FORMULA = re.compile(
    r"'*[=+\-@\t\r]"
)  # a cell that a spreadsheet would run, however often it was quoted
WORDS = ("accept", "reject")
LONGEST = 32_000  # characters; a spreadsheet cuts a longer cell off


def quoted(cell: str) -> str:
    """The cell with ' before it where a spreadsheet would run it. `unquoted` is its inverse."""
    return "'" + cell if FORMULA.match(cell) else cell


def unquoted(cell: str) -> str:
    """The cell without the ' that `quoted` put before it; any other ' stays."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def _cell(value: Any) -> Any:
    """The value for a cell of a spreadsheet."""
    if isinstance(value, tuple):
        return json.dumps(value, ensure_ascii=False)
    return quoted(value) if isinstance(value, str) else value


def write(out: Path, rows: list[Doubt]) -> None:
    """Write the rows with an empty column `decision`. Raises UserError when `out` exists or is neither CSV nor JSONL."""
    if out.exists():
        raise UserError(f"{out} is there already: give --export a new file")
    cells: list[dict[str, Any]] = [
        {
            "id": d.id,
            "text": d.record.text,
            "label": d.record.label,
            "opinion": d.opinion,
            "probability": d.probability,
            "reason": d.why(),
            "decision": "",
        }
        for d in rows
    ]
    if out.suffix == ".jsonl":
        atomic.write_bytes(
            out, "".join(json.dumps(c, ensure_ascii=False) + "\n" for c in cells).encode()
        )
    elif out.suffix == ".csv":
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS)
        table.writeheader()
        table.writerows({k: _cell(v) for k, v in c.items()} for c in cells)
        atomic.write_bytes(
            out, text.getvalue().encode("utf-8-sig")
        )  # without a BOM, Excel reads no UTF-8
    else:
        raise UserError(
            f"--export {out}: {out.suffix or 'no suffix'} is not written here; use .csv or .jsonl"
        )


def ids(path: Path) -> set[str]:
    """The ids that the file names; none where it has no such column."""
    return {str(key) for _, (key,) in _cells(path, "id")} if path.exists() else set()


def read(
    path: Path, rows: dict[str, Record], labels: list[str], *, separator: str | None = None
) -> list[tuple[Record, str, Label | None]]:
    """What the column `decision` says: (row, choice, new label), in the file's order; an empty cell decides nothing.

    `accept` and `reject` are decisions, anything else a label; `label:accept` is a label of that name. With a `separator`
    a text has a set of labels: a JSON list, or labels parted by it. Raises UserError with the line for an unknown id, an
    unknown label, a text that is not the id's, and two decisions about one row.
    """
    if not path.exists():
        raise UserError(f"{path} is not there: give --import the file that --export wrote")
    lacking = {"id", "text", "decision"} - set(column_names(path))
    if lacking:
        raise UserError(
            f"{path} has no column {sorted(lacking)[0]!r}: keep id, text and decision as --export wrote them"
        )
    found: dict[str, tuple[Record, str, Label | None]] = {}
    for place, (said, key, text) in _cells(path, "decision", "id", "text"):
        if said in ("", None):
            continue
        if key not in rows:
            raise UserError(
                f"{path}: {place}: no row has the id {key!r}; export the queue again; nothing was imported"
            )
        if len(str(text)) < LONGEST and content_id(str(text)) != key:
            raise UserError(
                f"{path}: {place}: the text is not that of row {key}: the columns have shifted apart; nothing was imported"
            )
        try:
            if rows[key].label is None and str(said).lower() == "accept" and said not in labels:
                raise ValueError(
                    "it has no label that could be accepted: write one of the labels, or reject"
                )
            made = (
                rows[key],
                *(_choice(said, labels) if separator is None else _set(said, labels, separator)),
            )
        except ValueError as e:
            raise UserError(f"{path}: {place}: {e}; nothing was imported") from None
        if found.setdefault(key, made) != made:
            raise UserError(
                f"{path}: {place}: row {key} has another decision on an earlier line; nothing was imported"
            )
    return list(found.values())


def _cells(path: Path, *names: str) -> Iterator[tuple[str, list[Any]]]:
    """Each row's place, and its values in the columns `names`; None where there is none."""
    csv_quotes = path.suffix.lower() in {".csv", ".tsv"}
    for place, fields in read_fields(path):
        yield place, [_value(fields.get(name), csv_quotes) for name in names]


def _value(value: Any, csv_quotes: bool) -> Any:
    """A cell's text without what is around it; a list as it stands."""
    if value is None or isinstance(value, list):
        return value
    return (
        unquoted(replace_surrogates(str(value))) if csv_quotes else replace_surrogates(str(value))
    ).strip()


def _choice(said: Any, labels: Sequence[str]) -> tuple[str, str | None]:
    """(choice, new label) of a cell. Raises ValueError for one that says neither."""
    if said in labels and said not in WORDS:
        return "relabel", str(said)
    if str(said).lower() in WORDS:
        return str(said).lower(), None
    label = str(said).removeprefix("label:")
    if label in labels:
        return "relabel", label
    raise ValueError(
        f"{said!r} is no decision{suggestion(str(said), [*WORDS, *labels])}: write accept, reject or one of the labels "
        f"{', '.join(labels)}"
    )


def _set(said: Any, labels: Sequence[str], separator: str) -> tuple[str, tuple[str, ...] | None]:
    """(choice, new label set) of a cell: as `_choice`, a JSON list, or labels parted by the separator."""
    listed = said
    if isinstance(said, str):
        try:
            choice, label = _choice(said, labels)
        except ValueError:
            listed = _listed(said, separator)
        else:
            return choice, None if label is None else (label,)
    odd = [v for v in listed if not isinstance(v, str) or unknown_labels([v], labels)]
    if odd:
        raise ValueError(
            f"{odd[0]!r} is no decision{suggestion(str(odd[0]), [*WORDS, *labels])}: write accept, reject, labels parted by "
            f"{separator!r}, or a list ([] for none of them); the labels are {', '.join(labels)}"
        )
    return "relabel", tuple(sorted(set(listed)))


def _listed(said: str, separator: str) -> list[Any]:
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        found = None
    return (
        found
        if isinstance(found, list)
        else [part.strip() for part in said.split(separator) if part.strip()]
    )


def take(
    path: Path,
    rows: dict[str, Record],
    labels: list[str],
    decided: Decisions,
    *,
    separator: str | None = None,
) -> list[Decision]:
    """The decisions imported from the file; those that stand already are left out, so doing it twice is doing it once.

    Nothing is written unless the whole file is right.
    """
    standing = decided.current()
    wanted = []
    for r, choice, label in read(path, rows, labels, separator=separator):
        now = standing.get(r.id)
        if (
            now is None
            or (now.decision == "reject") != (choice == "reject")
            or now.label_after != label_after(r, choice, label)
        ):
            wanted.append((r, choice, label))
    return decided.record(wanted)
