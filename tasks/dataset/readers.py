"""Read labelled or unlabelled rows from a table or from a folder per label.

A row that cannot be used is given with its place and its fault. A file that cannot be read is one
UserError.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.dataset.formats import Fields, decode_text, read_fields
from tasks.errors import UserError, suggestion
from tasks.records import Label
from tasks.text.tokens import replace_surrogates

# values of a column of 0 and 1; True and 1.0 are equal to 1
YES_OR_NO: dict[Any, bool] = {"0": False, "1": True, 0: False, 1: True}
_ROLES = ("text", "label", "id", "group")
_SURROGATE = "half a surrogate pair, which no encoder can read"


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read. `fault` is why it cannot be used, `check` the kind of the fault."""

    text: str
    label: Label | None
    id: str | None
    place: str
    fault: str | None = None
    group: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    check: str = "unusable"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns to read.

    With `label` None the data is unlabelled, and need not have the columns `group` and `metadata`.
    With `multi_label` the label column holds lists (in CSV as JSON), or texts with a `separator`.
    `label_columns` are columns of 0 and 1, one per label, that replace the label column.
    """

    text: str = "text"
    label: str | None = "label"
    id: str | None = None
    group: str | None = None
    multi_label: bool = False
    separator: str | None = None
    label_columns: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()

    @property
    def label_sets(self) -> bool:
        """Whether a text may have several labels."""
        return self.multi_label or bool(self.label_columns)


def read_rows(path: Path, columns: Columns, *, encoding: str = "utf-8") -> Iterator[Row]:
    """The rows of `path` in its order. Raises UserError with the file and the place."""
    if path.is_dir():
        yield from _read_folder(path, columns, encoding)
        return
    for number, (place, fields) in enumerate(read_fields(path, encoding)):
        if number == 0:
            _check_columns(path, columns, list(fields))
        yield _parse_row(place, fields, columns)


def _check_columns(path: Path, columns: Columns, present: list[str]) -> None:
    labelled = columns.label is not None
    needed = [(name, "name the columns as the labels") for name in columns.label_columns]
    for role in _ROLES:
        name = None if role == "label" and columns.label_columns else getattr(columns, role)
        if name is not None and (labelled or role != "group"):
            needed.append((name, f"set data.{role}_column"))
    for name in columns.metadata if labelled else ():
        needed.append((name, "correct data.keep_columns"))
    for name, remedy in needed:
        if name not in present:
            raise UserError(
                f"{path} has no column {name!r}{suggestion(name, present)}, only "
                f"{', '.join(map(repr, present))}: {remedy}"
            )


def _parse_row(place: str, fields: Fields, columns: Columns) -> Row:
    values: dict[str, str | None] = {}
    faults: list[str] = []
    for role in _ROLES:
        name = None if role == "label" and columns.label_sets else getattr(columns, role)
        value = fields.get(name) if name else None
        faults += _faults_of(role, value)
        values[role] = None if value is None else replace_surrogates(str(value))
    text = values["text"] or ""
    empty = not faults and not text.strip()
    if empty:
        faults.append("empty text")
    label: Label | None = values["label"] and values["label"].strip()
    if columns.label_sets:
        label, fault = _parse_label_set(place, fields, columns)
        faults += [fault] if fault else []
    elif columns.label and not label:
        faults.append("no label")
    return Row(
        text,
        label,
        values["id"],
        place,
        next(iter(faults), None),
        (values["group"] or "").strip() or None,
        {name: v for name in columns.metadata if (v := _to_text(fields.get(name)))},
        "empty" if empty else "unusable",
    )


def _faults_of(role: str, value: Any) -> list[str]:
    """Why the value cannot be a text, label, id or group."""
    if isinstance(value, bool) or (role == "text" and not isinstance(value, str | None)):
        return [f"{role} is {type(value).__name__} {value!r}, not text"]
    if isinstance(value, (list, dict)):
        remedy = "; set multi_label to true for several labels" if role == "label" else ""
        return [f"{role} is a {type(value).__name__}, not one value{remedy}"]
    if value is not None and replace_surrogates(str(value)) != str(value):
        return [f"{role} holds {_SURROGATE}"]
    return []


def _to_text(value: Any) -> str:
    """A value of metadata as text: booleans, lists and objects as JSON writes them; "" for None."""
    if value is None:
        return ""
    if isinstance(value, (bool, list, dict)):
        value = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return replace_surrogates(str(value)).strip()


def _parse_label_set(
    place: str, fields: Fields, columns: Columns
) -> tuple[tuple[str, ...] | None, str | None]:
    """(labels, None), or (None, why there are none). Raises UserError for other values."""
    if columns.label_columns:
        labels, fault = _parse_label_columns(place, fields, columns.label_columns)
    else:
        labels, fault = _parse_label_list(place, fields.get(columns.label or ""), columns)
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, (str, int)) or not str(label).strip():
            fault = fault or f"the labels hold {label!r}, which is no text"
        elif replace_surrogates(str(label)) != str(label):
            fault = fault or f"the labels hold {_SURROGATE}"
    if fault:
        return None, fault
    return tuple(sorted({str(label).strip() for label in labels})), None


def _parse_label_columns(
    place: str, fields: Fields, names: tuple[str, ...]
) -> tuple[list[str], str | None]:
    labels = []
    for name in names:
        value = fields.get(name)
        value = value.strip() if isinstance(value, str) else value
        if value is None or value == "":
            return [], f"the column {name!r} is empty"
        if not isinstance(value, (str, int, float)) or value not in YES_OR_NO:
            raise UserError(f"{place}: the column {name!r} holds {value!r}: write 0 or 1")
        if YES_OR_NO[value]:
            labels.append(name)
    return labels, None


def _parse_label_list(place: str, value: Any, columns: Columns) -> tuple[list[Any], str | None]:
    if isinstance(value, str) and columns.separator is not None:
        return [part for part in value.split(columns.separator) if part.strip()], None
    if value is None or value == "":
        return [], "no labels; a row that has none of them needs an empty list"
    labels = parse_json(value) if isinstance(value, str) else value
    if not isinstance(labels, list):
        raise UserError(
            f"{place}: {columns.label!r} holds {value!r}, which is no list of labels: write "
            '["one", "two"], or set data.label_separator'
        )
    return labels, None


def parse_json(text: str) -> Any:
    """The JSON value in `text`, or None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_folder(path: Path, columns: Columns, encoding: str) -> Iterator[Row]:
    if columns.label_sets:
        raise UserError(
            f"{path} is a folder, which gives each text one label: give a table, or remove "
            "multi_label"
        )
    unsupported = {"group_column": columns.group, "keep_columns": ", ".join(columns.metadata)}
    for key, name in unsupported.items() if columns.label else ():
        if name:
            raise UserError(f"{path} is a folder, which has no column {name!r}: remove data.{key}")
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise UserError(f"{path} holds no folders: make one per label, with one file per text")
    for folder in folders:
        label = replace_surrogates(folder.name)  # a name need not be UTF-8
        files = (p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        for file in sorted(files):
            place = f"{label}/{replace_surrogates(file.name)}"
            try:
                text = decode_text(file.read_bytes(), encoding)
            except UnicodeDecodeError as e:
                fault = f"not {encoding}: byte 0x{e.object[e.start]:02x} at {e.start}"
                yield Row("", label, None, place, fault, check="encoding")
            else:
                fields = {columns.text: text, columns.label or "label": folder.name}
                yield _parse_row(place, fields, columns)
