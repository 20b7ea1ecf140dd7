"""The checks of curation: each rejects what it should, gives the reason, and loses nothing."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.curate.checks.agreement import agreement
from tasks.curate.checks.duplicates import exact, near
from tasks.curate.checks.leak import leak
from tasks.curate.checks.length import length
from tasks.curate.checks.normalise import clean, normalise, tidy
from tasks.curate.context import CurationContext
from tasks.curate.stage import CHECKS, run_checks, surplus
from tasks.project import Curate
from tasks.records import Record, Rejected
from tasks.text.fingerprints import Fingerprints
from tests.kit.rows import record, text


def by_word(texts: list[str]) -> np.ndarray:
    """Embeddings that know whether a text speaks of fruit or of metal, with a little of their own."""
    told = [[t.count("fruit"), t.count("metal"), len(t) % 7 / 20] for t in texts]
    return np.array(told, dtype=np.float32)


def context(held_out: list[Record] | None = None, **chosen: Any) -> CurationContext:
    return CurationContext(Curate(**chosen), Fingerprints.from_records(held_out or []), by_word)


def checks(rejected: list[Rejected]) -> list[str]:
    return [r.check for r in rejected]


WORDS = st.lists(
    st.sampled_from(["fruit", "metal", "**bird**", "\x07", "a", "b"]), max_size=24
).map(" ".join)
ROWS = st.lists(
    st.tuples(
        WORDS, st.sampled_from(["fruit", "metal", "bird"]), st.sampled_from(["seed", "synthetic"])
    ),
    max_size=24,
)
HELD = [record(text("fruit", 0), source="test"), record("a b a b a b a b", source="dev")]


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, quota=st.integers(0, 3))
def test_every_row_is_kept_or_rejected_with_a_reason(
    rows: list[tuple[str, str, Any]], quota: int
) -> None:
    came = [record(t, label, source, n=n) for n, (t, label, source) in enumerate(rows)]
    kept, rejected = run_checks(came, context(HELD, min_words=3, max_words=20))
    kept, over = surplus(kept, dict.fromkeys(["fruit", "metal", "bird"], quota))
    numbers = [r.lineage["n"] for r in kept] + [r.record.lineage["n"] for r in rejected + over]
    assert sorted(numbers) == list(range(len(came)))
    assert all(r.check and r.reason for r in rejected + over)
    assert len({r.id for r in kept}) == len(kept)


def test_the_order_of_the_checks_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    run_checks([], context(), lambda done, total, note: told.append((done, total, note)))
    names = [check.__name__ for check in CHECKS]
    assert told == [(i, len(names), name) for i, name in enumerate([*names, "done"])]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("written", "cleaned"),
    [
        ("  a \t b  ", "a b"),
        ("a\r\nb\rc\x0cd\u2028e\x85f", "a\nb\nc\nd\ne\nf"),
        ("a\n\n \n b", "a\nb"),
        ("a\x00b\u200bc\ufeff", "abc"),
        ("می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),
        ("cafe\u0301 e\u200b\u0301", "caf\u00e9 \u00e9"),
        ("Tom\u00a0&\u2003Ann", "Tom & Ann"),
    ],
)
def test_cleaning(written: str, cleaned: str) -> None:
    assert tidy(written) == cleaned == clean(written)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_cleaned_text_is_clean(written: str) -> None:
    cleaned = clean(written)
    assert unicodedata.is_normalized("NFC", cleaned) and cleaned == cleaned.strip()
    assert not any(unicodedata.category(c) == "Cc" and c != "\n" for c in cleaned)
    assert "  " not in cleaned and "\n\n" not in cleaned


def test_normalise_makes_the_id_anew_and_rejects_what_is_empty() -> None:
    (kept,), rejected = normalise(
        [record("**A**\x07  b", "x", "seed", n=1), record(" \x00\n")], context()
    )
    assert kept == record("**A** b", "x", "seed", n=1), "real text is tidied, its markup is its own"
    assert checks(rejected) == ["empty"]


def test_length() -> None:
    rows = [
        record("w " * n, source=source) for source in ("synthetic", "seed") for n in (2, 3, 5, 6)
    ]
    kept, rejected = length(rows, context(min_words=3, max_words=5))
    assert [(r.source, len(r.text.split())) for r in kept] == [
        ("synthetic", 3),
        ("synthetic", 5),
        *(("seed", n) for n in (2, 3, 5, 6)),
    ]
    assert [(r.check, r.value) for r in rejected] == [("too_short", 2), ("too_long", 6)]
    assert "2 words" in rejected[0].reason and "curate.min_words (3)" in rejected[0].reason


def test_the_same_text_is_kept_once() -> None:
    rows = [
        record("One  two", "a", "seed", n=0),
        record("one two", "a", n=1),
        record("ＯＮＥ TWO", "a", n=2),
        record("three", "a", n=3),
    ]
    kept, rejected = exact(rows, context())
    assert [r.lineage["n"] for r in kept] == [0, 3]
    assert [(r.check, r.other, r.record.lineage["n"]) for r in rejected] == [
        ("exact_duplicate", rows[0].id, n) for n in (1, 2)
    ]


def test_a_text_under_two_labels_is_kept_only_where_it_is_real() -> None:
    real = [
        record("one two", "a", "seed", n=0),
        record("One two", "b", n=1),
        record("one Two", "a", n=2),
    ]
    kept, rejected = exact(real, context())
    assert kept == real[:1]
    assert [(r.check, r.record.lineage["n"]) for r in rejected] == [
        ("two_labels", 1),
        ("exact_duplicate", 2),
    ]
    assert "'a', not 'b'" in rejected[0].reason and rejected[0].other == real[0].id

    written = [replace(r, source="synthetic") for r in real]
    kept, rejected = exact(written, context())
    assert kept == [] and checks(rejected) == ["two_labels"] * 3
    assert ["'b', not 'a'" in r.reason for r in rejected] == [True, False, True]


def test_near_duplicates_name_the_other_row() -> None:
    first, other = record(text("a", 1, 20)), record(text("b", 1, 20))
    copy = record(first.text.rsplit(" ", 1)[0] + " end")  # 17 of 19 shingles
    half = record(" ".join(first.text.split()[:10]) + " " + text("c", 1, 10))  # 8 of 28
    kept, rejected = near([first, other, copy, half], context(near_duplicate=0.7))
    assert kept == [first, other, half]
    (r,) = rejected
    assert (r.record, r.check, r.other, r.value) == (
        copy,
        "near_duplicate",
        first.id,
        round(17 / 19, 4),
    )
    assert "0.89" in r.reason and first.id in r.reason and "0.7" in r.reason


def test_near_duplicates_of_short_texts_and_none_at_zero() -> None:
    rows = [record("one two"), record("ONE two"), record("two one")]
    kept, rejected = near(rows, context())
    assert kept == [rows[0], rows[2]] and rejected[0].value == 1.0
    assert near(rows, context(near_duplicate=0.0)) == (rows, [])


def test_leaks_are_found_in_whole_and_in_part() -> None:
    held = [
        record(text("dev", 1, 20), source="dev"),
        record(text("test", 1, 20), source="test"),
        record("so it is", source="test"),
    ]
    words = held[1].text.split()
    rows = {
        "the whole": record(held[1].text.upper()),
        "a half": record(" ".join(words[5:15]) + " " + text("own", 1, 10)),  # 7 of 17
        "short": record("So it  is"),
        "a phrase": record(" ".join(words[:5]) + " " + text("own", 2, 20)),  # 2 of 22
        "three words at a time": record(
            " ".join(f"{' '.join(words[i : i + 3])} own{i}" for i in range(0, 18, 3))
        ),
        "unrelated": record(text("own", 3, 20)),
        "a seed row": record(held[0].text + " and more", source="seed"),
    }
    kept, rejected = leak(list(rows.values()), context(held, leak=0.3))
    names = {r.id: name for name, r in rows.items()}
    assert [names[r.id] for r in kept] == ["a phrase", "three words at a time", "unrelated"]
    assert [(names[r.record.id], r.value, r.other) for r in rejected] == [
        ("the whole", 1.0, held[1].id),
        ("a half", round(7 / 17, 4), held[1].id),
        ("short", 1.0, held[2].id),
        ("a seed row", 1.0, held[0].id),
    ]
    assert set(checks(rejected)) == {"leak"} and "0.41" in rejected[1].reason
    assert not any(r.record.text for r in rejected), "it would tell the sealed text"


def test_fingerprints_tell_no_text_and_come_back(tmp_path: Path) -> None:
    held = [record(text("test", i), source="test") for i in range(3)]
    Fingerprints.from_records(held).save(tmp_path / "f.npz")
    found = Fingerprints.load(tmp_path / "f.npz")
    assert found.closest(held[2].text) == (1.0, held[2].id) and found.closest("nothing of it") == (
        0.0,
        None,
    )
    assert b"test2x" not in (tmp_path / "f.npz").read_bytes()
    Fingerprints.from_records([]).save(tmp_path / "none.npz")
    assert Fingerprints.load(tmp_path / "none.npz").closest(held[0].text) == (0.0, None)


def planted(n: int = 20) -> tuple[list[Record], list[Record]]:
    """(rows, those of them whose label is wrong): rows 3, 4 and 5 of each label."""
    other = {"fruit": "metal", "metal": "fruit"}
    rows, wrong = [], []
    for word in other:
        for i in range(n):
            label = other[word] if i in (3, 4, 5) else word
            rows.append(record(text(word, i), label))
            wrong += rows[-1:] if label != word else []
    return rows, wrong


def test_agreement_finds_the_planted_wrong_labels() -> None:
    rows, wrong = planted()
    kept, rejected = agreement(rows, context(agreement=0.3))
    assert [r.record for r in rejected] == wrong and [r for r in rows if r not in wrong] == kept
    assert set(checks(rejected)) == {"off_label"} and all(
        r.value is not None and r.value < 0.3 for r in rejected
    )
    assert "gives 'metal'" in rejected[0].reason and "'fruit'" in rejected[0].reason


def test_agreement_does_not_judge_real_rows() -> None:
    rows, wrong = planted()
    real = [replace(r, source="seed") if r in wrong[:2] else r for r in rows]
    _, rejected = agreement(real, context(agreement=0.3))
    assert [r.record for r in rejected] == wrong[2:]


def test_agreement_judges_nothing_where_it_can_not_learn() -> None:
    rows, _ = planted()
    assert agreement(rows, context(agreement=0.0)) == (rows, [])
    lonely = [*rows, record("one bird", "bird")]
    assert agreement(lonely, context()) == (lonely, [])
    one = [r for r in rows if r.label == "fruit"]
    assert agreement(one, context()) == (one, []) and agreement([], context()) == ([], [])


def test_surplus_is_of_synthetic_rows_and_the_last_ones() -> None:
    rows = [
        record(text(label, i), label, source)
        for source in ("seed", "synthetic")
        for label in ("a", "b")
        for i in range(3)
    ]
    kept, over = surplus(rows, {"a": 2, "b": 2})
    assert kept == [*rows[:8], *rows[9:11]] and [r.record for r in over] == [rows[8], rows[11]]
    assert checks(over) == ["surplus"] * 2 and "'a' has its 2 rows" in over[0].reason
