"""Detect which columns hold texts and labels, and how several labels per text are written.

What was detected is given as a sentence. Where the rows allow two readings, a UserError says how to
decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tasks.dataset.formats import Fields, column_names, read_fields
from tasks.dataset.readers import YES_OR_NO, Columns, parse_json
from tasks.errors import UserError

TEXT_NAMES = [
    "text",
    "texts",
    "content",
    "body",
    "message",
    "sentence",
    "document",
    "description",
    "title",
]
LABEL_NAMES = [
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
]
SEPARATORS = (";", "|", ",")


@dataclass(frozen=True, slots=True)
class ColumnHints:
    """What the user says about the columns; what is None or empty is detected."""

    text: str | None = None
    label: str | None = None
    multi_label: bool | None = None
    separator: str | None = None
    label_columns: tuple[str, ...] = ()


def detect_columns(data: Path, hints: ColumnHints) -> tuple[Columns, str]:
    """(the columns to read, where the labels are). Raises UserError where that is ambiguous."""
    _check_hints(data, hints)
    if data.is_dir():
        return Columns("text", "label"), "the folders, one label per text"
    present = column_names(data)
    for name in (hints.text, hints.label, *hints.label_columns):
        if name is not None and name not in present:
            raise UserError(f"{data} has no column {name!r}: use one of {_quoted(present)}")
    text = hints.text or _known_column(present, TEXT_NAMES, but=hints.label)
    label = hints.label or _known_column(present, LABEL_NAMES, but=text)
    if text is None:
        raise _undetected("text", data, present)
    rows = [fields for _, fields in read_fields(data)]
    flags = hints.label_columns
    if not flags and hints.multi_label is not False and not hints.label and not hints.separator:
        flags = tuple(name for name in present if name != text and _is_flag(rows, name))
    if hints.label_columns or (len(flags) > 1 and label is None):
        columns = Columns(text, "label", label_columns=flags)
        return columns, f"the columns {_quoted(flags)}, which hold 0 and 1"
    if len(flags) > 1 and label in flags:
        raise UserError(
            f"{data}: {_quoted(flags)} hold only 0 and 1: give --label-columns {','.join(flags)} "
            f"if each is a label, or --label-column {label} if that one holds the labels"
        )
    if label is None:
        raise _undetected("label", data, present)
    return _detect_labels(data, text, label, [r.get(label) for r in rows], hints)


def _check_hints(data: Path, hints: ColumnHints) -> None:
    several = hints.separator or hints.label_columns
    if hints.multi_label is False and several:
        raise UserError(
            "--one-label does not go with --separator or --label-columns: give one of them"
        )
    if hints.label_columns and (hints.separator or hints.label):
        raise UserError(
            "--label-columns names one column per label: remove --label-column and --separator"
        )
    if data.is_dir() and (hints.multi_label or several):
        raise UserError(
            f"{data} is a folder, which gives each text one label: give a table for several"
        )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _known_column(present: list[str], names: Sequence[str], *, but: str | None) -> str | None:
    columns = {column.lower().strip(): column for column in present}
    return next((columns[n] for n in names if n in columns and columns[n] != but), None)


def _undetected(role: str, data: Path, present: list[str]) -> UserError:
    flags = ", or --label-columns if each label has a column of 0 and 1" * (role == "label")
    return UserError(
        f"{data}: which of {_quoted(present)} holds the {role} is unclear: give "
        f"--{role}-column{flags}"
    )


def _is_flag(rows: list[Fields], name: str) -> bool:
    """Whether the column holds both 0 and 1, and nothing else but empty cells."""
    values = set()
    for row in rows:
        value = row.get(name)
        if isinstance(value, (list, dict)):
            return False
        values.add(value.strip() if isinstance(value, str) else value)
    values -= {"", None}
    return values <= YES_OR_NO.keys() and {YES_OR_NO[v] for v in values} == {False, True}


def _detect_labels(
    data: Path, text: str, label: str, values: list[Any], hints: ColumnHints
) -> tuple[Columns, str]:
    """How the labels are written in their column."""
    separator, note = hints.separator, ""
    if hints.multi_label is not False and not separator:
        cells = [v.strip() if isinstance(v, str) else v for v in values if v not in (None, "")]
        lists = [isinstance(parse_json(v) if isinstance(v, str) else v, list) for v in cells]
        if any(lists) and (all(lists) or hints.multi_label):
            return Columns(
                text, label, multi_label=True
            ), f"the column {label!r}, which holds lists"
        if any(lists):
            raise UserError(
                f"{data}: {label!r} holds lists in {sum(lists)} rows and single values such as "
                f"{cells[lists.index(False)]!r} in others: write lists everywhere, or give "
                "--one-label, which rejects the rows with lists"
            )
        counts = Counter(str(v) for v in cells)
        separator, note = _detect_separator(data, label, counts, bool(hints.multi_label))
    if separator is None:
        return Columns(text, label), f"the column {label!r}, one label per text{note}"
    columns = Columns(text, label, multi_label=True, separator=separator)
    return columns, f"the column {label!r}, separated by {separator!r}"


class _Parts(NamedTuple):
    """How a separator splits cells.

    `recurring` is the share of the parts that recur in other cells, `unique` a cell of which none
    does, or "".
    """

    recurring: float
    unique: str


def _detect_separator(
    data: Path, label: str, cells: Counter[str], multi_label: bool
) -> tuple[str | None, str]:
    """(what separates labels in the cells or None, a note on what might).

    A character separates labels if the parts recur in other cells; otherwise it belongs to names.
    """
    splits = {s: parts for s in SEPARATORS if (parts := _split_cells(cells, s))}
    certain = [s for s, parts in splits.items() if parts.recurring >= 0.5 and not parts.unique]
    possible = [s for s, parts in splits.items() if parts.recurring > 0 or multi_label]
    if len(certain) == 1:
        return certain[0], ""
    if multi_label and len(possible) == 1:
        return possible[0], ""
    if multi_label and not possible:
        raise UserError(
            f"{data}: no cell of {label!r} holds {', '.join(SEPARATORS)} or a list: give "
            "--separator"
        )
    if possible:
        s = (certain or possible)[0]
        cell = splits[s].unique or next(cell for cell in cells if s in cell)
        raise UserError(
            f"{data}: {label!r} holds {cell!r}, which may be one label or several: give "
            f"--separator {s!r} if that separates labels, --one-label if it belongs to a name; "
            "write lists where both occur"
        )
    if not splits:
        return None, ""
    s, parts = next(iter(splits.items()))
    name = f"{s!r} in {parts.unique!r} is taken as part of its name"
    return None, f" ({name}; if it separates labels, give --separator {s!r})"


def _split_cells(cells: Counter[str], separator: str) -> _Parts | None:
    sets = {
        cell: frozenset(part.strip() for part in cell.split(separator)) - {""} for cell in cells
    }
    counts = Counter(part for parts in set(sets.values()) for part in parts)
    several = {cell: parts for cell, parts in sets.items() if len(parts) > 1}
    if not several:
        return None
    parts = frozenset().union(*several.values())
    unique = (cell for cell, names in several.items() if all(counts[n] == 1 for n in names))
    return _Parts(sum(counts[part] > 1 for part in parts) / len(parts), next(unique, ""))
