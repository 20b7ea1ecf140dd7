"""Review where a text has several labels, or none: the ranking, decisions about sets, the desk's keys, and the spreadsheet."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from flows.review.session import ReviewSession, wait_for_review
from flows.review.state import ReviewState, row_history_pairs
from tasks import atomic
from tasks.decisions import Decisions, apply_decisions, read_decisions
from tasks.errors import UserError
from tasks.records import Record, Rejected
from tasks.review import table
from tasks.review.influence import influence
from tasks.review.probe import assess_rows
from tasks.review.queue import rank_doubtful, rank_rows
from tasks.review.ranked_row import RankedRow
from tasks.workspace import Workspace
from tests.conftest import Command, last_json
from tests.kit import toy
from tests.kit.context import context_of
from tests.kit.review import Place, place_of_sets

LABELS = list(toy.LABELS)


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Place:
    return place_of_sets(tmp_path_factory.mktemp("review"), encoder, required=2)


@pytest.fixture(scope="module")
def ranked(where: Place, encoder: Path) -> list[RankedRow]:
    return rank_rows(where.project, where.data, encoder=encoder)


def of(words: str, *labels: str) -> Record:
    return Record.create(words, labels, "synthetic")


# --- the ranking


def test_sets_that_lack_a_label_or_have_one_too_many_come_first(
    where: Place, ranked: list[RankedRow]
) -> None:
    assert len(where.wrong) == 6 and {d.id for d in ranked[:15]} >= where.wrong, [
        d.why() for d in ranked[:15]
    ]
    assert len(ranked) == len(where.kept) + 1 and not {d.id for d in ranked} & where.hidden
    for d in ranked:
        assert isinstance(d.opinion, tuple) and d.margin == pytest.approx(1 - 2 * d.own, abs=1e-3)
        assert d.loss >= -np.log(max(d.own, 1e-6)) - 1e-3 and 0.5 <= d.probability <= 1
        assert (d.own < 0.5) == (d.opinion != d.record.label)
    said = {d.id: d.why() for d in ranked}
    (surplus,) = [d for d in ranked if d.record.label == ("bird", "metal")]
    assert "not 'metal'" in said[surplus.id] and any(
        "it also has 'metal'" in said[i] for i in where.wrong
    )
    by_id = {d.id: d for d in ranked}
    alike = [(d, by_id[i]) for d in ranked for i, _ in d.like]
    assert alike and all(
        (a.record.label, a.opinion) == (b.record.label, b.opinion) for a, b in alike
    )


def test_a_ranking_is_read_back_as_it_was(
    where: Place, ranked: list[RankedRow], tmp_path: Path
) -> None:
    assert rank_doubtful(where.project, where.data, workspace=Workspace(tmp_path)).read() == ranked


def sets_of(codes: np.ndarray, names: str = "ab") -> list[Record]:
    """A record of each row of zeros and ones."""
    return [
        of(f"text {i}", *(k for k, has in zip(names, row, strict=True) if has))
        for i, row in enumerate(codes)
    ]


def test_each_label_has_a_probe_of_its_own() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 5))
    y = (x[:, :2] + rng.normal(size=(90, 2)) * 0.5 > 0.3).astype(int)
    records, trained_on = sets_of(y), np.arange(90) < 60
    found = assess_rows(records, x, trained_on, dev=records[60:], dev_x=x[60:])
    probes = [LogisticRegression(C=10, max_iter=1000).fit(x[:60], y[:60, k]) for k in range(2)]
    p = np.stack([probe.predict_proba(x)[:, 1] for probe in probes], axis=1)
    decided = np.where(y == 1, p, 1 - p)
    assert found.own[60:] == pytest.approx(decided[60:].min(axis=1))
    assert found.loss[60:] == pytest.approx(-np.log(decided[60:]).sum(axis=1))
    assert np.abs(found.own[:60] - decided[:60].min(axis=1)).max() > 1e-4, "out of fold"
    harm = [
        influence(probe, x[:60], x, y[:, k], dev=x[60:], dev_y=y[60:, k])
        for k, probe in enumerate(probes)
    ]
    assert found.influence == pytest.approx(np.sum(harm, axis=0))


def test_a_label_of_one_row_is_not_seen_and_too_few_rows_are_an_error() -> None:
    x = np.random.default_rng(1).normal(size=(9, 3))
    y = np.array([[1, 0], [1, 0], [0, 0], [0, 0], [1, 1], [1, 0], [0, 0], [1, 0], [0, 0]])
    records, everywhere = sets_of(y), np.ones(9, bool)
    found = assess_rows(records, x, everywhere, dev=records, dev_x=x)
    assert all("b" not in predicted for predicted in found.predicted)
    assert found.own[4] == 0 and found.margin[4] == 1 and found.loss[4] > 13
    without_dev = assess_rows(records, x, everywhere, dev=[], dev_x=x[:0])
    assert not without_dev.influence.any() and (without_dev.own == found.own).all()
    with pytest.raises(UserError, match=r"two training rows with a label and two without.*'a': 1"):
        few = [records[i] for i in (0, 2, 3)]
        assess_rows(few, x[:3], everywhere[:3], dev=few, dev_x=x[:3])


# --- decisions


def test_decisions_about_sets_are_kept_taken_back_and_applied(tmp_path: Path) -> None:
    d = Decisions(tmp_path / "d.jsonl", by="ana")
    one, two, three = of("a first text", "a"), of("a second text", "a", "b"), of("a third text")
    d.decide([one], "relabel", ("b", "a", "b"))
    d.decide([two], "relabel", ())
    d.decide([three], "accept")
    assert {i: (x.decision, x.label_before, x.label_after) for i, x in d.current().items()} == {
        one.id: ("relabel", ("a",), ("a", "b")),
        two.id: ("relabel", ("a", "b"), ()),
        three.id: ("accept", (), ()),
    }
    (same,) = d.decide([two], "relabel", ("b", "a"))
    assert same.decision == "accept", "the set that it has"
    d.undo()
    _, out, reviewed = apply_decisions(
        [one], [Rejected(two, "off_label", "why"), Rejected(three, "two_labels", "x")], d.current()
    )
    assert out == [] and [(r.label, r.source) for r in reviewed] == [
        (("a", "b"), "reviewed"),
        ((), "reviewed"),
        ((), "reviewed"),
    ]
    assert Record.from_json(json.loads(json.dumps(reviewed[0].to_json()))).label == ("a", "b")
    assert [type(x.label_after) for x in read_decisions(d.path)] == [tuple] * 5


def test_a_decision_outlives_a_change_of_multi_label(tmp_path: Path) -> None:
    d = Decisions(tmp_path / "d.jsonl", by="ana")
    alone = Record.create("a first text", "a", "synthetic")
    d.decide([alone], "relabel", "b")
    assert apply_decisions([replace(alone, label=("a",))], [], d.current())[2][0].label == ("b",)
    d.decide([of("a first text", "a")], "relabel", ("c",))
    assert apply_decisions([alone], [], d.current())[2][0].label == "c"
    d.decide([of("a first text", "a")], "relabel", ())
    with pytest.raises(
        UserError, match=r"ana decided that row \w+ is '\(no label\)', but a text has one label"
    ):
        apply_decisions([alone], [], d.current())


SETS = st.lists(st.sampled_from(LABELS), unique=True).map(lambda own: tuple(sorted(own)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(SETS, st.sampled_from(["accept", "relabel", "reject"]), SETS), max_size=6)
)
def test_what_is_decided_last_stands(
    tmp_path_factory: Any, told: list[tuple[Any, str, Any]]
) -> None:
    d = Decisions(tmp_path_factory.mktemp("d") / "d.jsonl", by="ana")
    row = "the same text"
    for before, choice, after in told:
        d.decide([of(row, *before)], choice, after if choice == "relabel" else None)
    for n in range(len(told), 0, -1):
        before, choice, after = told[n - 1]
        (now,) = d.current().values()
        assert now.label_before == before
        assert now.label_after == {"accept": before, "relabel": after, "reject": None}[choice]
        assert len(d.undo()) == 1
    assert d.current() == {}


# --- the desk


@pytest.fixture
def state(where: Place, ranked: list[RankedRow], tmp_path: Path) -> ReviewState:
    return ReviewState(
        ReviewSession(
            where.project, ranked, Decisions(tmp_path / "d.jsonl", by="ana"), where.splits
        )
    )


def press(state: ReviewState, *keys: str) -> None:
    for key in keys:
        state.press(key, state.version)


def test_a_number_puts_a_label_on_or_off_and_enter_decides(state: ReviewState) -> None:
    row = state.row
    assert (
        row is not None and row.record.label == ("bird",) and LABELS == ["metal", "fruit", "bird"]
    )
    press(state, "1")
    assert state.draft == ("bird", "metal") and not state.session.decisions.current(), (
        "nothing is decided before Enter"
    )
    press(state, "3", "9", "٣")
    assert state.draft == ("metal",)
    press(state, "Escape")
    assert state.draft is None
    press(state, "Enter")
    assert not state.session.decisions.current(), "there is no set to decide for"
    press(state, "1", "j", "k")
    assert state.draft is None, "who moves on decides nothing"
    press(state, "1", "3", "Enter")
    (made,) = state.decided.values()
    assert (made.id, made.decision, made.label_after) == (
        row.id,
        "relabel",
        ("metal",),
    ) and state.row is not row
    press(state, "k", "2")
    assert state.draft == ("fruit", "metal"), "it goes on from what was decided"
    press(state, "0", "Enter")
    assert state.decided[row.id].label_after == () and "relabelled as (no label)" in state.message
    assert any(
        "relabelled by ana, bird → (no label)" in v
        for _, v in row_history_pairs(row, state.session)
    )
    press(state, "u")
    assert state.decided[row.id].label_after == ("metal",) and state.row is row
    press(state, "1", "3", "Enter")
    assert state.decided[row.id].decision == "accept", "the set that it had"
    press(state, "k", "r", "k", "a")
    assert state.decided[row.id].decision == "accept"


def test_a_set_is_applied_to_the_like_and_taken_back_at_once(state: ReviewState) -> None:
    state.index = next(i for i, d in enumerate(state.queue) if len(d.like) > 1)
    row = state.queue[state.index]
    press(state, "1", "l")
    assert state.similar is not None and state.similar.choice is not None and state.draft is None
    chosen = state.similar.choice[1]
    assert chosen == tuple(sorted({*row.record.labels} ^ {"metal"}))
    press(state, "3")
    assert (
        state.similar.choice[1] == tuple(sorted({*(chosen or ())} ^ {"bird"})) and not state.decided
    )
    press(state, "Enter")
    assert {d.label_after for d in state.decided.values()} == {
        tuple(sorted({*row.record.labels} ^ {"metal", "bird"}))
    }
    assert set(state.decided) == {row.id, *(i for i, _ in row.like)}
    press(state, "u")
    assert state.decided == {}
    press(state, "l", "0", "Enter")
    assert {d.label_after for d in state.decided.values()} == {()}


# --- the spreadsheet


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_sets_go_out_and_decisions_come_back(
    tmp_path: Path, ranked: list[RankedRow], suffix: str
) -> None:
    out, rows = tmp_path / f"q{suffix}", ranked[:7]
    table.export_queue(out, rows)
    if suffix == ".csv":
        with out.open(newline="", encoding="utf-8-sig") as f:
            cells = list(csv.DictReader(f))
        assert [tuple(json.loads(c["label"])) for c in cells] == [d.record.label for d in rows]
    else:
        cells = [json.loads(line) for line in out.read_text().splitlines()]
        assert [tuple(c["opinion"]) for c in cells] == [d.opinion for d in rows]
    said: list[Any] = ["accept", "Reject", "metal", "metal| bird", '["bird", "fruit"]', "[]", ""]
    if suffix == ".jsonl":
        said[4:6] = [["bird", "fruit"], []]
    for c, s in zip(cells, said, strict=True):
        c["decision"] = s
    back = tmp_path / f"back{suffix}"
    if suffix == ".csv":
        with back.open("w", newline="", encoding="utf-8-sig") as f:
            again = csv.DictWriter(f, table.COLUMNS)
            again.writeheader()
            again.writerows(cells)
    else:
        back.write_text("".join(json.dumps(c) + "\n" for c in cells))
    decided, known = Decisions(tmp_path / "d.jsonl", by="ana"), {d.id: d.record for d in ranked}
    made = table.import_decisions(back, known, LABELS, decided, separator="|")
    expected = [rows[0].record.label, None, ("metal",), ("bird", "metal"), ("bird", "fruit"), ()]
    assert [(m.id, m.label_after) for m in made] == [
        (d.id, e) for d, e in zip(rows, expected, strict=False)
    ]
    assert table.import_decisions(back, known, LABELS, decided, separator="|") == [], (
        "doing it twice is doing it once"
    )


@pytest.mark.parametrize("said", ['"metl|bird"', '["metal", "metl"]', "[1]", '{"a": 1}'])
def test_a_set_with_an_unknown_label_is_named_with_its_line(tmp_path: Path, said: str) -> None:
    row = of("some text", "metal")
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"id": "{row.id}", "text": "some text", "decision": {said}}}\n')
    with pytest.raises(
        UserError,
        match=r"in\.jsonl, line 1: .* is no decision.*\[\] for none.*nothing was imported",
    ):
        table.read_choices(path, {row.id: row}, LABELS, separator="|")


# --- the command, and a retrain that waits


def test_the_command_takes_sets(where: Place, home: Path, tmp_path: Path, reseed: Command) -> None:
    at = ("review", where.config, "--curated", where.curated, "--splits", where.splits)
    run = context_of(where.project, home)
    with pytest.raises(UserError, match="2 rows must be reviewed"):
        wait_for_review(run, where.data)
    code, out, err = reseed(*at, "--export", tmp_path / "q.jsonl", "--json")
    assert code == 0, err
    cells = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    cells[0]["decision"], cells[1]["decision"] = [], "bird|fruit"
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(c) + "\n" for c in cells))
    code, out, err = reseed(*at, "--import", tmp_path / "q.jsonl", "--by", "Ana", "--json")
    assert code == 0 and (last_json(out)["imported"], last_json(out)["missing"]) == (2, 0), err
    stored = atomic.read_lines(Workspace(home).decisions("toy"))
    assert [line["label_after"] for line in stored] == [[], ["bird", "fruit"]]
    assert wait_for_review(run, where.data) == 2
