"""Read the rows of a table (CSV, JSONL, Parquet or Orange's .tab) as values by column.

Values keep the type that they have in the file. A file that cannot be read is one UserError with
its place and the remedy.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tasks.errors import UserError

Fields = dict[str, Any]
Rows = Iterator[tuple[str, Fields]]  # (place, values by column)
_ORANGE_TYPES = {"", "c", "continuous", "d", "discrete", "s", "string", "t", "time", "m", "meta"}
_ORANGE_FLAGS = {"", "class", "c", "meta", "m", "ignore", "i", "skip", "weight", "w"}


def read_fields(path: Path, encoding: str = "utf-8") -> Rows:
    """(place, values by column) of each row.

    Raises UserError for a file that has no rows or cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise UserError(
            f"{path}: {suffix or 'no suffix'} is not a format that can be read: use "
            f"{', '.join(FORMATS)} or a folder per label"
        )
    rows = _READERS[suffix](path, encoding)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path} has no rows: add some")
    yield first
    yield from rows


def column_names(path: Path, encoding: str = "utf-8") -> list[str]:
    """The columns of a table, from its first row. Raises UserError as read_fields does."""
    _, fields = next(read_fields(path, encoding))
    return list(fields)


def decode_text(data: bytes, encoding: str) -> str:
    """The text without a byte-order mark. Raises UnicodeDecodeError."""
    return data.decode(_codec(encoding))


def _codec(encoding: str) -> str:
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def _decode(path: Path, data: bytes, encoding: str) -> str:
    try:
        return decode_text(data, encoding)
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise UserError(
            f"{path} is not {encoding}: byte 0x{data[e.start]:02x} on line {line}; save it as "
            "UTF-8, or set data.encoding (latin-1, cp1252, utf-16)"
        ) from None


def _read_csv(path: Path, encoding: str, delimiter: str | None = None) -> Rows:
    text = _decode(path, path.read_bytes(), encoding)
    if "\0" in text:
        raise UserError(
            f"{path} holds NUL bytes, so it is no CSV file in {encoding}: export it again"
        )
    header = text.split("\n", 1)[0]
    delimiter = delimiter or max(",;\t", key=lambda d: (header.count(d), d == ","))
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        if repeated := next((n for n in names if names.count(n) > 1), None):
            raise UserError(
                f"{path}: the column {repeated!r} is repeated in the header: rename one"
            )
        for values in reader:
            if not values:
                continue
            if len(values) != len(names):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(values)} fields where the header has "
                    f"{len(names)}: quote texts that hold {delimiter!r} or line breaks"
                )
            yield f"{path.name}, line {reader.line_num}", dict(zip(names, values, strict=True))
    except csv.Error as e:
        raise UserError(f"{path}, line {reader.line_num}: {e}: check its quotes") from None


def _read_orange(path: Path, encoding: str) -> Rows:
    """A tab-separated table as the data mining suite Orange writes it: names, types, flags, rows.

    The column with the flag `class` is also given as `label`. Without types and flags it is a table
    with one header line.
    """
    rows = _read_csv(path, encoding, "\t")
    types, flags = next(rows, None), next(rows, None)
    if types is None or flags is None or not _are_types_and_flags(types[1], flags[1]):
        yield from (row for row in (types, flags) if row is not None)
        yield from rows
        return
    label = next((name for name, flag in flags[1].items() if flag in {"class", "c"}), None)
    for place, fields in rows:
        yield place, ({"label": fields[label]} if label else {}) | fields


def _are_types_and_flags(types: Fields, flags: Fields) -> bool:
    known_flags = (f.partition(" ")[0] in _ORANGE_FLAGS or "=" in f for f in flags.values())
    return any(types.values()) and set(types.values()) <= _ORANGE_TYPES and all(known_flags)


def _read_jsonl(path: Path, encoding: str) -> Rows:
    for number, line in enumerate(_read_lines(path, encoding), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as e:
            raise UserError(
                f"{path}, line {number}: not one JSON object ({e}): write one object per line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {number}: {type(row).__name__}, not an object: write one per line"
            )
        yield f"{path.name}, line {number}", row


def _read_lines(path: Path, encoding: str) -> Iterator[str]:
    """The lines of a file, one in memory at a time."""
    try:
        with path.open(encoding=_codec(encoding), newline="\n") as f:
            for line in f:
                yield line.removesuffix("\n")
    except UnicodeDecodeError:
        _decode(path, path.read_bytes(), encoding)  # raises with the line in the whole file
        raise


def _unique_keys(pairs: list[tuple[str, Any]]) -> Fields:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key is repeated")
    return row


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _read_parquet(path: Path, encoding: str) -> Rows:
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
        raise UserError(f"{path} is not a readable Parquet file ({e}): export it again") from None


_READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".tab": _read_orange,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
}
FORMATS = tuple(_READERS)
