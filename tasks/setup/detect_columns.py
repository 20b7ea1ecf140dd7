"""Which columns hold the texts and the labels of somebody's rows, and how several labels a text are written there.

A guess is said in a sentence; where the rows speak for two things, it is a UserError that says how to decide.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.dataset.readers import YES_OR_NO, Columns, column_names, read_fields
from tasks.errors import UserError

TEXT_NAMES = (
    "text",
    "texts",
    "content",
    "body",
    "message",
    "sentence",
    "document",
    "description",
    "title",
)
LABEL_NAMES = (
    "label",
    "labels",
    "category",
    "categories",
    "class",
    "target",
    "topic",
    "topics",
    "intent",
    "tag",
    "tags",
)
SEPARATORS = (";", "|", ",")


@dataclass(frozen=True, slots=True)
class ColumnHints:
    """What the user says about the rows; what is None, or empty, is found out. `several`: a text may have several labels."""

    text: str | None = None
    label: str | None = None
    several: bool | None = None
    separator: str | None = None
    each: tuple[str, ...] = ()


def detect_columns(data: Path, asked: ColumnHints) -> tuple[Columns, str]:
    """(the columns to read, what was taken for labels). Raises UserError where the columns can't be told."""
    if asked.several is False and (asked.separator or asked.each):
        raise UserError(
            "--one-label does not go with --separator or --label-columns: give one of them"
        )
    if asked.each and (asked.separator or asked.label):
        raise UserError(
            "--label-columns takes a column a label: leave --label-column and --separator out"
        )
    if data.is_dir():
        if asked.several or asked.separator or asked.each:
            raise UserError(
                f"{data} is a folder, which gives each text one label: for several give a table"
            )
        return Columns("text", "label"), "the folders, one label a text"
    present = column_names(data)
    for given in (asked.text, asked.label, *asked.each):
        if given is not None and given not in present:
            raise UserError(
                f"{data} has no column {given!r}: it has {', '.join(map(repr, present))}"
            )
    lower = {p.lower().strip(): p for p in present}
    text = asked.text or next(
        (lower[n] for n in TEXT_NAMES if n in lower and lower[n] != asked.label), None
    )
    label = asked.label or next(
        (lower[n] for n in LABEL_NAMES if n in lower and lower[n] != text), None
    )
    if text is None:
        raise _which("text", data, present)
    rows = [fields for _, fields in read_fields(data)]
    flags = (
        ()
        if asked.several is False or asked.label or asked.separator
        else _flags(rows, present, text)
    )
    if asked.each or (len(flags) > 1 and label is None):
        names = ", ".join(map(repr, asked.each or flags))
        return Columns(
            text, "label", each=asked.each or flags
        ), f"the columns {names}, which hold 0 and 1"
    if len(flags) > 1 and label in flags:
        raise UserError(
            f"{data}: {', '.join(map(repr, flags))} hold 0 and 1 alone: give --label-columns {','.join(flags)} if each of them "
            f"is a label, --label-column {label} if that one holds the labels"
        )
    if label is None:
        raise _which("label", data, present)
    return _written(data, text, label, [r.get(label) for r in rows], asked)


def _which(role: str, data: Path, present: list[str]) -> UserError:
    several = (
        ", or, where each label has a column of 0 and 1, --label-columns" if role == "label" else ""
    )
    return UserError(
        f"{data}: which column holds the {role}? It has {', '.join(map(repr, present))}: give --{role}-column{several}"
    )


def _flags(rows: list[dict[str, Any]], present: list[str], text: str) -> tuple[str, ...]:
    """The columns that hold 0 and 1, both of them and nothing else but empty cells."""
    found = []
    for name in present:
        values = {
            v.strip() if isinstance(v, str) else v for r in rows if _hashable(v := r.get(name))
        } - {"", None}
        listed = any(not _hashable(r.get(name)) for r in rows)
        if (
            name != text
            and not listed
            and values <= YES_OR_NO.keys()
            and {YES_OR_NO[v] for v in values} == {False, True}
        ):
            found.append(name)
    return tuple(found)


def _hashable(value: Any) -> bool:
    return not isinstance(value, (list, dict))


def _written(
    data: Path, text: str, label: str, values: list[Any], asked: ColumnHints
) -> tuple[Columns, str]:
    """How the labels stand in their column."""
    one = Columns(text, label), f"the column {label!r}, one label a text"
    if asked.several is False:
        return one
    if asked.separator:
        separated = Columns(text, label, many=True, separator=asked.separator)
        return separated, f"the column {label!r}, parted by {asked.separator!r}"
    cells = [v.strip() if isinstance(v, str) else v for v in values if v not in (None, "")]
    listed = [isinstance(v, list) or (isinstance(v, str) and _is_list(v)) for v in cells]
    if any(listed) and (all(listed) or asked.several):
        return Columns(text, label, many=True), f"the column {label!r}, which holds lists"
    if any(listed):
        other = next(v for v, is_list in zip(cells, listed, strict=True) if not is_list)
        raise UserError(
            f"{data}: {label!r} holds lists in {sum(listed)} rows and single values such as {other!r} in others: write lists "
            f"everywhere, or give --one-label, which sets the rows with lists aside"
        )
    separator, note = _separator(
        data, label, Counter(str(v) for v in cells), several=bool(asked.several)
    )
    if separator is None:
        return one[0], one[1] + note
    return Columns(
        text, label, many=True, separator=separator
    ), f"the column {label!r}, parted by {separator!r}"


def _is_list(cell: str) -> bool:
    try:
        return cell.startswith("[") and isinstance(json.loads(cell), list)
    except (ValueError, RecursionError):
        return False


def _separator(
    data: Path, label: str, cells: Counter[str], *, several: bool
) -> tuple[str | None, str]:
    """(what parts the labels in the cells or None, a note on what might).

    A character parts labels where its parts recur in other cells. Where none do, it belongs to the labels' names.
    """
    found = {s: told for s in SEPARATORS if (told := _recurring(cells, s))}
    sure = [s for s, (share, alone) in found.items() if share >= 0.5 and not alone]
    likely = list(found) if several else [s for s, (share, _) in found.items() if share > 0]
    if len(sure) == 1:
        return sure[0], ""
    if several and len(likely) == 1:
        return likely[0], ""
    if several and not likely:
        raise UserError(
            f"{data}: no cell of {label!r} holds {', '.join(SEPARATORS)} or a list: give --separator"
        )
    if likely:
        s = (sure or likely)[0]
        cell = found[s][1] or next(cell for cell in cells if s in cell)
        raise UserError(
            f"{data}: {label!r} holds {cell!r}, which may be one label or several: give --separator {s!r} if that parts labels, "
            f"--one-label if it belongs to a label's name; where both are so, write the labels as lists"
        )
    if found:
        s = next(iter(found))
        return (
            None,
            f" ({s!r} in {found[s][1]!r} is taken as part of its name; if it parts labels, give --separator {s!r})",
        )
    return None, ""


def _recurring(cells: Counter[str], separator: str) -> tuple[float, str] | None:
    """(the share of the parts that recur in other cells, a cell none of whose parts does or ""); None where nothing is parted."""
    sets = {
        cell: frozenset(part.strip() for part in cell.split(separator)) - {""} for cell in cells
    }
    times = Counter(part for own in set(sets.values()) for part in own)
    parted = {cell: own for cell, own in sets.items() if len(own) > 1}
    if not parted:
        return None
    parts = frozenset().union(*parted.values())
    alone = next(
        (cell for cell, own in parted.items() if all(times[part] == 1 for part in own)), ""
    )
    return sum(times[part] > 1 for part in parts) / len(parts), alone
