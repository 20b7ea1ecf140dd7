"""`reseed init`: a project file that loads, that `prepare` accepts, and that says what the rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import init
from tasks.errors import UserError
from tasks.prepare import prepare
from tasks.project import Project
from tasks.project_file import load_project
from tests.kit.rows import rows, text, write


def write_project(data: Path, out: Path | None = None, **columns: str | None) -> dict[str, Any]:
    return init.write_project(data, out, **{"text_column": None, "label_column": None, **columns})


def renamed(table: list[dict[str, Any]], text_name: str, label_name: str) -> list[dict[str, Any]]:
    return [{"number": i, label_name: r["label"], text_name: r["text"]} for i, r in enumerate(table)]


def accepted(path: Path, home: Path) -> tuple[Project, dict[str, Any]]:
    """The project in the file, and what `prepare` counts of its data."""
    p = load_project(path)
    return p, prepare(p, beside=path.parent, home=home).splits.counts


def test_the_file_loads_and_prepares(tmp_path: Path) -> None:
    data = write(tmp_path / "My Rows.csv", rows(fruit=20, metal=12))
    told = write_project(data, tmp_path / "p.yaml")
    p, counts = accepted(tmp_path / "p.yaml", tmp_path / "home")
    assert p.name == "my-rows" and p.label_names == ["fruit", "metal"] and p.data.pool == "My Rows.csv"
    assert (
        told["labels"] == {"fruit": 20, "metal": 12} and told["rows"] == 32 and told["split"] == {"test": 6, "dev": 2}
    )
    assert counts["test"] == {"fruit": 6, "metal": 6} and counts["seed"] == {"fruit": 12, "metal": 4}
    assert "reseed retrain" in told["message"] and told["path"] == str(tmp_path / "p.yaml")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("text_name", "label_name"), [("text", "label"), ("Body", "CATEGORY"), ("title", "topic"), ("message", "intent")]
)
def test_columns_are_guessed(tmp_path: Path, text_name: str, label_name: str, suffix: str) -> None:
    data = write(tmp_path / f"rows.{suffix}", renamed(rows(fruit=4, metal=4), text_name, label_name))
    write_project(data, tmp_path / "p.yaml")
    p, counts = accepted(tmp_path / "p.yaml", tmp_path / "home")
    assert (p.data.text_column, p.data.label_column) == (text_name, label_name)
    assert counts["rejected"] == {}


def test_columns_are_given(tmp_path: Path) -> None:
    data = write(
        tmp_path / "rows.csv", [{"text": r["text"], "title": r["label"], "label": "x"} for r in rows(fruit=4, metal=4)]
    )
    write_project(data, tmp_path / "p.yaml", label_column="title")
    assert load_project(tmp_path / "p.yaml").data.label_column == "title"
    only = write(tmp_path / "only.csv", [{"title": r["label"], "said": r["text"]} for r in rows(fruit=4, metal=4)])
    with pytest.raises(UserError, match="which column holds the text"):
        write_project(only, tmp_path / "q.yaml", label_column="title")
    with pytest.raises(UserError, match=r"no column 'kind'.*'title', 'said'"):
        write_project(only, tmp_path / "q.yaml", label_column="kind")


@pytest.mark.parametrize(("names", "missing"), [(("said", "label"), "text"), (("text", "is"), "label")])
def test_columns_that_can_not_be_guessed(tmp_path: Path, names: tuple[str, str], missing: str) -> None:
    data = write(tmp_path / "rows.csv", renamed(rows(fruit=4, metal=4), *names))
    with pytest.raises(UserError, match=f"which column holds the {missing}.*give --{missing}-column"):
        write_project(data, tmp_path / "p.yaml")
    assert not (tmp_path / "p.yaml").exists()


def repeated(n: int) -> list[dict[str, Any]]:
    return [{"text": f"Iron{' ' * i} is it", "label": "metal"} for i in range(1, n + 1)]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (rows(fruit=9), ["1 label", "at least two"]),
        (rows(fruit=9, metal=3), ["'metal' has 3 texts", "at least 4"]),
        ([*rows(fruit=9, metal=3), {"text": " ", "label": "metal"}], ["'metal' has 3 texts"]),
        (rows(fruit=9) + repeated(6), ["'metal' has 1 text,"]),
        (rows(fruit=9, metal=4) + [{**r, "label": "fruit"} for r in rows(metal=4)], ["'metal' has 0 texts"]),
        (rows(fruit=4, metal=9) + [{**r, "label": "metal"} for r in rows(fruit=4)], ["'fruit' has 0 texts"]),
        (rows(**{f"l{i}": 1 for i in range(201)}), ["201 different values", "201 rows", "--label-column"]),
    ],
    ids=["one label", "few rows", "empty rows", "repeated rows", "metal is fruit", "fruit is metal", "many labels"],
)
def test_data_that_is_no_classifier(tmp_path: Path, table: list[dict[str, Any]], said: list[str]) -> None:
    data = write(tmp_path / "rows.csv", table)
    with pytest.raises(UserError) as e:
        write_project(data, tmp_path / "p.yaml")
    assert str(data) in str(e.value) and [s for s in said if s not in str(e.value)] == []
    assert not (tmp_path / "p.yaml").exists()


@settings(deadline=None, max_examples=30)
@given(smallest=st.integers(4, 400))
def test_every_split_leaves_rows_to_train_on(smallest: int) -> None:
    split = init.split_for(smallest)
    assert 1 <= split["dev"] <= 20 and 1 <= split["test"] <= 100 and sum(split.values()) < smallest


def test_the_least_there_can_be_prepares(tmp_path: Path) -> None:
    table = rows(fruit=4, metal=5) + repeated(2)
    write_project(write(tmp_path / "rows.csv", table), tmp_path / "p.yaml")
    _, counts = accepted(tmp_path / "p.yaml", tmp_path / "home")
    assert counts["seed"] == {"fruit": 1, "metal": 3}


def test_data_that_is_not_there_or_not_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.csv is not there"):
        write_project(tmp_path / "gone.csv")
    (tmp_path / "rows.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"\.xlsx is not a format read here"):
        write_project(tmp_path / "rows.xlsx")
    (tmp_path / "rows.csv").write_text("text,label\n")
    with pytest.raises(UserError, match="has no rows"):
        write_project(tmp_path / "rows.csv")


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.csv", rows(fruit=4, metal=4))
    (tmp_path / "p.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"p\.yaml is there already.*--out"):
        write_project(data, tmp_path / "p.yaml")
    assert (tmp_path / "p.yaml").read_text() == "mine"


def test_a_folder_a_label(tmp_path: Path) -> None:
    for r in rows(fruit=5, metal=5):
        write(tmp_path / "News 2024" / r["label"] / f"{len(r['text'])}-{r['text'][:7]}.csv", [{"t": r["text"]}])
    write_project(tmp_path / "News 2024", tmp_path / "deep" / "p.yaml")
    p, counts = accepted(tmp_path / "deep" / "p.yaml", tmp_path / "home")
    assert p.name == "news-2024" and p.data.pool == "../News 2024" and counts["test"] == {"fruit": 2, "metal": 2}


@pytest.mark.parametrize("stem", ["1e5", "123", "no", "Über", "---", ".x", "x" * 90, "a b/c#d"])
def test_the_name_comes_from_the_data(tmp_path: Path, stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / f"{stem}.csv", rows(fruit=4, metal=4))
    monkeypatch.chdir(tmp_path)
    path = Path(write_project(data)["path"])
    p, _ = accepted(path, tmp_path / "home")
    assert path.name == f"{p.name}.yaml"


ODD = [
    "yes",
    "no",
    "1",
    "1.5",
    "1e5",
    "1e-4",
    "null",
    "~",
    "c#",
    "#c",
    "über",
    "a: b",
    "- x",
    "{x}",
    "'q'",
    '"q"',
    "@x",
    "%",
]
ODD += [
    "2020-01-01",
    "0x1F",
    "=",
    "<<",
    "!x",
    "*",
    "&a",
    "?",
    "|",
    "two\nlines",
    "x" * 200,
    "1_000",
    "12:30",
    ".inf",
    "a\x85b",
    "a\u2028b",
    "\x07b",
]


def test_odd_labels_survive(tmp_path: Path) -> None:
    table = [{"text": text(f"w{n}", i), "label": label} for n, label in enumerate(ODD) for i in range(4)]
    write_project(write(tmp_path / "rows.jsonl", table), tmp_path / "p.yaml")
    p, counts = accepted(tmp_path / "p.yaml", tmp_path / "home")
    assert p.label_names == sorted(label.strip() for label in ODD) and counts["rejected"] == {}


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("init")


LABEL = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).map(str.strip).filter(bool)


@settings(deadline=None, max_examples=60)
@given(labels=st.lists(LABEL, min_size=2, max_size=5, unique=True))
def test_any_labels_survive(scratch: Path, labels: list[str]) -> None:
    table = [{"text": text(f"w{n}", i), "label": label} for n, label in enumerate(labels) for i in range(4)]
    (scratch / "p.yaml").unlink(missing_ok=True)
    write_project(write(scratch / "rows.jsonl", table), scratch / "p.yaml")
    assert load_project(scratch / "p.yaml").label_names == sorted(labels)


def test_the_data_is_named_as_seen_from_the_project_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data" / "rows.csv", rows(fruit=4, metal=4))
    (tmp_path / "real" / "configs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "configs")  # `..` of it is not where it seems
    monkeypatch.chdir(tmp_path)
    for out in ("p.yaml", "configs/p.yaml", "data/p.yaml", "link/p.yaml"):
        write_project(Path("data/rows.csv"), Path(out))
        p, _ = accepted(Path(out), tmp_path / "home")
        assert p.data.pool is not None and not Path(p.data.pool).is_absolute()
