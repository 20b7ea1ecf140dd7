"""Strict readers: text stays text, a bad row keeps its place, a bad file is one sentence."""

from __future__ import annotations

import csv
import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dataset.formats import column_names
from tasks.dataset.readers import Columns, Row, read_rows
from tasks.errors import UserError

# what UTF-8 can hold; a CSV file holds no NUL
WRITABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
PAIRS = st.lists(st.tuples(WRITABLE, WRITABLE), min_size=1, max_size=8)


def read(path: Path, encoding: str = "utf-8", **columns: Any) -> list[Row]:
    return list(read_rows(path, Columns(**columns), encoding=encoding))


def csv_file(folder: Path, data: bytes | str, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as e:
        read(path, **options)
    assert str(path) in str(e.value)
    return str(e.value)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def _came_back(rows: list[Row], written: list[tuple[str, str]]) -> None:
    assert len(rows) == len(written)
    for row, (text, label) in zip(rows, written, strict=True):
        assert (row.text, row.label) == (text, label.strip())
        assert row.fault == (
            "empty text" if not text.strip() else None if label.strip() else "no label"
        )


@given(pairs=PAIRS, delimiter=st.sampled_from(",;\t"), unix=st.booleans())
def test_what_csv_writes_comes_back(
    scratch: Path, pairs: list[tuple[str, str]], delimiter: str, unix: bool
) -> None:
    with (scratch / "rows.csv").open("w", newline="", encoding="utf-8") as f:
        dialect = csv.unix_dialect if unix else csv.excel
        csv.writer(f, dialect, delimiter=delimiter).writerows([("text", "label"), *pairs])
    _came_back(read(scratch / "rows.csv"), pairs)


@given(pairs=PAIRS, ascii_only=st.booleans())
def test_what_json_writes_comes_back(
    scratch: Path, pairs: list[tuple[str, str]], ascii_only: bool
) -> None:
    lines = [
        json.dumps({"text": t, "label": label}, ensure_ascii=ascii_only) + "\n"
        for t, label in pairs
    ]
    (scratch / "rows.jsonl").write_bytes("".join(lines).encode())
    _came_back(read(scratch / "rows.jsonl"), pairs)


@pytest.mark.parametrize(
    "value", ["None", "NA", "null", "NaN", "007", "1e5", "true", "-", "\u2028in\x85one\x0crow"]
)
def test_csv_values_stay_the_text_they_are(tmp_path: Path, value: str) -> None:
    (row,) = read(csv_file(tmp_path, f"text,label,id\n{value},{value},{value}\n"), id="id")
    assert (row.text, row.id, row.fault) == (value, value, None) and row.label == value.strip()


def test_csv_with_a_bom_quotes_and_line_breaks(tmp_path: Path) -> None:
    data = '\ufefftext,label\n"one, ""two""\nthree",a\r\n\n plain ,b\n'
    for encoding in ("utf-8", "UTF8"):
        rows = read(csv_file(tmp_path, data), encoding)
        assert [(r.text, r.label) for r in rows] == [('one, "two"\nthree', "a"), (" plain ", "b")]
    assert [r.place for r in rows] == ["rows.csv, line 3", "rows.csv, line 5"]


def test_delimiters(tmp_path: Path) -> None:
    for name, data in (
        ("a.csv", "text;label\nx, y;b\n"),
        ("a.tsv", "text\tlabel\nx, y\tb\n"),
        ("b.csv", "text\tlabel\nx, y\tb\n"),
    ):
        (row,) = read(csv_file(tmp_path, data, name))
        assert (row.text, row.label) == ("x, y", "b")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            "text,label\na,b\none, two,b\n",
            ["line 3", "3 fields", "the header has 2", "quote texts"],
        ),
        ("text,label\na\n", ["line 2", "1 fields", "the header has 2"]),
        ("text,label,text\na,b,c\n", ["'text'", "repeated in the header"]),
        ('text,label\n"a"b,c\n', ["line 2", "quotes"]),
        ('text,label\n"a,c\n', ["line 2", "quotes"]),
        ("text,label\n", ["no rows"]),
        ("", ["no rows"]),
        (
            "txt,label\na,b\n",
            ["no column 'text'", "did you mean 'txt'?", "'txt', 'label'", "data.text_column"],
        ),
        ("text,kind\na,b\n", ["no column 'label'", "'text', 'kind'", "data.label_column"]),
        (b"text,label\na,b\ncaf\xe9,b\n", ["not utf-8", "0xe9", "line 3", "latin-1"]),
        (b"PK\x03\x04\0\0", ["NUL"]),
    ],
)
def test_csv_that_can_not_be_read(tmp_path: Path, data: bytes | str, expected: list[str]) -> None:
    message = refused(csv_file(tmp_path, data))
    assert [s for s in expected if s not in message] == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_jsonl_is_read_a_line_at_a_time_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    path, odd = tmp_path / "rows.jsonl", "café \x85" + (" \u2028" if "utf" in encoding else "")
    line = json.dumps({"text": odd, "label": "b", "more": "x" * 9000}, ensure_ascii=False)
    path.write_bytes("\r\n".join([line] * 3).encode(encoding))
    rows = read(path, encoding.removesuffix("-sig"))
    assert [r.text for r in rows] == [odd] * 3 and rows[-1].place == "rows.jsonl, line 3"


def test_a_byte_that_is_not_utf8_is_named_with_its_line_in_the_whole_file(tmp_path: Path) -> None:
    line = json.dumps({"text": "x" * 9000, "label": "b"}).encode()
    (tmp_path / "rows.jsonl").write_bytes(
        b"\n".join([line] * 4 + [b'{"text": "caf\xe9", "label": "b"}'])
    )
    with pytest.raises(UserError, match="byte 0xe9 on line 5;"):
        read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    (row,) = read(csv_file(tmp_path, "text,label\ncafé,b\n".encode(encoding)), encoding)
    assert row.text == "café"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "a", "text": "b", "label": "c"}', "a key is repeated"),
        ('{"text": "a", "label": NaN}', "NaN is not JSON"),
        ('["a", "b"]', "list, not an object"),
        ("3", "int, not an object"),
        ('{"text": "a"', "not one JSON object"),
        ('{"text": "a"} {"text": "b"}', "not one JSON object"),
        ("[" * 100_000, "not one JSON object"),
    ],
)
def test_jsonl_that_can_not_be_read(tmp_path: Path, line: str, expected: str) -> None:
    message = refused(
        csv_file(tmp_path, '{"text": "fine", "label": "c"}\n\n' + line + "\n", "rows.jsonl")
    )
    assert "line 3" in message and expected in message


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"text": "", "label": "a"}, "empty text"),
        ({"text": " \n\t", "label": "a"}, "empty text"),
        ({"text": None, "label": "a"}, "empty text"),
        ({"label": "a"}, "empty text"),
        ({"text": 7, "label": "a"}, "text is int 7, not text"),
        ({"text": ["x"], "label": "a"}, "text is list ['x'], not text"),
        ({"text": "x", "label": ["a", "b"]}, "label is a list, not one value"),
        ({"text": "x", "label": {"a": 1}}, "label is a dict, not one value"),
        ({"text": "x", "label": True}, "label is bool True, not text"),
        ({"text": "x", "label": None}, "no label"),
        ({"text": "x", "label": " "}, "no label"),
        ({"text": "x"}, "no label"),
        ({"text": "x\ud83d", "label": "a"}, "text holds half a surrogate pair"),
        ({"text": "x", "label": "a\ud83d"}, "label holds half a surrogate pair"),
        ({"text": "x", "label": "a", "id": "\udc00"}, "id holds half a surrogate pair"),
    ],
)
def test_a_row_that_can_not_be_used_keeps_its_place(
    tmp_path: Path, fields: dict[str, Any], fault: str
) -> None:
    good = {"text": "fine", "label": "a", "id": "1"}
    path = csv_file(
        tmp_path, "".join(json.dumps(f) + "\n" for f in (good, fields, good)), "rows.jsonl"
    )
    before, row, after = read(path, id="id")
    assert (
        row.place == "rows.jsonl, line 2" and row.fault is not None and row.fault.startswith(fault)
    )
    assert before.fault is after.fault is None
    for value in (row.text, row.label, row.id):  # what is set aside can be written
        (value or "").encode()


def test_numbers_are_labels_and_ids(tmp_path: Path) -> None:
    (row,) = read(
        csv_file(tmp_path, '{"text": "x", "label": 1, "id": 7}\n', "rows.ndjson"), id="id"
    )
    assert (row.label, row.id, row.fault) == ("1", "7", None)


def test_unlabelled_text_needs_no_label_column(tmp_path: Path) -> None:
    (row,) = read(csv_file(tmp_path, "text\nhello\n"), label=None)
    assert (row.text, row.label, row.fault) == ("hello", None, None)


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a", None, "c"], "label": [1, 2, None]}), path)
    rows = read(path)
    assert [(r.text, r.label, r.fault) for r in rows] == [
        ("a", "1", None),
        ("", "2", "empty text"),
        ("c", None, "no label"),
    ]
    assert rows[2].place == "rows.parquet, row 3" and column_names(path) == ["text", "label"]


def test_parquet_that_can_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a" * 99], "label": ["b"]}), path)
    whole = path.read_bytes()
    for data in (
        b"",
        b"text,label\n",
        whole[: len(whole) // 2],
        whole[:4] + b"\xff" * 60 + whole[64:],
    ):
        path.write_bytes(data)
        assert "not a readable Parquet file" in refused(path)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert "no rows" in refused(path)


ORANGE = "Category\tText\nd\tstring\nclass\t\n\n"


def test_a_table_of_orange_has_three_header_lines(tmp_path: Path) -> None:
    path = csv_file(tmp_path, ORANGE + "a\tone\nb\ttwo, three\n", "rows.tab")
    for label in ("Category", "label"):  # by its name, or by its flag
        rows = read(path, text="Text", label=label)
        assert [(r.text, r.label, r.fault) for r in rows] == [
            ("one", "a", None),
            ("two, three", "b", None),
        ]
        assert rows[0].place == "rows.tab, line 5"
    assert [r.label for r in read(path, text="Text", label=None)] == [None, None]
    assert "has no column 'text'" in refused(path) and "'Category', 'Text'" in refused(path)


@pytest.mark.parametrize(
    "third", ["class\t", "class\tmeta", "c\tm", "class\tmeta hidden=True", "\t"]
)
def test_types_and_flags_are_no_rows(tmp_path: Path, third: str) -> None:
    path = csv_file(tmp_path, f"label\ttext\ndiscrete\ts\n{third}\nx\tone\n", "rows.tab")
    assert [(r.text, r.label) for r in read(path)] == [("one", "x")]


@pytest.mark.parametrize(
    "lines", ["x\tone\ny\ttwo\n", "d\tstring\ny\ttwo\n", "\t\n\t\n", "x\tone\n"]
)
def test_a_tab_file_without_types_and_flags_has_one_header_line(tmp_path: Path, lines: str) -> None:
    path = csv_file(tmp_path, "label\ttext\n" + lines, "rows.tab")
    want = [tuple(line.split("\t")) for line in lines.splitlines()]
    assert [(r.label, r.text) for r in read(path)] == want


def test_a_table_of_orange_without_rows(tmp_path: Path) -> None:
    assert "no rows" in refused(csv_file(tmp_path, ORANGE, "rows.tab"))


def test_groups_are_read(tmp_path: Path) -> None:
    lines = (
        {"text": "x", "label": "a", "by": 7},
        {"text": "y", "label": "a"},
        {"text": "z", "label": "a", "by": " "},
    )
    path = csv_file(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "rows.jsonl")
    assert [(r.group, r.fault) for r in read(path, group="by")] == [
        ("7", None),
        (None, None),
        (None, None),
    ]
    assert "set data.group_column" in refused(path, group="from")
    assert [r.group for r in read(path, label=None, group="from")] == [
        None
    ] * 3  # unlabelled text may have none


def test_metadata_is_text_and_goes_along(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path,
        '{"text": "a", "label": "b", "country": "uk", "n": 7, "ok": true, "of": ["x", "é"]}\n'
        '{"text": "b", "label": "b", "country": " ", "n": null, "ok": false}\n',
        "rows.jsonl",
    )
    kept = [(r.metadata, r.fault) for r in read(path, metadata=("country", "n", "ok", "of"))]
    assert kept == [
        ({"country": "uk", "n": "7", "ok": "true", "of": '["x", "é"]'}, None),
        ({"ok": "false"}, None),
    ]
    assert "(did you mean 'country'?)" in refused(path, metadata=("contry",))
    assert [r.metadata for r in read(path, label=None, metadata=("gone", "n"))] == [
        {"n": "7"},
        {},
    ]  # unlabelled text may have none
    pq.write_table(
        pa.table({"text": ["a"], "label": ["b"], "when": [date(2024, 2, 1)]}),
        tmp_path / "rows.parquet",
    )
    assert [r.metadata for r in read(tmp_path / "rows.parquet", metadata=("when",))] == [
        {"when": "2024-02-01"}
    ]
    assert [
        r.metadata for r in read(csv_file(tmp_path, "text,label,by\na,b,c\n"), metadata=("by",))
    ] == [{"by": "c"}]


def test_a_folder_has_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_text("x")
    assert "has no column 'by': remove data.keep_columns" in refused(tmp_path, metadata=("by",))


def test_a_folder_has_no_groups(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_text("x")
    assert "remove data.group_column" in refused(tmp_path, group="by")


def test_a_folder_a_label(tmp_path: Path) -> None:
    for name, data in {
        "b/1.txt": b"\xef\xbb\xbfbee",
        "a/2.txt": b"caf\xe9",
        "a/1.txt": b"ay\n",
        "a/3.txt": b" ",
        ".git/x": b"no",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    rows = read(tmp_path)
    assert [(r.place, r.text, r.label) for r in rows] == [
        ("a/1.txt", "ay\n", "a"),
        ("a/2.txt", "", "a"),
        ("a/3.txt", " ", "a"),
        ("b/1.txt", "bee", "b"),
    ]
    assert [r.fault for r in rows] == [None, "not utf-8: byte 0xe9 at 3", "empty text", None]
    assert [r.text for r in read(tmp_path, "latin-1")][1] == "café"


def test_file_names_that_are_not_utf8_can_be_written_down(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/caf\xe9.txt")).write_text("hello")
    (row,) = read(tmp_path)
    assert row.text == "hello" and row.place.encode() == b"a/caf?.txt"


def test_a_folder_without_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert "holds no folders: make one per label" in refused(tmp_path)


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.txt", "rows"])
def test_formats_that_are_not_read(tmp_path: Path, name: str) -> None:
    path = csv_file(tmp_path, "text,label\na,b\n", name)
    assert ".jsonl" in refused(path)
    with pytest.raises(UserError, match="not a format that can be read"):
        column_names(path)


def test_column_names(tmp_path: Path) -> None:
    assert column_names(csv_file(tmp_path, "Text;my label\na;b\n")) == ["Text", "my label"]
    assert column_names(csv_file(tmp_path, '{"b": 1, "a": 2}\n', "rows.jsonl")) == ["b", "a"]
    with pytest.raises(UserError, match="no rows"):
        column_names(csv_file(tmp_path, "text,label\n"))
