"""Real text that a model labelled, as a person looks at it: in the queue, through a spreadsheet, and in the next retrain."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import atomic
from tasks.augment.mixtures import REAL, of_rows
from tasks.augment.self_training import harvest
from tasks.curate.stage import curate
from tasks.decisions import Decisions
from tasks.evaluate.label_first import label_first
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import Record, Rejected, read_records, read_rejected
from tasks.review.queue import rank, waiting
from tasks.stage import Stage
from tests.conftest import Command, last_json
from tests.kit import toy
from tests.kit.review import real, row
from tests.kit.stages import Data

WHO = [*toy.LABELS]


@dataclass
class Place:
    """A retrain's rows: two of the harvested ones have a wrong label, and of the unlabelled some were not harvested."""

    config: Path
    project: Project
    data: Data
    unlabelled: list[Record]
    harvested: list[Record]
    wrong: list[Record]

    def curated(self, home: Path) -> Stage:
        return curate(
            self.project, rounds=[self.data.round], splits=self.data.splits, beside=self.config.parent, home=home
        )


def kept_by(stage: Stage) -> list[Record]:
    return read_records(stage.directory / "kept.jsonl")


def rejected_by(stage: Stage) -> list[Rejected]:
    return read_rejected(stage.directory / "rejected.jsonl")


@pytest.fixture
def where(tmp_path: Path, home: Path, encoder: Path) -> Place:
    config = toy.project(
        tmp_path / "project", endpoint="http://127.0.0.1:9/v1", encoder=encoder, harvest={"confidence": 0.0}
    )
    texts = {k: [real(k, i, "unlabelled").but(label=None) for i in range(12)] for k in WHO}
    harvested = [r.but(label=k, source="harvested") for k in WHO for r in texts[k][:8]]
    for i, label in ((0, "fruit"), (8, "bird")):
        assert harvested[i].label != label
        harvested[i] = harvested[i].but(label=label)
    written = [row(k, i).but(label=k) for k in WHO for i in range(10)]
    data = Data(
        home,
        written=written,
        kept=written,
        dev=[real(k, i, "dev") for k in WHO for i in range(6)],
        test=[real(k, i, "test") for k in WHO for i in range(6)],
        unlabelled=[r for k in WHO for r in texts[k]],
        harvested=harvested,
    )
    assert data.harvested is not None
    places = {name: getattr(data, name).path for name in ("curated", "splits", "harvested")}
    atomic.write_json(
        home / "projects" / "toy.review.json", places | {"rounds": [data.round.path], "config": str(config)}
    )
    rows = [r for k in WHO for r in texts[k]]
    return Place(config, load_project(config), data, rows, harvested, [harvested[0], harvested[8]])


def decisions(home: Path, by: str = "ana") -> Decisions:
    return Decisions(home / "reviews" / "toy.jsonl", by=by)


def test_doubtful_ones_are_in_the_queue(where: Place, encoder: Path, home: Path, reseed: Command) -> None:
    d = where.data
    assert d.harvested is not None
    places = {"curated": d.curated.directory, "splits": d.splits.directory, "harvested": d.harvested.directory}
    ranked = rank(where.project, encoder=encoder, **places)
    assert {r.id for r in ranked} == {
        r.id for r in [*where.harvested, *read_records(d.curated.directory / "kept.jsonl")]
    }
    first = waiting(ranked, {})
    assert {r.id for r in where.wrong} <= {r.id for r in first} and first[0].record.source == "harvested"
    code, out, err = reseed("review", "toy", "--status", "--json")
    assert code == 0 and last_json(out)["queue"] == len(first), err


def test_what_was_decided_about_them_enters_the_next_retrain(where: Place, home: Path, small_bundle: Path) -> None:
    right, thrown = where.wrong
    accepted = where.harvested[3]
    assert not [r for r in kept_by(where.curated(home)) if r.source == "reviewed"]
    decided = decisions(home)
    decided.decide([right], "relabel", "metal" if right.label != "metal" else "fruit")
    decided.decide([thrown], "reject")
    decided.decide([accepted], "accept")
    curated = where.curated(home)
    kept = kept_by(curated)
    found = {r.id: r for r in kept if r.source == "reviewed"}
    assert found.keys() == {right.id, accepted.id} and found[accepted.id].label == accepted.label
    assert found[right.id].label != right.label and found[right.id].text == right.text
    was = {"label": right.label, "source": "unlabelled", "check": None}
    assert found[right.id].lineage["reviewed"]["was"] == was and found[right.id].is_real
    assert {r.id for r in of_rows(REAL, kept)} == found.keys(), "a person's labels of real text are real rows"
    (out,) = [r for r in rejected_by(curated) if r.check == "reviewed_out"]
    assert out.record.id == thrown.id and out.record.label == thrown.label and "rejected by ana" in out.reason

    trained: Any = SimpleNamespace(directory=small_bundle.parent, counts={"bundle": "x"})
    stage = harvest(
        where.project,
        training=curated,
        current=curated,
        trained=trained,
        splits=where.data.splits,
        number=1,
        beside=where.config.parent,
        home=home,
    )
    assert stage.counts["looked_at"] == len(where.unlabelled) - 3, "they are not given a label by a model again"
    again = {r.id for r in read_records(stage.directory / "kept.jsonl") if r.source == "harvested"}
    assert not again & {right.id, thrown.id, accepted.id}
    for _ in range(3):
        decided.undo()
    assert not [r for r in kept_by(where.curated(home)) if r.source == "reviewed"], "taken back is as if it never was"


def test_what_is_to_be_labelled_first_comes_back_labelled(
    where: Place, home: Path, small_bundle: Path, tmp_path: Path, reseed: Command
) -> None:
    digest = atomic.verify(small_bundle)["digest"]
    listed = label_first(where.project, (small_bundle, digest), None, splits=where.data.splits, home=home)
    assert listed is not None
    rows = [json.loads(line) for line in (listed.directory / "label_first.jsonl").read_text().splitlines()]
    new = [r for r in rows if r["id"] not in {h.id for h in where.harvested}]
    copy = tmp_path / "mine.jsonl"

    def taken(**said: str) -> tuple[int, str, str]:
        filled = [r | {"decision": said.get(f"row{i}", "")} for i, r in enumerate(new)]
        copy.write_text("".join(json.dumps(r) + "\n" for r in filled))
        return reseed("review", "toy", "--import", copy, "--by", "Ana", "--json")

    code, _, err = taken(row0="accept")
    assert code == 2 and "no label that could be accepted" in err and ":1" in err.replace("line ", ":"), err
    code, out, err = taken(row0="bird", row1="reject")
    assert code == 0 and last_json(out)["imported"] == 2, err
    curated = where.curated(home)
    (labelled,) = [r for r in kept_by(curated) if r.source == "reviewed"]
    assert (labelled.id, labelled.label, labelled.is_real) == (new[0]["id"], "bird", True)
    assert labelled.lineage["reviewed"]["was"]["label"] is None and not rejected_by(curated)


def test_undo_takes_back_ones_own_alone(where: Place, home: Path) -> None:
    ana, ben = decisions(home), decisions(home, "ben")
    first, second = where.harvested[:2]
    ana.decide([first], "reject")
    ben.decide([second], "accept")
    assert [d.id for d in ana.undo()] == [first.id] and ana.undo() == []
    assert {d.by for d in ana.current().values()} == {"ben"}
    assert [d.id for d in ben.undo()] == [second.id] and not ben.current()


def test_a_text_that_cleaning_changes_stays_reviewed(tmp_path: Path, home: Path, encoder: Path) -> None:
    """Its id in the training rows is another one then, and no decision names it."""
    config = toy.project(tmp_path / "project", endpoint="http://127.0.0.1:9/v1", encoder=encoder)
    odd = Record.of(f"\u200b{toy.sentence(toy.REAL['metal'], random.Random(1))}\u202e indeed", None, "unlabelled")
    written = [row(k, i) for k in WHO for i in range(6)]
    data = Data(home, written=written, kept=written, unlabelled=[odd], dev=[real(k, 0, "dev") for k in WHO])
    decisions(home).decide([odd.but(label="bird")], "relabel", "metal")
    stage = curate(load_project(config), rounds=[data.round], splits=data.splits, beside=config.parent, home=home)
    (found,) = [r for r in kept_by(stage) if r.source == "reviewed"]
    assert found.label == "metal" and found.id != odd.id and found.is_real
