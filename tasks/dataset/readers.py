"""Strict readers: CSV, JSONL, Parquet, Orange's .tab, or a folder per label, as rows that know their place.

A row that can't be used is set aside with its place; a file that can't be read is one UserError.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import UserError, suggestion
from tasks.records import Label
from tasks.text.tokens import replace_surrogates

FORMATS = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".parquet")
ROLES = ("text", "label", "id", "group")
YES_OR_NO: dict[Any, bool] = {
    "0": False,
    "1": True,
    0: False,
    1: True,
}  # True and 1.0 are equal to 1
ORANGE_TYPES = {"", "c", "continuous", "d", "discrete", "s", "string", "t", "time", "m", "meta"}
ORANGE_FLAGS = {"", "class", "c", "meta", "m", "ignore", "i", "skip", "weight", "w"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read. `fault` says why it can't be used."""

    text: str
    label: Label | None
    id: str | None
    place: str
    fault: str | None = None
    group: str | None = None
    kept: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns to read. Unlabelled data has `label` None, and `group` and `keep` where they happen to be there.

    `keep` are metadata: read as text, carried along, left out of a row where they are empty.

    `many` reads a set of labels from the label column: a list (in CSV as JSON), or texts parted by `separator`. `each` names
    columns of 0 and 1, a label each, which are read in place of the label column.
    """

    text: str = "text"
    label: str | None = "label"
    id: str | None = None
    group: str | None = None
    many: bool = False
    separator: str | None = None
    each: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


def read_rows(path: Path, columns: Columns, *, encoding: str = "utf-8") -> Iterator[Row]:
    """Rows of `path` in its order. Raises UserError naming the file and the place."""
    if path.is_dir():
        yield from _folder(path, columns, encoding)
        return
    empty = True
    for place, fields in read_fields(path, encoding):
        if empty:
            _need(path, columns, list(fields))
            empty = False
        yield _row(place, fields, columns)
    if empty:
        raise UserError(f"{path} has no rows")


def column_names(path: Path, encoding: str = "utf-8") -> list[str]:
    """The columns of a table, from its first row. Raises UserError when it has none."""
    for _, fields in read_fields(path, encoding):
        return list(fields)
    raise UserError(f"{path} has no rows")


def read_fields(path: Path, encoding: str = "utf-8") -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, the values by column) of each row of a table, as they stand. Raises UserError for a file that can't be read."""
    suffix = path.suffix.lower()
    if suffix in {".csv", ".tsv"}:
        return _csv(path, "\t" if suffix == ".tsv" else None, encoding)
    if suffix == ".tab":
        return _orange(path, encoding)
    if suffix in {".jsonl", ".ndjson"}:
        return _jsonl(path, encoding)
    if suffix == ".parquet":
        return _parquet(path)
    raise UserError(
        f"{path}: {suffix or 'no suffix'} is not a format read here; use {', '.join(FORMATS)} or a folder"
    )


def _need(path: Path, columns: Columns, present: list[str]) -> None:
    for label in columns.each:
        if label not in present:
            raise UserError(
                f"{path} has no column {label!r}{suggestion(label, present)}, which data.one_column_per_label asks for: it has "
                f"{', '.join(map(repr, present))}; name the labels of the project as the columns"
            )
    for role in ROLES:
        name = None if role == "label" and columns.each else getattr(columns, role)
        optional = role == "group" and columns.label is None
        if name is not None and name not in present and not optional:
            raise UserError(
                f"{path} has no column {name!r}{suggestion(name, present)}: it has {', '.join(map(repr, present))}; "
                f"set data.{role}_column"
            )
    for name in columns.keep if columns.label is not None else ():
        if name not in present:
            raise UserError(
                f"{path} has no column {name!r}{suggestion(name, present)}, which data.keep_columns asks for: it has "
                f"{', '.join(map(repr, present))}; mend the name, or leave it out"
            )


def _row(place: str, fields: dict[str, Any], columns: Columns) -> Row:
    values: dict[str, str | None] = {}
    fault = None
    for role in ROLES:
        name = (
            None if role == "label" and (columns.many or columns.each) else getattr(columns, role)
        )
        value = fields.get(name) if name else None
        if isinstance(value, bool) or (
            role == "text" and value is not None and not isinstance(value, str)
        ):
            fault = f"{role} is {type(value).__name__} {value!r}, not text"
        elif isinstance(value, (list, dict)):
            several = (
                "; where a text has several labels, set multi_label to true"
                if role == "label"
                else ""
            )
            fault = f"{role} is a {type(value).__name__}, not one value{several}"
        values[role] = None if value is None else str(value)
    text = values["text"] or ""
    if fault is None and not text.strip():
        fault = "empty text"
    labels: Label | None = None
    if columns.many or columns.each:
        labels, why = _label_set(place, fields, columns)
        fault = fault or why
    elif fault is None and columns.label and not (values["label"] or "").strip():
        fault = "no label"
    for role, value in values.items():
        if value is not None and replace_surrogates(value) != value:
            fault = fault or f"{role} holds half a surrogate pair, which no encoder can read"
            values[role] = replace_surrogates(value)
    if values["label"] is not None:
        labels = values["label"].strip()
    kept = {name: said for name in columns.keep if (said := _as_text(fields.get(name)))}
    return Row(
        values["text"] or "",
        labels,
        values["id"],
        place,
        fault,
        (values["group"] or "").strip() or None,
        kept,
    )


def _as_text(value: Any) -> str:
    """A value of metadata as text: true and false as JSON writes them, lists and objects too; "" for nothing."""
    if value is None:
        return ""
    if isinstance(value, (bool, list, dict)):
        value = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return replace_surrogates(str(value)).strip()


def _label_set(
    place: str, fields: dict[str, Any], columns: Columns
) -> tuple[tuple[str, ...] | None, str | None]:
    """(the row's labels, None), or (None, why there are none). Raises UserError for what is written in another way."""
    found: list[Any] = []
    for label in columns.each:
        value = fields.get(label)
        value = value.strip() if isinstance(value, str) else value
        if value is None or value == "":
            return None, f"the column {label!r} is empty"
        if not isinstance(value, (str, int, float)) or value not in YES_OR_NO:
            raise UserError(
                f"{place}: the column {label!r} holds {value!r}, which is neither 0 nor 1: write one of them"
            )
        if YES_OR_NO[value]:
            found.append(label)
    if not columns.each:
        value = fields.get(columns.label or "")
        if isinstance(value, str) and columns.separator is not None:
            value = [part for part in value.split(columns.separator) if part.strip()]
        elif value is None or value == "":
            return None, "no labels: a row of none of them has an empty list"
        found = _listed(value) if isinstance(value, str) else value
        if not isinstance(found, list):
            raise UserError(
                f"{place}: {columns.label!r} holds {value!r}, which is no list of labels: write "
                f'["one", "two"], or set data.label_separator'
            )
    for label in found:
        if isinstance(label, bool) or not isinstance(label, (str, int)) or not str(label).strip():
            return None, f"the labels hold {label!r}, which is no text"
        if replace_surrogates(str(label)) != label and isinstance(label, str):
            return None, "the labels hold half a surrogate pair, which no encoder can read"
    return tuple(sorted({str(label).strip() for label in found})), None


def _listed(text: str) -> Any:
    """The JSON value in `text`, or None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _codec(encoding: str) -> str:
    """The encoding; of UTF-8, the one that leaves out a mark at the start."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def _decoded(data: bytes, encoding: str) -> str:
    return data.decode(_codec(encoding))


def _decode(path: Path, data: bytes, encoding: str) -> str:
    try:
        return _decoded(data, encoding)
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise UserError(
            f"{path} is not {encoding}: byte 0x{data[e.start]:02x} on line {line}; "
            f"save it as UTF-8, or set data.encoding (latin-1, cp1252, utf-16)"
        ) from None


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a file, one in memory at a time. Raises UserError as _decode does."""
    try:
        with path.open(encoding=_codec(encoding), newline="\n") as f:
            for line in f:
                yield line.removesuffix("\n")
    except UnicodeDecodeError:
        _decode(path, path.read_bytes(), encoding)  # knows the place in the whole file
        raise


def _csv(path: Path, delimiter: str | None, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    text = _decode(path, path.read_bytes(), encoding)
    if "\0" in text:
        raise UserError(f"{path} holds NUL bytes: it is not a CSV file in {encoding}")
    header = text.split("\n", 1)[0]
    delimiter = delimiter or max(",;\t", key=lambda d: (header.count(d), d == ","))
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        if len(set(names)) != len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise UserError(f"{path}: the column {twice!r} stands twice in the header; rename one")
        for values in reader:
            if not values:
                continue
            if len(values) != len(names):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(values)} fields where the header has {len(names)}; "
                    f"quote texts that hold {delimiter!r} or line breaks"
                )
            yield f"{path.name}, line {reader.line_num}", dict(zip(names, values, strict=True))
    except csv.Error as e:
        raise UserError(f"{path}, line {reader.line_num}: {e}; check its quotes") from None


def _orange(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A table with tabs whose first three lines are names, types and flags: the data mining suite Orange writes it.

    The column flagged `class` is also to be had as `label`. Without those lines it is a table with one header line.
    """
    rows = _csv(path, "\t", encoding)
    types, flags = next(rows, None), next(rows, None)
    if types is None or flags is None or not _describes(types[1], flags[1]):
        yield from (row for row in (types, flags) if row is not None)
        yield from rows
        return
    named = next((name for name, flag in flags[1].items() if flag in {"class", "c"}), None)
    for place, fields in rows:
        yield place, ({"label": fields[named]} if named else {}) | fields


def _describes(types: dict[str, Any], flags: dict[str, Any]) -> bool:
    """Whether these two lines are types and flags; flags may hold `key=value` too."""
    marked = (f.partition(" ")[0] in ORANGE_FLAGS or "=" in f for f in flags.values())
    return any(types.values()) and set(types.values()) <= ORANGE_TYPES and all(marked)


def _jsonl(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in pairs}) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    for number, line in enumerate(_lines(path, encoding), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=once, parse_constant=no_constant)
        except (ValueError, RecursionError) as e:
            raise UserError(f"{path}, line {number}: not one JSON object a line ({e})") from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {number}: {type(row).__name__} where an object is expected"
            )
        yield f"{path.name}, line {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name}, row {number}", row
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{path} is not a readable Parquet file: {e}") from None


def _folder(path: Path, columns: Columns, encoding: str) -> Iterator[Row]:
    if columns.many or columns.each:
        raise UserError(
            f"{path} is a folder, which gives each text one label: with multi_label give a table"
        )
    if columns.group and columns.label:
        raise UserError(
            f"{path} is a folder, which has no column {columns.group!r}: leave data.group_column out"
        )
    if columns.keep and columns.label:
        raise UserError(
            f"{path} is a folder, which has no column {columns.keep[0]!r}: leave data.keep_columns out"
        )
    labels = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not labels:
        raise UserError(
            f"{path} has no folders: a folder per label is expected, each with a text a file"
        )
    for folder in labels:
        for file in sorted(
            p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")
        ):
            place = replace_surrogates(f"{folder.name}/{file.name}")  # a name need not be UTF-8
            try:
                text = _decoded(file.read_bytes(), encoding)
            except UnicodeDecodeError as e:
                yield Row(
                    "",
                    replace_surrogates(folder.name),
                    None,
                    place,
                    f"not {encoding}: byte 0x{e.object[e.start]:02x} at {e.start}",
                )
                continue
            yield _row(place, {columns.text: text, columns.label or "label": folder.name}, columns)
