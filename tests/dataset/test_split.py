"""The splits of a project's real text: fixed by content, sealed, and nothing lost on the way."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dataset import sealed as sealed_set
from tasks.dataset.sealed import open_sealed
from tasks.dataset.split import SealedResult, SplitsResult, sealed_test_set, split_dataset
from tasks.errors import UserError
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import Record, Rejected, read_records, read_rejected
from tasks.text.fingerprints import FINGERPRINTS
from tasks.workspace import Workspace
from tests.kit.rows import project, rows, text, write
from tests.kit.stages import sealed_of

SPLIT = {"train": 1, "dev": 2, "test": 3}


@dataclass(frozen=True)
class Prepared:
    """A project's data as every stage may read it, and its sealed test set."""

    splits: SplitsResult
    sealed: SealedResult


def prepare(project: Project, folder: Path, home: str = "home") -> Prepared:
    """The data of a project whose paths start at `folder`."""
    project, workspace = project.in_folder(folder), Workspace(folder / home)
    return Prepared(
        split_dataset(project, workspace=workspace), sealed_test_set(project, workspace=workspace)
    )


def prepared(
    folder: Path, table: list[dict[str, Any]], home: str = "home", **data: Any
) -> Prepared:
    """`table` as a pool, split."""
    write(folder / "pool.jsonl", table)
    return prepare(project({"pool": "pool.jsonl", "split": SPLIT, **data}), folder, home)


def apart(
    folder: Path, seed: list[dict[str, Any]], dev: list[dict[str, Any]], test: list[dict[str, Any]]
) -> Prepared:
    """Splits from files of their own."""
    names = {"train": seed, "dev": dev, "test": test}
    data = {name: write(folder / f"{name}.csv", table).name for name, table in names.items()}
    return prepare(project(data), folder)


def read(p: Prepared, split: str) -> list[Record]:
    return read_records((p.sealed if split == "test" else p.splits).directory / f"{split}.jsonl")


def rejected(p: Prepared) -> list[Rejected]:
    return read_rejected(p.splits.directory / "rejected.jsonl")


def texts(p: Prepared, split: str) -> set[str]:
    return {r.text for r in read(p, split)}


def test_sizes_and_nothing_is_lost(tmp_path: Path) -> None:
    table = rows(fruit=10, metal=7)
    p = prepared(tmp_path, table)
    sizes = {split: Counter(r.label for r in read(p, split)) for split in ("test", "dev", "seed")}
    assert sizes == {
        "test": {"fruit": 3, "metal": 3},
        "dev": {"fruit": 2, "metal": 2},
        "seed": {"fruit": 1, "metal": 1},
    }
    assert len(read(p, "unlabelled")) == 5 == p.splits.unlabelled
    assert p.sealed.test == p.splits.test == {"fruit": 3, "metal": 3} and p.splits.dev == {
        "fruit": 2,
        "metal": 2,
    }
    assert p.splits.rows == {"seed": 2, "dev": 4, "test": 6}
    parts = [texts(p, split) for split in ("test", "dev", "seed", "unlabelled")]
    assert sum(map(len, parts)) == 17 and set().union(*parts) == {r["text"] for r in table}
    assert p.splits.notices == ()


def test_the_split_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    table = rows(fruit=9, metal=9)
    p = prepared(tmp_path, table)
    q = prepared(tmp_path, random.Random(3).sample(table, len(table)), home="other")
    assert q.splits.published.key != p.splits.published.key
    for split in ("test", "dev", "seed", "unlabelled"):
        assert [(r.id, r.text, r.label) for r in read(p, split)] == [
            (r.id, r.text, r.label) for r in read(q, split)
        ]


def test_a_new_row_moves_at_most_one_row_of_its_label_out_of_the_test_set(tmp_path: Path) -> None:
    table = rows(fruit=9, metal=9)
    before = texts(prepared(tmp_path, table), "test")
    after = texts(prepared(tmp_path, [*table, {"text": text("new", 1), "label": "fruit"}]), "test")
    assert len(before - after) <= 1 and {r for r in before if "metal" in r} <= after


def test_what_the_labels_of_unlabelled_rows_were_can_not_be_told(tmp_path: Path) -> None:
    for label in ("fruit", "metal"):
        for i in range(8):
            write(tmp_path / "pool" / label / f"{i}.csv", [{"words": f"{i} and {label[0]}"}])
    p = prepare(project({"pool": "pool", "split": SPLIT}), tmp_path)
    unlabelled = read(p, "unlabelled")
    assert len(unlabelled) == 4 and {(r.label, r.source) for r in unlabelled} == {
        (None, "unlabelled")
    }
    assert not any(
        word in (p.splits.directory / "unlabelled.jsonl").read_text() for word in ("fruit", "metal")
    )
    assert all(r.lineage["place"].startswith(f"{r.label}/") for r in read(p, "seed"))


@pytest.mark.parametrize(
    ("rest", "seed", "unlabelled"), [("unlabelled", 2, 6), ("train", 8, 0), ("drop", 2, 0)]
)
def test_what_becomes_of_the_rest(tmp_path: Path, rest: str, seed: int, unlabelled: int) -> None:
    p = prepared(tmp_path, rows(fruit=9, metal=9), split={**SPLIT, "rest": rest})
    assert (len(read(p, "seed")), len(read(p, "unlabelled"))) == (seed, unlabelled)


def test_test_rows_stand_in_no_other_split_file(tmp_path: Path) -> None:
    p = prepared(tmp_path, rows(fruit=9, metal=9))
    others = "".join(
        (p.splits.directory / f"{s}.jsonl").read_text() for s in ("seed", "dev", "unlabelled")
    )
    assert len(texts(p, "test")) == 6 and not any(t in others for t in texts(p, "test"))
    with np.load(p.splits.directory / FINGERPRINTS, allow_pickle=False) as held:
        assert set(held["ids"]) == {r.id for split in ("dev", "test") for r in read(p, split)}


def test_a_text_that_stands_twice_is_one_row(tmp_path: Path) -> None:
    table = rows(fruit=6, metal=6)
    again = {"text": f"  {table[0]['text'].upper()}\n", "label": "fruit"}
    p = prepared(tmp_path, [*table, again])
    (r,) = rejected(p)
    assert r.check == "exact_duplicate" and r.record.text == again["text"]
    assert "pool.jsonl, line 1" in r.reason and r.record.lineage["place"] == "pool.jsonl, line 13"
    assert p.splits.rejected == {"exact_duplicate": 1}
    assert p.splits.notices[0].startswith(
        "1 row rejected (exact_duplicate), first at pool.jsonl, line 13: the same text is at"
    )


def test_a_text_under_two_labels_is_set_aside_under_both(tmp_path: Path) -> None:
    table = rows(fruit=7, metal=6)
    p = prepared(tmp_path, [*table, {**table[0], "label": "metal"}, dict(table[0])])
    assert [(r.check, r.record.label) for r in rejected(p)] == [
        ("two_labels", label) for label in ("fruit", "metal", "fruit")
    ]
    assert all(
        "'fruit' and 'metal'" in r.reason and r.reason.count("pool.jsonl, line") == 2
        for r in rejected(p)
    )
    assert "line 1 and pool.jsonl, line 14" in rejected(p)[0].reason
    assert not any(table[0]["text"] in texts(p, s) for s in ("test", "dev", "seed", "unlabelled"))


def test_an_unknown_label_is_named_with_the_nearest_and_its_place(tmp_path: Path) -> None:
    table = [
        *rows(fruit=6, metal=6),
        {"text": "a", "label": "fruits"},
        {"text": "b", "label": "fruits"},
        {"text": "c", "label": "bird"},
    ]
    with pytest.raises(UserError) as e:
        prepared(tmp_path, table)
    expected = (
        "pool.jsonl",
        "'fruits'",
        "did you mean 'fruit'?",
        "2 rows",
        "line 13",
        "data.ignore_labels",
        "'bird'",
    )
    assert [s for s in expected if s not in str(e.value)] == []
    assert not list((tmp_path / "home" / "stages").rglob("*.jsonl"))


def test_ignored_labels_are_set_aside(tmp_path: Path) -> None:
    table = [*rows(fruit=6, metal=6), *rows(bird=2)]
    for bad_rows in ("reject", "stop"):  # what the project asks for is no fault
        p = prepared(tmp_path, table, ignore_labels=["bird"], bad_rows=bad_rows)
        assert p.splits.rejected == {"ignored_label": 2}


def test_ids_that_stand_twice(tmp_path: Path) -> None:
    table = [{**r, "key": str(i)} for i, r in enumerate(rows(fruit=6, metal=6))]
    p = prepared(tmp_path, table, id_column="key")
    assert {r.lineage["id"] for r in read(p, "test")} < {r["key"] for r in table}
    table[7]["key"] = "3"
    with pytest.raises(UserError) as e:
        prepared(tmp_path, table, id_column="key")
    assert [
        s for s in ("the id '3'", "line 4 and", "line 8", "'key'") if s not in str(e.value)
    ] == []


@pytest.mark.parametrize("few", ["fruit", "metal"])
def test_too_few_rows(tmp_path: Path, few: str) -> None:
    counts = {"fruit": 9, "metal": 9, few: 4}
    with pytest.raises(UserError) as e:
        prepared(tmp_path, rows(**counts))
    expected = (f"the label '{few}' has 4 usable rows", "test 3 + dev 2", "lower data.split")
    assert "pool.jsonl" in str(e.value) and [s for s in expected if s not in str(e.value)] == []


def test_bad_rows_are_set_aside_or_stop(tmp_path: Path) -> None:
    table: list[dict[str, Any]] = [
        *rows(fruit=6, metal=6),
        {"text": " ", "label": "fruit"},
        {"text": 5, "label": "metal"},
    ]
    p = prepared(tmp_path, table)
    assert p.splits.rejected == {"empty": 1, "unusable": 1}
    with pytest.raises(UserError) as e:
        prepared(tmp_path, table, bad_rows="stop")
    assert [
        s for s in ("line 13", "line 14", "empty text", "data.bad_rows") if s not in str(e.value)
    ] == []


def test_a_second_call_finds_both_directories(tmp_path: Path) -> None:
    table = rows(fruit=6, metal=6)
    first, second = prepared(tmp_path, table), prepared(tmp_path, table)
    assert (
        not first.splits.published.found and first.sealed.published.found
    )  # the splits' build published it
    assert second.splits.published.found and second.sealed.published.found
    assert (second.splits.digest, second.sealed.digest) == (
        first.splits.digest,
        first.sealed.digest,
    )
    third = prepared(tmp_path, [*table, *rows(fruit=7)[6:]])
    assert (
        not third.splits.published.found
        and third.splits.published.key != first.splits.published.key
    )


def test_every_use_of_the_test_set_is_counted(tmp_path: Path) -> None:
    p, workspace = prepared(tmp_path, rows(fruit=6, metal=6)), Workspace(tmp_path / "home")
    assert sealed_set.count_test_set_uses(p.sealed, workspace=workspace) == 0
    assert [r.label for r in open_sealed(p.sealed, workspace=workspace, by="a")] == [
        "fruit"
    ] * 3 + ["metal"] * 3
    assert {r.source for r in open_sealed(p.sealed, workspace=workspace, by="b")} == {"test"}
    assert sealed_set.count_test_set_uses(p.sealed, workspace=workspace) == 2
    again = prepared(tmp_path, rows(fruit=6, metal=6)).sealed
    assert sealed_set.count_test_set_uses(again, workspace=workspace) == 2


def test_splits_that_are_given_apart(tmp_path: Path) -> None:
    table = rows(fruit=6, metal=6)
    p = apart(tmp_path, seed=table[4:8], dev=table[2:4] + table[8:10], test=table[:2] + table[10:])
    assert [r.text for r in read(p, "seed")] == [r["text"] for r in table[4:8]]
    assert {r.source for r in read(p, "dev")} == {"dev"} and rejected(p) == []


def test_a_text_in_two_of_the_files_stays_in_the_more_sealed(tmp_path: Path) -> None:
    table = rows(fruit=4, metal=4)
    dev, test = table[1:2] + table[4:5], table[0:1] + table[5:6]
    p = apart(tmp_path, seed=[table[1], table[0], table[2]], dev=[*dev, table[0]], test=test)
    assert texts(p, "test") == {r["text"] for r in test} and texts(p, "dev") == {
        r["text"] for r in dev
    }
    assert texts(p, "seed") == {table[2]["text"]}
    places = sorted((r.check, r.record.lineage["place"]) for r in rejected(p))
    assert places == [
        ("leak", "dev.csv, line 4"),
        ("leak", "train.csv, line 2"),
        ("leak", "train.csv, line 3"),
    ]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_class_without_rows_in_dev_or_test(tmp_path: Path, split: str) -> None:
    table = rows(fruit=4, metal=4)
    parts = {"seed": table[2:6], "dev": table[:1] + table[7:], "test": table[1:2] + table[6:7]}
    parts[split] = parts[split][:1]
    with pytest.raises(UserError) as e:
        apart(tmp_path, **parts)
    assert f"{split}.csv" in str(e.value) and f"'metal' has no row in {split}" in str(e.value)


def test_unlabelled_text_without_held_out_rows_and_repeats(tmp_path: Path) -> None:
    table = rows(fruit=6, metal=6)
    held = texts(prepared(tmp_path, table), "test").pop()
    write(
        tmp_path / "more.csv", [{"text": t} for t in (held, "something new", "Something  new", "")]
    )
    p = prepared(tmp_path, table, unlabelled="more.csv", split={**SPLIT, "rest": "drop"})
    assert texts(p, "unlabelled") == {"something new"}
    assert p.splits.rejected == {"leak": 1, "exact_duplicate": 1, "empty": 1}


def test_a_pool_with_a_test_file_apart(tmp_path: Path) -> None:
    table, apart = rows(fruit=9, metal=9), rows(fruit=12, metal=11)[9:12] + rows(metal=11)[9:]
    write(tmp_path / "test.csv", [*apart, table[0], table[12]])
    p = prepared(tmp_path, table, test="test.csv")  # split.test is 3
    assert texts(p, "test") == {r["text"] for r in [*apart, table[0], table[12]]}
    assert p.sealed.test == {"fruit": 4, "metal": 3}
    assert p.splits.dev == {"fruit": 2, "metal": 2} and p.splits.seed == {"fruit": 1, "metal": 1}
    assert p.splits.rejected == {"leak": 2} and p.splits.unlabelled == 18 - 2 - 4 - 2
    assert not any(texts(p, "test") & texts(p, split) for split in ("seed", "dev", "unlabelled"))
    assert all(r.record.text == "" and "is in test" in r.reason for r in rejected(p))


def test_a_pool_too_small_beside_a_test_file(tmp_path: Path) -> None:
    write(tmp_path / "test.csv", rows(fruit=9, metal=9)[8:10])
    with pytest.raises(
        UserError,
        match=r"'metal' has 1 usable rows, fewer than data\.split needs \(test 0 \+ dev 2\)",
    ):
        prepared(tmp_path, rows(fruit=3, metal=2), test="test.csv")


GROUPED = st.lists(
    st.tuples(st.sampled_from(["fruit", "metal"]), st.one_of(st.none(), st.integers(0, 7))),
    min_size=1,
    max_size=40,
)


@given(kinds=GROUPED, rest=st.sampled_from(["unlabelled", "train", "drop"]))
@settings(max_examples=60, deadline=None)
def test_no_group_straddles_and_nothing_is_lost(
    kinds: list[tuple[str, int | None]], rest: str
) -> None:
    table: list[dict[str, Any]] = [
        {"text": text("row", i), "label": kind, "by": by} for i, (kind, by) in enumerate(kinds)
    ]
    with tempfile.TemporaryDirectory() as folder:
        split = {"train": 1, "dev": 1, "test": 2, "rest": rest}
        try:
            p = prepared(Path(folder), table, group_column="by", split=split)
        except UserError as e:
            assert "fewer than data.split needs" in str(e)
            return
        where = {
            r.text: split for split in ("test", "dev", "seed", "unlabelled") for r in read(p, split)
        }
    assert rest == "drop" or len(where) == len(table)
    by_group: dict[int, set[str]] = {}
    for row in table:
        if row["by"] is not None:
            by_group.setdefault(row["by"], set()).add(where.get(row["text"], "dropped"))
    assert [g for g, splits in by_group.items() if len(splits) > 1] == []
    for name, n in {"test": 2, "dev": 1}.items():
        found = Counter(row["label"] for row in table if where.get(row["text"]) == name)
        assert min(found["fruit"], found["metal"]) >= n


def test_groups_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    table = [{**row, "by": f"author {i % 11}"} for i, row in enumerate(rows(fruit=20, metal=20))]
    p = prepared(tmp_path, table, group_column="by")
    q = prepared(
        tmp_path, random.Random(5).sample(table, len(table)), home="other", group_column="by"
    )
    for split in ("test", "dev", "seed", "unlabelled"):
        assert [r.id for r in read(p, split)] == [r.id for r in read(q, split)]
    assert all(r.lineage["group"].startswith("author") for r in read(p, "test"))
    assert all(r.lineage == {} for r in read(p, "unlabelled"))


def test_groups_hold_over_files_that_are_given_apart(tmp_path: Path) -> None:
    table = [{**row, "by": f"author {i}"} for i, row in enumerate(rows(fruit=9, metal=9))]
    write(tmp_path / "test.jsonl", table[:2] + table[9:11])
    held = {**table[5], "text": "by an author of the test rows", "by": "author 1"}
    write(
        tmp_path / "more.jsonl",
        [{**held, "text": "unlabelled, by the same"}, {"text": "by nobody"}],
    )
    p = prepared(
        tmp_path,
        [*table[2:9], *table[11:], held],
        test="test.jsonl",
        unlabelled="more.jsonl",
        group_column="by",
    )
    assert [(r.check, "'author 1' is in test" in r.reason) for r in rejected(p)] == [
        ("leak", True)
    ] * 2
    assert "by nobody" in texts(p, "unlabelled")


def test_a_reference_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'gone\.csv' does not exist"):
        prepare(project({"pool": "gone.csv"}), tmp_path)


def test_what_repeats_a_test_row_is_set_aside_without_its_text(tmp_path: Path) -> None:
    """Otherwise the rejected rows, which every stage may read, would open the sealed set a little."""
    from tests.kit import toy

    rows = toy.real_rows(10)
    toy.write_csv(tmp_path / "rows.csv", rows * 2)
    config = tmp_path / "toy.yaml"
    config.write_text(
        f"name: toy\nlabels: {toy.LABELS}\ndata: {{pool: rows.csv, split: {{dev: 2, test: 4, rest: drop}}}}\n".replace(
            "'", '"'
        )
    )
    p = prepare(load_project(config), tmp_path)
    assert len(rejected(p)) == 30 and sum(r.record.text == "" for r in rejected(p)) == 12
    assert not texts(p, "test") & {r.record.text for r in rejected(p)}


def test_metadata_goes_with_each_real_row_and_ids_stay_the_contents(tmp_path: Path) -> None:
    table = [
        {**row, "country": "uk" if i % 2 else "fr", "note": ""}
        for i, row in enumerate(rows(fruit=9, metal=9))
    ]
    plain = prepared(tmp_path, table)
    p = prepared(tmp_path, table, keep_columns=["country", "note"], home="other")
    expected = {r["text"]: r["country"] for r in table}
    for split in ("test", "dev", "seed"):
        assert all(r.lineage["columns"] == {"country": expected[r.text]} for r in read(p, split))
        assert [r.id for r in read(p, split)] == [r.id for r in read(plain, split)]
        assert not any("columns" in r.lineage for r in read(plain, split))
    assert all(r.lineage == {} for r in read(p, "unlabelled")), (
        "a column could tell the label that was thrown away"
    )


@pytest.mark.parametrize("source", ["synthetic", "harvested", "reviewed", "unlabelled"])
def test_a_test_set_with_a_row_that_is_not_real_is_not_opened(source: Any, tmp_path: Path) -> None:
    real = Record.create("a real text", "fruit", "test")
    sealed = sealed_of(tmp_path, [real, Record.create("made up", "metal", source)])
    with pytest.raises(
        UserError, match=f"1 of 2 test rows are not real text .* is {source}"
    ) as error:
        open_sealed(sealed, workspace=Workspace(tmp_path), by="a test")
    assert len(str(error.value).splitlines()) == 1
