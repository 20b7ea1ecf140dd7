"""`reseed init`: a project file that loads, whose data can be split, and that says what the rows say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dataset.split import SplitsResult, split_dataset
from tasks.errors import UserError
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import read_records
from tasks.setup import init
from tasks.setup.detect_columns import ColumnHints
from tasks.setup.init import WrittenProject
from tasks.train.fine_tune import fine_tune
from tasks.train.task import TrainingTask
from tasks.workspace import Workspace
from tests.conftest import Command, last_json
from tests.kit import toy
from tests.kit.rows import rows, text, write
from tests.kit.training import chosen


def write_project(data: Path, out: Path | None = None, **hints: Any) -> WrittenProject:
    return init.write_project(data, out, hints=ColumnHints(**hints))


def renamed(table: list[dict[str, Any]], text_name: str, label_name: str) -> list[dict[str, Any]]:
    return [
        {"number": i, label_name: r["label"], text_name: r["text"]} for i, r in enumerate(table)
    ]


def accepted(path: Path, home: Path) -> tuple[Project, SplitsResult]:
    """The project in the file, and the splits of its data."""
    p = load_project(path)
    return p, split_dataset(p, workspace=Workspace(home))


def test_the_file_loads_and_its_data_is_split(tmp_path: Path) -> None:
    data = write(tmp_path / "My Rows.csv", rows(fruit=20, metal=12))
    result = write_project(data, tmp_path / "p.yaml")
    p, splits = accepted(tmp_path / "p.yaml", tmp_path / "home")
    assert (
        p.name == "my-rows" and p.label_names == ["fruit", "metal"] and p.data.pool == "My Rows.csv"
    )
    assert (
        result.labels == {"fruit": 20, "metal": 12}
        and result.rows == 32
        and result.split == {"test": 6, "dev": 2}
    )
    assert splits.test == {"fruit": 6, "metal": 6} and splits.seed == {"fruit": 12, "metal": 4}
    assert "reseed retrain" in result.message and result.path == str(tmp_path / "p.yaml")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("text_name", "label_name"),
    [("text", "label"), ("Body", "CATEGORY"), ("title", "topic"), ("message", "intent")],
)
def test_columns_are_guessed(tmp_path: Path, text_name: str, label_name: str, suffix: str) -> None:
    data = write(
        tmp_path / f"rows.{suffix}", renamed(rows(fruit=4, metal=4), text_name, label_name)
    )
    write_project(data, tmp_path / "p.yaml")
    p, splits = accepted(tmp_path / "p.yaml", tmp_path / "home")
    assert (p.data.text_column, p.data.label_column) == (text_name, label_name)
    assert splits.rejected == {}


def test_columns_are_given(tmp_path: Path) -> None:
    data = write(
        tmp_path / "rows.csv",
        [{"text": r["text"], "title": r["label"], "label": "x"} for r in rows(fruit=4, metal=4)],
    )
    write_project(data, tmp_path / "p.yaml", label="title")
    assert load_project(tmp_path / "p.yaml").data.label_column == "title"
    only = write(
        tmp_path / "only.csv",
        [{"title": r["label"], "said": r["text"]} for r in rows(fruit=4, metal=4)],
    )
    with pytest.raises(UserError, match="holds the text is unclear"):
        write_project(only, tmp_path / "q.yaml", label="title")
    with pytest.raises(UserError, match=r"no column 'kind'.*'title', 'said'"):
        write_project(only, tmp_path / "q.yaml", label="kind")


@pytest.mark.parametrize(
    ("names", "missing"), [(("said", "label"), "text"), (("text", "is"), "label")]
)
def test_columns_that_can_not_be_guessed(
    tmp_path: Path, names: tuple[str, str], missing: str
) -> None:
    data = write(tmp_path / "rows.csv", renamed(rows(fruit=4, metal=4), *names))
    with pytest.raises(UserError, match=f"holds the {missing} is unclear: give --{missing}-column"):
        write_project(data, tmp_path / "p.yaml")
    assert not (tmp_path / "p.yaml").exists()


def repeated(n: int) -> list[dict[str, Any]]:
    return [{"text": f"Iron{' ' * i} is it", "label": "metal"} for i in range(1, n + 1)]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (rows(fruit=9), ["1 label", "at least two"]),
        (rows(fruit=9, metal=3), ["'metal' has 3 texts", "at least 4"]),
        ([*rows(fruit=9, metal=3), {"text": " ", "label": "metal"}], ["'metal' has 3 texts"]),
        (rows(fruit=9) + repeated(6), ["'metal' has 1 text:"]),
        (
            rows(fruit=9, metal=4) + [{**r, "label": "fruit"} for r in rows(metal=4)],
            ["'metal' has 0 texts"],
        ),
        (
            rows(fruit=4, metal=9) + [{**r, "label": "metal"} for r in rows(fruit=4)],
            ["'fruit' has 0 texts"],
        ),
        (
            rows(**{f"l{i}": 1 for i in range(201)}),
            ["201 different labels", "201 rows", "--label-column"],
        ),
    ],
    ids=[
        "one label",
        "few rows",
        "empty rows",
        "repeated rows",
        "metal is fruit",
        "fruit is metal",
        "many labels",
    ],
)
def test_data_that_is_no_classifier(
    tmp_path: Path, table: list[dict[str, Any]], expected: list[str]
) -> None:
    data = write(tmp_path / "rows.csv", table)
    with pytest.raises(UserError) as e:
        write_project(data, tmp_path / "p.yaml")
    assert str(data) in str(e.value) and [s for s in expected if s not in str(e.value)] == []
    assert not (tmp_path / "p.yaml").exists()


@settings(deadline=None, max_examples=30)
@given(smallest=st.integers(4, 400))
def test_every_split_leaves_rows_to_train_on(smallest: int) -> None:
    split = init.split_sizes(smallest)
    assert 1 <= split["dev"] <= 20 and 1 <= split["test"] <= 100 and sum(split.values()) < smallest


def test_the_least_there_can_be_is_split(tmp_path: Path) -> None:
    table = rows(fruit=4, metal=5) + repeated(2)
    write_project(write(tmp_path / "rows.csv", table), tmp_path / "p.yaml")
    _, splits = accepted(tmp_path / "p.yaml", tmp_path / "home")
    assert splits.seed == {"fruit": 1, "metal": 3}


def test_data_that_is_not_there_or_not_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.csv does not exist"):
        write_project(tmp_path / "gone.csv")
    (tmp_path / "rows.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"\.xlsx is not a format that can be read"):
        write_project(tmp_path / "rows.xlsx")
    (tmp_path / "rows.csv").write_text("text,label\n")
    with pytest.raises(UserError, match="has no rows"):
        write_project(tmp_path / "rows.csv")


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.csv", rows(fruit=4, metal=4))
    (tmp_path / "p.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"p\.yaml exists.*--out"):
        write_project(data, tmp_path / "p.yaml")
    assert (tmp_path / "p.yaml").read_text() == "mine"


def test_a_folder_a_label(tmp_path: Path) -> None:
    for r in rows(fruit=5, metal=5):
        write(
            tmp_path / "News 2024" / r["label"] / f"{len(r['text'])}-{r['text'][:7]}.csv",
            [{"t": r["text"]}],
        )
    write_project(tmp_path / "News 2024", tmp_path / "deep" / "p.yaml")
    p, splits = accepted(tmp_path / "deep" / "p.yaml", tmp_path / "home")
    assert (
        p.name == "news-2024"
        and p.data.pool == "../News 2024"
        and splits.test == {"fruit": 2, "metal": 2}
    )


@pytest.mark.parametrize("stem", ["1e5", "123", "no", "Über", "---", ".x", "x" * 90, "a b/c#d"])
def test_the_name_comes_from_the_data(
    tmp_path: Path, stem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / f"{stem}.csv", rows(fruit=4, metal=4))
    monkeypatch.chdir(tmp_path)
    path = Path(write_project(data).path)
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
    table = [
        {"text": text(f"w{n}", i), "label": label} for n, label in enumerate(ODD) for i in range(4)
    ]
    write_project(write(tmp_path / "rows.jsonl", table), tmp_path / "p.yaml")
    p, splits = accepted(tmp_path / "p.yaml", tmp_path / "home")
    assert p.label_names == sorted(label.strip() for label in ODD) and splits.rejected == {}


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("init")


LABEL = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    .map(str.strip)
    .filter(bool)
)


@settings(deadline=None, max_examples=60)
@given(labels=st.lists(LABEL, min_size=2, max_size=5, unique=True))
def test_any_labels_survive(scratch: Path, labels: list[str]) -> None:
    table = [
        {"text": text(f"w{n}", i), "label": label}
        for n, label in enumerate(labels)
        for i in range(4)
    ]
    (scratch / "p.yaml").unlink(missing_ok=True)
    write_project(write(scratch / "rows.jsonl", table), scratch / "p.yaml", multi_label=False)
    assert load_project(scratch / "p.yaml").label_names == sorted(labels)


def test_the_data_is_named_as_seen_from_the_project_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data" / "rows.csv", rows(fruit=4, metal=4))
    (tmp_path / "real" / "configs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(
        tmp_path / "real" / "configs"
    )  # `..` of it is not where it seems
    monkeypatch.chdir(tmp_path)
    for out in ("p.yaml", "configs/p.yaml", "data/p.yaml", "link/p.yaml"):
        write_project(Path("data/rows.csv"), Path(out))
        p, _ = accepted(Path(out), tmp_path / "home")
        assert p.data.pool is not None and not Path(p.data.pool).is_absolute()


# --- several labels a text

SETS = [(r["text"], json.loads(r["label"])) for r in toy.real_sets(20)]
KINDS = list(toy.LABELS)


def lists(path: Path) -> Path:
    return write(path.with_suffix(".jsonl"), [{"text": t, "tags": own} for t, own in SETS])


def json_lists(path: Path) -> Path:
    return write(
        path.with_suffix(".csv"), [{"text": t, "tags": json.dumps(own)} for t, own in SETS]
    )


def parquet(path: Path) -> Path:
    pd.DataFrame({"text": [t for t, _ in SETS], "tags": [own for _, own in SETS]}).to_parquet(
        path.with_suffix(".parquet")
    )
    return path.with_suffix(".parquet")


def parted(path: Path, by: str = "; ") -> Path:
    return write(path.with_suffix(".csv"), [{"text": t, "tags": by.join(own)} for t, own in SETS])


def flags(path: Path) -> Path:
    table = [
        {"number": i, "text": t} | {k: int(k in own) for k in KINDS}
        for i, (t, own) in enumerate(SETS)
    ]
    return write(path.with_suffix(".csv"), table)


@pytest.mark.parametrize(
    ("made", "expected", "data"),
    [
        (lists, "the column 'tags', which holds lists", {"label_column": "tags"}),
        (json_lists, "the column 'tags', which holds lists", {"label_column": "tags"}),
        (parquet, "the column 'tags', which holds lists", {"label_column": "tags"}),
        (
            parted,
            "the column 'tags', separated by ';'",
            {"label_column": "tags", "label_separator": ";"},
        ),
        (
            flags,
            "the columns 'metal', 'fruit', 'bird', which hold 0 and 1",
            {"one_column_per_label": True},
        ),
    ],
)
def test_label_sets_are_recognised_and_said(
    tmp_path: Path, made: Any, expected: str, data: dict[str, Any]
) -> None:
    result = write_project(made(tmp_path / "rows"), tmp_path / "p.yaml")
    assert result.multi_label is True and result.labels == {"metal": 40, "fruit": 40, "bird": 40}
    assert (
        f"labels: {expected}; 30 of the 100 texts have several and 10 none (multi_label: true"
        in result.message
    )
    p, splits = accepted(tmp_path / "p.yaml", tmp_path / "home")
    assert p.multi_label and p.data.model_dump(exclude_defaults=True).items() >= data.items()
    assert splits.rejected == {} and sum(splits.rows.values()) == 100
    assert all(splits.test[k] >= 20 and splits.seed[k] for k in KINDS)


def test_what_is_written_trains(tmp_path: Path, encoder: Path) -> None:
    write_project(parted(tmp_path / "rows", "|"), tmp_path / "p.yaml")
    p = load_project(tmp_path / "p.yaml")
    assert p.data.label_separator == "|"
    splits = split_dataset(p, workspace=Workspace(tmp_path / "home"))
    seed, dev = (read_records(splits.directory / f"{name}.jsonl") for name in ("seed", "dev"))
    task = TrainingTask(seed, dev, p.labels, chosen(epochs=8), encoder, p.multi_label)
    assert fine_tune(task, work=tmp_path / "work").dev_f1_macro > 0.8


def labelled(*cells: str) -> list[dict[str, Any]]:
    return [
        {"text": text(f"w{n}", i), "label": label}
        for n, label in enumerate(cells)
        for i in range(4)
    ]


def test_a_separator_within_a_name_is_left_there_and_said(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.csv", labelled("food, drink", "travel", "arts | crafts"))
    result = write_project(data, tmp_path / "p.yaml")
    assert "one label per text" in result.message and "give --separator '|'" in result.message
    assert load_project(tmp_path / "p.yaml").label_names == [
        "arts | crafts",
        "food, drink",
        "travel",
    ]
    result = write_project(data, tmp_path / "q.yaml", separator="|")
    assert set(result.labels) == {"arts", "crafts", "food, drink", "travel"} and result.multi_label


@pytest.mark.parametrize(
    "cells",
    [
        ("a;b", "b", "a", "food; drink"),
        ("Rome, Italy", "Bari, Italy", "Pisa, Italy"),
        ("a;b", "a|b", "a", "b"),
    ],
)
def test_what_may_be_one_label_or_several_is_asked(tmp_path: Path, cells: tuple[str, ...]) -> None:
    data = write(tmp_path / "rows.csv", labelled(*cells))
    with pytest.raises(
        UserError, match=r"may be one label or several: give --separator '.' if .* --one-label if"
    ):
        write_project(data, tmp_path / "p.yaml")
    assert write_project(data, tmp_path / "p.yaml", multi_label=False).labels == dict.fromkeys(
        cells, 4
    )
    separator = "," if "Italy" in cells[0] else ";"
    assert write_project(data, tmp_path / "q.yaml", separator=separator).multi_label


def test_lists_beside_single_values_are_asked_about(tmp_path: Path) -> None:
    table = [*labelled("a", "b"), {"text": text("x", 1), "label": ["a", "b"]}]
    with pytest.raises(
        UserError,
        match=r"holds lists in 1 rows and single values such as 'a' in others.*--one-label",
    ):
        write_project(write(tmp_path / "rows.jsonl", table), tmp_path / "p.yaml")
    assert write_project(
        tmp_path / "rows.jsonl", tmp_path / "p.yaml", multi_label=False
    ).labels == {
        "a": 4,
        "b": 4,
    }


def test_columns_of_0_and_1_beside_a_column_of_labels(tmp_path: Path) -> None:
    extra = [r | {"reply": i % 2, "seen": 1 - i % 2} for i, r in enumerate(rows(fruit=8, metal=8))]
    result = write_project(write(tmp_path / "rows.csv", extra), tmp_path / "p.yaml")
    assert result.labels == {"fruit": 8, "metal": 8} and not result.multi_label
    result = write_project(
        tmp_path / "rows.csv", tmp_path / "q.yaml", label_columns=("reply", "seen")
    )
    assert result.labels == {"reply": 8, "seen": 8} and result.multi_label
    binary = [r | {"label": i % 2, "seen": 1 - i % 2} for i, r in enumerate(rows(fruit=8, metal=8))]
    with pytest.raises(
        UserError, match="'label', 'seen' hold only 0 and 1: give --label-columns label,seen if"
    ):
        write_project(write(tmp_path / "binary.csv", binary), tmp_path / "r.yaml")
    assert write_project(tmp_path / "binary.csv", tmp_path / "r.yaml", label="label").labels == {
        "0": 8,
        "1": 8,
    }


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"multi_label": False, "separator": ";"}, "--one-label does not go with"),
        ({"label_columns": ("a",), "separator": ";"}, "remove --label-column and --separator"),
        ({"label_columns": ("a", "b")}, "no column 'a'"),
        ({"multi_label": True}, "no cell of 'label' holds .* or a list: give --separator"),
    ],
)
def test_what_is_asked_for_and_can_not_be(
    tmp_path: Path, asked: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        write_project(
            write(tmp_path / "rows.csv", rows(fruit=4, metal=4)), tmp_path / "p.yaml", **asked
        )
    assert not (tmp_path / "p.yaml").exists()


def test_the_command_takes_the_choice(tmp_path: Path, reseed: Command) -> None:
    data = write(tmp_path / "rows.csv", labelled("a/b", "a", "b"))
    code, out, err = reseed(
        "init", data, "--out", tmp_path / "p.yaml", "--separator", "/", "--json"
    )
    assert code == 0 and last_json(out)["labels"] == {"a": 8, "b": 8}, err
    code, out, err = reseed(
        "init",
        flags(tmp_path / "f"),
        "--out",
        tmp_path / "q.yaml",
        "--label-columns",
        "metal, bird",
        "--json",
    )
    assert code == 0 and last_json(out)["labels"] == {"metal": 40, "bird": 40}, err
    code, out, _ = reseed("init", data, "--out", tmp_path / "r.yaml", "--one-label")
    assert code == 0 and "labels: the column 'label', one label per text" in out
