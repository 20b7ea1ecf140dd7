"""The queue of doubtful rows, the decisions file, what decisions make of the rows, and the spreadsheet's round trip."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import atomic
from tasks.decisions import Decision, Decisions, apply_decisions, current_decisions, read_decisions
from tasks.encoder.linear_probe import fit_probe
from tasks.errors import UserError
from tasks.project import Review
from tasks.records import Record, Rejected
from tasks.review import table
from tasks.review.influence import influence
from tasks.review.queue import (
    RankResult,
    count_decided,
    doubtful_or_decided,
    rank_doubtful,
    rank_rows,
)
from tasks.review.ranked_row import RankedRow
from tasks.workspace import Workspace
from tests.conftest import ROOT, Command, last_json
from tests.kit import toy
from tests.kit.context import context_of
from tests.kit.deployed import Run
from tests.kit.processes import running, wait_for
from tests.kit.review import Place, place, row
from tests.kit.rows import record, text


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Place:
    return place(tmp_path_factory.mktemp("review"), encoder)


def ranked(where: Place, encoder: Path) -> list[RankedRow]:
    return rank_rows(where.project, where.data, encoder=encoder)


def test_wrong_labels_come_first_and_every_row_says_why(where: Place, encoder: Path) -> None:
    rows = ranked(where, encoder)
    assert {d.id for d in rows[:6]} == where.wrong, [d.why() for d in rows[:7]]
    for d in rows:
        assert d.loss == pytest.approx(-np.log(max(d.own, 1e-6)), abs=0.02) or d.own < 0.01
        assert d.rank == pytest.approx(sum(d.ranks.values()) / 3, abs=0.1) and set(d.ranks) == {
            "margin",
            "loss",
            "influence",
        }
        assert d.id not in dict(d.near) and len(d.near) == 5 and d.id not in dict(d.like)
        assert [s for _, s in d.near] == sorted((s for _, s in d.near), reverse=True)
    by_id = {d.id: d for d in rows}
    for d in rows[:6]:
        assert d.opinion != d.record.label and d.margin > 0 and d.influence > 0
        assert d.opinion in d.why() or d.check == "off_label"
    pairs = [(by_id[i], d, s) for d in rows for i, s in d.like]
    assert all(
        (a.record.label, a.opinion) == (b.record.label, b.opinion) and s >= 0.6 for a, b, s in pairs
    )
    twin, other = (row("metal", i, "fruit").id for i in (100, 105))
    assert [i for i, _ in by_id[twin].like] == [other] and [i for i, _ in by_id[other].like] == [
        twin
    ]
    assert [d.rank for d in rows] == sorted(d.rank for d in rows)


def test_the_queue_holds_what_is_doubtful_or_decided(where: Place, encoder: Path) -> None:
    rows = ranked(where, encoder)
    found = doubtful_or_decided(rows, {})
    assert where.wrong <= {d.id for d in found} and len(found) < len(rows)
    sure = rows[-1]
    assert sure.id not in {d.id for d in found}
    made = {sure.id: Decision("k", "g", "2026", "ana", sure.id, "", "accept", "metal", "metal")}
    again = doubtful_or_decided(rows, made)
    assert {d.id for d in again} == {d.id for d in found} | {sure.id}
    assert count_decided(again, made) == 1 and count_decided(again, {}) == 0
    assert count_decided(again, {"0" * 24: made[sure.id]}) == 0, (
        "a decision about a row that is gone counts for nothing"
    )


def test_held_out_rows_are_never_shown(where: Place, encoder: Path) -> None:
    shown = {d.id for d in ranked(where, encoder)}
    assert not shown & where.hidden and len(where.hidden) >= 4
    assert len(shown) == len(where.kept) + 2  # the two that were set aside for their label
    near = {i for d in ranked(where, encoder) for i, _ in (*d.near, *d.like)}
    assert near <= shown


def test_a_row_set_aside_for_its_label_that_repeats_most_of_a_test_row_is_hidden(
    tmp_path: Path, encoder: Path
) -> None:
    secret = record(text("secret", 0, 16), "metal", "test")
    nearly = record(" ".join(secret.text.split()[:12]) + " and something else", "bird")
    p = place(
        tmp_path, encoder, test=[secret], rejected=[Rejected(nearly, "two_labels", "x", 1.0, None)]
    )
    assert nearly.id not in {d.id for d in ranked(p, encoder)}
    lenient = replace(
        p,
        project=p.project.model_copy(
            update={"curate": p.project.curate.model_copy(update={"leak": 1.0})}
        ),
    )
    assert nearly.id in {d.id for d in ranked(lenient, encoder)}, "the limit is curate.leak's"


def test_a_short_row_that_means_what_a_test_row_says_is_hidden(
    tmp_path: Path, encoder: Path
) -> None:
    secret = record("mewaa mewab mewac near mewad", "metal", "test")
    says = record("Mewab mewaa mewac mewad near", "bird")
    other = record("frwaa frwab frwac near frwad", "bird")
    p = place(
        tmp_path,
        encoder,
        test=[secret],
        rejected=[Rejected(r, "two_labels", "x") for r in (says, other)],
    )
    shown = {d.id for d in ranked(p, encoder)}
    assert says.id not in shown and other.id in shown


def test_a_tampered_directory_is_refused(tmp_path: Path, encoder: Path) -> None:
    p = place(tmp_path, encoder)
    with (p.curated / "kept.jsonl").open("a") as f:
        f.write(json.dumps(record("a new row", "metal").to_json()) + "\n")
    with pytest.raises(atomic.CorruptDirectory, match=r"kept\.jsonl"):
        ranked(p, encoder)


def test_a_probe_without_two_labels_says_so(tmp_path: Path, encoder: Path) -> None:
    p = place(tmp_path, encoder, kept=[row("metal", i) for i in range(5)] + [row("bird", 1)])
    with pytest.raises(UserError, match="at least two training rows of at least two labels"):
        ranked(p, encoder)


def test_a_label_with_one_row_is_ranked_too(tmp_path: Path, encoder: Path) -> None:
    kept = [row(k, i) for k in ("metal", "fruit") for i in range(6)] + [row("bird", 1)]
    rows = ranked(place(tmp_path, encoder, kept=kept), encoder)
    (bird,) = [d for d in rows if d.record.label == "bird" and d.check is None]
    assert bird.own == 0 and bird.doubtful and bird.opinion != "bird"


def test_ranking_is_a_stage_that_is_found_again(
    where: Place, encoder: Path, tmp_path: Path
) -> None:
    first = rank_doubtful(where.project, where.data, workspace=Workspace(tmp_path))
    rows = ranked(where, encoder)
    assert first.read() == rows and not first.published.found
    assert (first.rows, first.doubtful) == (len(rows), sum(d.doubtful for d in rows))
    assert rank_doubtful(where.project, where.data, workspace=Workspace(tmp_path)).published.found


@pytest.mark.parametrize("kinds", [2, 3])
def test_influence_ranks_rows_as_retraining_without_each_does(kinds: int) -> None:
    """Koh and Liang's own check, for every row of a small problem; and the slope itself, against a slightly heavier row."""
    from scipy.stats import spearmanr
    from sklearn.linear_model import LogisticRegression

    n = 150
    rng = np.random.default_rng(kinds)
    centres = rng.normal(size=(kinds, 6))
    y = np.arange(n) % kinds
    x = centres[y] + rng.normal(size=(n, 6)) * 0.8
    y[:6] = (y[:6] + 1) % kinds  # wrong labels
    dev_y = np.arange(30) % kinds
    dev = centres[dev_y] + rng.normal(size=(30, 6)) * 0.8

    def dev_loss(weights: np.ndarray) -> float:
        rows = weights > 0
        probe = LogisticRegression(C=10, max_iter=10_000, tol=1e-9).fit(
            x[rows], y[rows], sample_weight=weights[rows]
        )
        return float(-np.log(probe.predict_proba(dev)[np.arange(30), dev_y]).sum())

    estimate = influence(fit_probe(x, list(y)), x, x, y, dev=dev, dev_y=dev_y)
    everything, each = np.ones(n), np.eye(n)
    left_out = np.array([dev_loss(everything) - dev_loss(everything - one) for one in each])
    assert spearmanr(estimate, left_out).statistic > 0.95
    assert estimate[:6].mean() > estimate[6:].mean()
    slope = [
        (dev_loss(everything + one / 500) - dev_loss(everything - one / 500)) * 250
        for one in each[:20]
    ]
    assert np.allclose(estimate[:20], slope, atol=0.01)


# --- the decisions file


def test_decisions_fold_to_the_last_that_stands(tmp_path: Path) -> None:
    times = iter(f"2026-01-01T00:00:0{i}" for i in range(9))
    d = Decisions(Workspace(tmp_path).decisions("toy"), by="ana", now=lambda: next(times))
    one, two = record("a first text", "metal"), record("a second text", "fruit")
    d.decide([one], "accept")
    d.decide([one], "relabel", "bird")
    d.decide([one, two], "reject")
    assert {i: x.decision for i, x in d.current().items()} == {one.id: "reject", two.id: "reject"}
    assert {x.id for x in d.undo()} == {one.id, two.id}, (
        "what was decided at once is undone at once"
    )
    now = d.current()
    assert set(now) == {one.id} and (
        now[one.id].decision,
        now[one.id].label_before,
        now[one.id].label_after,
    ) == (
        "relabel",
        "metal",
        "bird",
    )
    d.undo()
    assert d.current()[one.id].decision == "accept"
    d.undo()
    assert d.current() == {} and d.undo() == []
    past = read_decisions(d.path)
    assert [x.decision for x in past] == [
        "accept",
        "relabel",
        "reject",
        "reject",
        "undo",
        "undo",
        "undo",
        "undo",
    ]
    assert {x.undoes for x in past[4:]} == {x.key for x in past[:4]} and len(
        {x.key for x in past}
    ) == 8
    assert all(
        x.by == "ana" and x.when.startswith("2026-01-01") and len(x.text) == 64 for x in past
    )


def test_relabelling_to_the_label_it_has_is_accepting_and_nonsense_is_refused(
    tmp_path: Path,
) -> None:
    d = Decisions(tmp_path / "d.jsonl", by="ana")
    (made,) = d.decide([record("some text", "metal")], "relabel", "metal")
    assert made.decision == "accept" and made.label_after == "metal"
    for choice, label in (("maybe", None), ("relabel", None), ("accept", "bird")):
        with pytest.raises(UserError, match="is no decision"):
            d.decide([record("some text", "metal")], choice, label)
    assert len(read_decisions(d.path)) == 1


def test_a_torn_line_is_survived_and_a_foreign_one_is_named(tmp_path: Path) -> None:
    d = Decisions(tmp_path / "d.jsonl", by="ana")
    one, two = record("a first text", "metal"), record("a second text", "fruit")
    d.decide([one], "accept")
    whole = d.path.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 1):
        d.path.write_bytes(whole + whole[:cut])
        assert set(d.current()) == {one.id}
        d.decide([two], "reject")
        assert set(d.current()) == {one.id, two.id}, f"torn after {cut} bytes"
    for odd in ({"id": "x"}, ["a"], {**json.loads(whole), "decision": "burn"}):
        d.path.write_bytes(whole + json.dumps(odd).encode() + b"\n")
        with pytest.raises(UserError, match="restore the file from a backup"):
            d.current()


def test_what_was_decided_before_a_kill_is_kept(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from tasks.records import Record
from tasks.decisions import Decisions
d = Decisions(Path({str(tmp_path / "d.jsonl")!r}), by="ana")
for i in range(10**6):
    d.decide([Record.create(f"text {{i}}", "metal", "synthetic")], "accept")
    print(i, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split("\n")
    process.wait()
    told = len(said) + len([line for line in rest[:-1] if line])
    assert len(current_decisions(tmp_path / "d.jsonl")) in (told, told + 1)


# --- what decisions make of the rows


def made(r: Record, decision: str, after: str | None) -> Decision:
    return Decision(
        "k" + r.id, "g", "2026-01-02T03:04:05+00:00", "ana", r.id, "", decision, r.label, after
    )


def test_decisions_move_rows() -> None:
    kept, fruit, bad, aside, out = (
        record(f"text number {i}", "metal", lineage_is=i) for i in range(5)
    )
    rejected = [Rejected(aside, "off_label", "why", 0.1), Rejected(out, "length", "short")]
    found = {
        d.id: d
        for d in (
            made(fruit, "relabel", "fruit"),
            made(bad, "reject", None),
            made(aside, "accept", "metal"),
        )
    }
    stay, gone, reviewed = apply_decisions([kept, fruit, bad], rejected, found)
    assert stay == [kept]
    assert [(r.record.id, r.check) for r in gone] == [(bad.id, "reviewed_out"), (out.id, "length")]
    assert "ana" in gone[0].reason and gone[0].record == bad
    assert [(r.id, r.label, r.source) for r in reviewed] == [
        (fruit.id, "fruit", "reviewed"),
        (aside.id, "metal", "reviewed"),
    ]
    assert reviewed[0].lineage == {
        "lineage_is": 1,
        "reviewed": {
            "by": "ana",
            "when": "2026-01-02T03:04:05+00:00",
            "was": {"label": "metal", "source": "synthetic", "check": None},
        },
    }
    assert reviewed[1].lineage["reviewed"]["was"]["check"] == "off_label"


def test_the_persons_label_wins_over_one_that_changed_meanwhile() -> None:
    then = record("the same text", "metal")
    for decision, after in (("accept", "metal"), ("relabel", "fruit")):
        now = replace(then, label="bird")
        _, _, (row,) = apply_decisions([now], [], {then.id: made(then, decision, after)})
        assert row.label == after and row.lineage["reviewed"]["was"]["label"] == "bird"


def test_no_decision_brings_back_what_repeats_held_out_text() -> None:
    leaked = record("a text that stands in test", "metal")
    for check in ("leak", "short_leak"):
        rejected = [Rejected(leaked, check, "1.00 of it", 1.0, "x")]
        assert apply_decisions([], rejected, {leaked.id: made(leaked, "accept", "metal")}) == (
            [],
            rejected,
            [],
        )


rows_of = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["metal", "fruit"])), max_size=8)
choices = st.dictionaries(st.integers(0, 5), st.sampled_from(["accept", "relabel", "reject"]))


@given(rows_of, rows_of, choices)
def test_no_row_is_lost_and_a_text_is_trained_on_under_one_label(
    kept: list[tuple[int, str]], aside: list[tuple[int, str]], chosen: dict[int, str]
) -> None:
    records = [record(f"text {i}", label) for i, label in kept]
    rejected = [Rejected(record(f"text {i}", label), "two_labels", "why") for i, label in aside]
    found = {}
    for i, choice in chosen.items():
        r = record(f"text {i}", "metal")
        found[r.id] = made(
            r, choice, {"accept": "metal", "relabel": "bird", "reject": None}[choice]
        )
    stay, gone, reviewed = apply_decisions(records, rejected, found)
    came = sorted(r.id for r in records) + sorted(r.record.id for r in rejected)
    assert sorted(came) == sorted(
        [*(r.id for r in stay), *(r.record.id for r in gone), *(r.id for r in reviewed)]
    )
    assert len({r.id for r in reviewed}) == len(reviewed) and not {r.id for r in stay} & set(found)
    assert {r.id for r in reviewed} == {
        i for i, d in found.items() if d.decision != "reject"
    } & set(came)
    assert all(r.label == found[r.id].label_after and r.source == "reviewed" for r in reviewed)
    again = apply_decisions([*stay, *reviewed], gone, found)
    assert [(r.id, r.label, r.source) for r in again[2]] == [
        (r.id, r.label, r.source) for r in reviewed
    ]


# --- the spreadsheet

NASTY = [
    "=1+1",
    "+a",
    "-a",
    "@a",
    "\ta",
    "\ra",
    "'=1",
    "''=1",
    "'plain",
    'a "quoted", text',
    "two\nlines",
    "a;b",
    "é 漢字",
]


@given(st.text(max_size=20) | st.sampled_from(NASTY))
def test_a_cell_is_never_a_formula_and_comes_back(cell: str) -> None:
    assert table.unquote_formula(table.quote_formula(cell)) == cell
    assert table.quote_formula(cell)[:1] not in tuple("=+-@\t\r")
    if cell[:1] not in tuple("=+-@\t\r'"):
        assert table.quote_formula(cell) == cell


@pytest.fixture
def nasty(where: Place, encoder: Path) -> list[RankedRow]:
    """A queue whose texts try a spreadsheet."""
    found = ranked(where, encoder)
    return [
        d.model_copy(update={"record": record(f"{t} of row {i}", "metal")})
        for i, (d, t) in enumerate(zip(found, NASTY, strict=False))
    ]


@pytest.mark.parametrize("kind", ["csv", "excel", "jsonl"])
def test_what_is_exported_comes_back_with_decisions(
    tmp_path: Path, nasty: list[RankedRow], kind: str
) -> None:
    out = tmp_path / ("queue.jsonl" if kind == "jsonl" else "queue.csv")
    table.export_queue(out, nasty)
    rows = {d.id: d.record for d in nasty}
    labels = list(toy.LABELS)
    decided = Decisions(tmp_path / "d.jsonl", by="ana")
    assert table.import_decisions(out, rows, labels, decided) == [], "empty cells decide nothing"
    words = ["accept", "reject", "bird", "Accept", "label:fruit", ""]
    said = [words[i % len(words)] for i in range(len(nasty))]
    if kind == "jsonl":
        cells = [json.loads(line) for line in out.read_text().splitlines()]
        assert list(cells[0]) == list(table.COLUMNS) and {c["decision"] for c in cells} == {""}
        assert [c["text"] for c in cells] == [d.record.text for d in nasty]
        out.write_text(
            "".join(
                json.dumps(c | {"decision": s}) + "\n" for c, s in zip(cells, said, strict=True)
            )
        )
    else:
        assert out.read_bytes().startswith(b"\xef\xbb\xbf")
        with out.open(newline="", encoding="utf-8-sig") as f:
            cells = list(csv.DictReader(f))
        assert not [c for c in cells if any(v[:1] in tuple("=+-@\t\r") for v in c.values())]
        with out.open("w", newline="", encoding="utf-8-sig") as f:
            again = csv.DictWriter(f, table.COLUMNS, delimiter=";" if kind == "excel" else ",")
            again.writeheader()
            again.writerows(c | {"decision": s} for c, s in zip(cells, said, strict=True))
    made = table.import_decisions(out, rows, labels, decided)
    expected = {
        "accept": "metal",
        "Accept": "metal",
        "reject": None,
        "bird": "bird",
        "label:fruit": "fruit",
    }
    assert [(m.id, m.label_after) for m in made] == [
        (d.id, expected[s]) for d, s in zip(nasty, said, strict=True) if s
    ]
    assert {m.group for m in made} == {made[0].group}
    assert table.import_decisions(out, rows, labels, decided) == [], (
        "a second import of the same file changes nothing"
    )
    assert len(decided.undo()) == len(made) and decided.current() == {}


def test_a_mistake_in_the_file_is_named_with_its_line_and_nothing_is_imported(
    tmp_path: Path,
) -> None:
    a, b = record("a first text", "metal"), record("a second\ntext, long", "fruit")
    rows, decided = {a.id: a, b.id: b}, Decisions(tmp_path / "d.jsonl", by="ana")

    def take(
        *cells: tuple[str, str, str], name: str = "in.csv", header: str = "id,text,decision"
    ) -> None:
        with (tmp_path / name).open("w", newline="") as f:
            f.write(header + "\n")
            csv.writer(f).writerows(cells)
        table.import_decisions(tmp_path / name, rows, ["metal", "fruit"], decided)

    good = (a.id, a.text, "accept")
    for bad, words in (
        (
            (b.id, b.text, "frut"),
            ["line 4", "'frut'", "did you mean 'fruit'?", "nothing was imported"],
        ),
        (("0" * 24, b.text, "fruit"), ["line 4", "no row has the id '" + "0" * 24]),
        ((b.id, a.text, "fruit"), ["line 3", "not that of row " + b.id]),
        ((a.id, a.text, "reject"), ["line 3", "another decision on an earlier line"]),
    ):
        with pytest.raises(UserError) as e:
            take(good, bad)
        assert all(w in str(e.value) for w in words) and "\n" not in str(e.value), str(e.value)
    with pytest.raises(UserError, match="no column 'decision'"):
        take((a.id, a.text, "x"), header="id,text,decisions")
    with pytest.raises(UserError, match="does not exist"):
        table.import_decisions(tmp_path / "none.csv", rows, ["metal"], decided)
    assert not decided.path.exists()
    take(good, (b.id, b.text, ""))
    assert set(decided.current()) == {a.id}


def test_a_label_named_accept_can_still_be_said(tmp_path: Path) -> None:
    a = record("some text", "other")
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"id": a.id, "text": a.text, "decision": "label:accept"}) + "\n"
    )
    (choice,) = table.read_choices(tmp_path / "in.jsonl", {a.id: a}, ["accept", "other"])
    assert (choice.choice, choice.label) == ("relabel", "accept")


def test_an_export_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("mine")
    for name, words in (("q.csv", "exists already"), ("q.xlsx", "is not supported")):
        with pytest.raises(UserError, match=words):
            table.export_queue(tmp_path / name, [])
    assert (tmp_path / "q.csv").read_text() == "mine"


# --- the command


def test_the_command_exports_imports_and_says_how_far_one_is(
    where: Place, home: Path, tmp_path: Path, reseed: Command
) -> None:
    at = ("review", where.config, "--curated", where.curated, "--splits", where.splits)
    code, out, err = reseed(*at, "--status", "--json")
    start = last_json(out)
    assert code == 0 and start["reviewed"] == 0 and start["pending"] == start["queue"] >= 5, err
    code, out, err = reseed(*at, "--export", tmp_path / "q.jsonl", "--json")
    assert code == 0 and last_json(out)["exported"] == start["queue"], err
    cells = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    cells[0]["decision"], cells[1]["decision"] = "accept", "reject"
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(c) + "\n" for c in cells))
    code, out, err = reseed(*at, "--import", tmp_path / "q.jsonl", "--by", "Ana", "--json")
    assert code == 0 and (last_json(out)["imported"], last_json(out)["pending"]) == (
        2,
        start["queue"] - 2,
    ), err
    found = current_decisions(Workspace(home).decisions("toy"))
    assert {d.by for d in found.values()} == {"Ana"} and set(found) == {c["id"] for c in cells[:2]}
    code, out, err = reseed(*at, "--export", tmp_path / "rest.csv")
    assert code == 0 and f"{start['queue'] - 2} rows written" in out and "2 rows reviewed" in out
    code, out, err = reseed(*at, "--import", tmp_path / "q.csv")
    assert code == 2 and "does not exist" in err and len(err.strip().splitlines()) == 1
    code, out, err = reseed(*at[:4], "--status")
    assert code == 2 and "--curated and --splits belong together" in err
    code, out, err = reseed(*at, "--status", "--by", " ")
    assert code == 2 and "--by" in err


def test_a_name_finds_what_its_last_retrain_curated(
    where: Place, home: Path, reseed: Command
) -> None:
    code, _, err = reseed("review", "toy", "--status")
    assert code == 2 and "no project 'toy' was retrained" in err and "configs/toy.yaml" in err
    code, _, err = reseed("review", where.config, "--status")
    assert code == 2 and "no rows of 'toy' are curated" in err
    Workspace(home).note_last_retrain("toy", where.data)
    code, out, err = reseed("review", "toy", "--status", "--json")
    assert code == 0 and last_json(out)["project"] == "toy", err


# --- a retrain that waits


def wait(where: Place, home: Path, required: int) -> int:
    from flows.review.session import wait_for_review

    project = where.project.model_copy(update={"review": Review(required_rows=required)})
    return wait_for_review(context_of(project, home), where.data)


def test_a_retrain_from_the_command_line_stops_until_enough_was_reviewed(
    where: Place, home: Path
) -> None:
    workspace = Workspace(home)
    assert wait(where, home, 0) == 0 and not list(workspace.published("review")), (
        "nothing is ranked where nothing is required"
    )
    with pytest.raises(UserError) as e:
        wait(where, home, 2)
    assert str(e.value) == (
        "2 rows must be reviewed (review.required_rows), 0 are: run `reseed review toy`, then this command again"
    )
    (directory,) = workspace.published("review")
    found = doubtful_or_decided(RankResult.load(directory).read(), {})
    decided = Decisions(workspace.decisions("toy"), by="ana")
    decided.decide([found[0].record], "accept")
    with pytest.raises(UserError, match=r"2 rows must be reviewed .* 1 are"):
        wait(where, home, 2)
    decided.decide([found[1].record], "reject")
    assert wait(where, home, 2) == 2
    decided.undo()
    with pytest.raises(UserError, match="1 are"):
        wait(where, home, 2)
    with pytest.raises(UserError, match=f"{len(found)} rows must be reviewed"):
        wait(where, home, 10_000)
    decided.decide([d.record for d in found[1:]], "accept")
    assert wait(where, home, 10_000) == len(found), (
        "where fewer rows are doubtful, all of them are enough"
    )


FLOW = """
from pathlib import Path
from prefect import flow
from flows.review.session import wait_for_review
from tasks.project.reader import load_project
from tasks.workspace import RetrainData
from tests.kit.context import context_of

@flow(name="waits")
def waits(config: str, curated: str, splits: str, home: str) -> int:
    with (Path(home) / "starts").open("a") as f:
        f.write("x")
    data = RetrainData(config=Path(config), splits=Path(splits), curated=Path(curated))
    return wait_for_review(context_of(load_project(Path(config)), Path(home)), data)

if __name__ == "__main__":
    waits.serve(name="toy", pause_on_shutdown=False)
"""


@pytest.mark.slow
def test_a_deployments_run_is_suspended_until_a_person_reviewed(
    tmp_path: Path, encoder: Path, home: Path, prefect_server: str
) -> None:
    """A served deployment and a run that ends its process while it waits."""
    where = place(tmp_path / "place", encoder, required=2)
    script = tmp_path / "waits.py"
    script.write_text(FLOW)
    api = prefect_server
    environment = {
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PYTHONPATH": str(ROOT),
    }
    rows = rank_rows(where.project, where.data, encoder=encoder)
    decided = Decisions(Workspace(home).decisions("toy"), by="ana")
    with running(sys.executable, str(script), **environment):
        parameters = {k: str(getattr(where, k)) for k in ("config", "curated", "splits")} | {
            "home": str(home)
        }
        run = Run.started(api, "waits/toy", parameters)
        run.reaches("Suspended")
        assert (home / "starts").read_text() == "x"
        assert "2 rows must be reviewed (review.required_rows), 0 are" in run.question("review-0")
        assert (
            run.resume(continue_without="perhaps") == "REJECT" and run.state["name"] == "Suspended"
        ), "typed input"
        decided.decide([rows[0].record], "accept")
        assert run.resume(by="ana") == "ACCEPT"  # too early: one of two
        wait_for(lambda: (home / "starts").read_text() == "xx", "the run to start anew")
        run.reaches("Suspended")
        assert "1 are" in run.question("review-1")
        decided.decide([rows[1].record], "reject")
        assert run.resume(by="ana") == "ACCEPT"
        run.reaches("Completed")
        assert (home / "starts").read_text() == "xxx"

        decided.undo()
        run = Run.started(api, "waits/toy", parameters)
        run.reaches("Suspended")
        assert "1 are" in run.question("review-0")
        assert run.resume(by="ana", continue_without=True) == "ACCEPT"
        run.reaches("Completed")
