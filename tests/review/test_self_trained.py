"""Real text that a model labelled, as a person looks at it: in the queue, through a spreadsheet, and in the next retrain."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tasks.augment.mixtures import REAL, select_mixture
from tasks.augment.self_training import self_train
from tasks.curate.stage import CurateResult, curate
from tasks.decisions import Decisions
from tasks.evaluate.label_first import label_first
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import Record, Rejected, read_rejected
from tasks.review.queue import doubtful_or_decided, rank_rows
from tasks.stage import Published
from tasks.train.stage import TrainResult
from tasks.workspace import Workspace
from tests.conftest import Command, last_json
from tests.kit import toy
from tests.kit.context import bundle_ref
from tests.kit.review import real, row
from tests.kit.stages import Data, filled

WHO = [*toy.LABELS]


@dataclass
class Place:
    """A retrain's rows: two of the self-trained ones have a wrong label, and some of the unlabelled ones got none."""

    config: Path
    project: Project
    data: Data
    unlabelled: list[Record]
    self_trained: list[Record]
    wrong: list[Record]

    def curated(self, home: Path) -> CurateResult:
        return curate(
            self.project,
            rounds=[self.data.round],
            splits=self.data.splits,
            workspace=Workspace(home),
        )


def rejected_by(curated: CurateResult) -> list[Rejected]:
    return read_rejected(curated.directory / "rejected.jsonl")


@pytest.fixture
def where(tmp_path: Path, home: Path, encoder: Path) -> Place:
    config = toy.project(
        tmp_path / "project",
        endpoint="http://127.0.0.1:9/v1",
        encoder=encoder,
        self_training={"confidence": 0.0},
    )
    texts = {k: [replace(real(k, i, "unlabelled"), label=None) for i in range(12)] for k in WHO}
    self_trained = [replace(r, label=k, source="harvested") for k in WHO for r in texts[k][:8]]
    for i, label in ((0, "fruit"), (8, "bird")):
        assert self_trained[i].label != label
        self_trained[i] = replace(self_trained[i], label=label)
    written = [replace(row(k, i), label=k) for k in WHO for i in range(10)]
    data = Data(
        home,
        written=written,
        kept=written,
        dev=[real(k, i, "dev") for k in WHO for i in range(6)],
        test=[real(k, i, "test") for k in WHO for i in range(6)],
        unlabelled=[r for k in WHO for r in texts[k]],
        self_trained=self_trained,
    )
    Workspace(home).note_last_retrain("toy", data.data.model_copy(update={"config": config}))
    rows = [r for k in WHO for r in texts[k]]
    return Place(
        config, load_project(config), data, rows, self_trained, [self_trained[0], self_trained[8]]
    )


def decisions(home: Path, by: str = "ana") -> Decisions:
    return Decisions(Workspace(home).decisions("toy"), by=by)


def test_doubtful_ones_are_in_the_queue(
    where: Place, encoder: Path, home: Path, reseed: Command
) -> None:
    ranked = rank_rows(where.project, where.data.data, encoder=encoder)
    assert {r.id for r in ranked} == {
        r.id for r in [*where.self_trained, *where.data.curated.read()]
    }
    first = doubtful_or_decided(ranked, {})
    assert {r.id for r in where.wrong} <= {r.id for r in first} and first[
        0
    ].record.source == "harvested"
    code, out, err = reseed("review", "toy", "--status", "--json")
    assert code == 0 and last_json(out)["queue"] == len(first), err


def test_what_was_decided_about_them_enters_the_next_retrain(
    where: Place, home: Path, small_bundle: Path
) -> None:
    right, thrown = where.wrong
    accepted = where.self_trained[3]
    assert not [r for r in where.curated(home).read() if r.source == "reviewed"]
    decided = decisions(home)
    decided.decide([right], "relabel", "metal" if right.label != "metal" else "fruit")
    decided.decide([thrown], "reject")
    decided.decide([accepted], "accept")
    curated = where.curated(home)
    kept = curated.read()
    found = {r.id: r for r in kept if r.source == "reviewed"}
    assert found.keys() == {right.id, accepted.id} and found[accepted.id].label == accepted.label
    assert found[right.id].label != right.label and found[right.id].text == right.text
    was = {"label": right.label, "source": "unlabelled", "check": None}
    assert found[right.id].lineage["reviewed"]["was"] == was and found[right.id].is_real
    assert {r.id for r in select_mixture(REAL, kept)} == found.keys(), (
        "a person's labels of real text are real rows"
    )
    (out,) = [r for r in rejected_by(curated) if r.check == "reviewed_out"]
    assert (
        out.record.id == thrown.id
        and out.record.label == thrown.label
        and "rejected by ana" in out.reason
    )

    published = Published("train", small_bundle.parent, "k", "d", 0.0, found=True)
    result = self_train(
        where.project,
        training=curated,
        current=curated,
        trained=filled(TrainResult, bundle="x").at(published),
        splits=where.data.splits,
        number=1,
        workspace=Workspace(home),
    )
    assert result.looked_at == len(where.unlabelled) - 3, (
        "they are not given a label by a model again"
    )
    again = {r.id for r in result.read() if r.source == "harvested"}
    assert not again & {right.id, thrown.id, accepted.id}
    for _ in range(3):
        decided.undo()
    assert not [r for r in where.curated(home).read() if r.source == "reviewed"], (
        "taken back is as if it never was"
    )


def test_what_is_to_be_labelled_first_comes_back_labelled(
    where: Place, home: Path, small_bundle: Path, tmp_path: Path, reseed: Command
) -> None:
    listed = label_first(
        where.project,
        bundle_ref(small_bundle),
        None,
        splits=where.data.splits,
        workspace=Workspace(home),
    )
    rows = [
        json.loads(line)
        for line in (listed.directory / "label_first.jsonl").read_text().splitlines()
    ]
    new = [r for r in rows if r["id"] not in {h.id for h in where.self_trained}]
    copy = tmp_path / "mine.jsonl"

    def taken(**said: str) -> tuple[int, str, str]:
        decided = [r | {"decision": said.get(f"row{i}", "")} for i, r in enumerate(new)]
        copy.write_text("".join(json.dumps(r) + "\n" for r in decided))
        return reseed("review", "toy", "--import", copy, "--by", "Ana", "--json")

    code, _, err = taken(row0="accept")
    assert code == 2 and "no label to accept" in err and ":1" in err.replace("line ", ":"), err
    code, out, err = taken(row0="bird", row1="reject")
    assert code == 0 and last_json(out)["imported"] == 2, err
    curated = where.curated(home)
    (labelled,) = [r for r in curated.read() if r.source == "reviewed"]
    assert (labelled.id, labelled.label, labelled.is_real) == (new[0]["id"], "bird", True)
    assert labelled.lineage["reviewed"]["was"]["label"] is None and not rejected_by(curated)


def test_undo_takes_back_ones_own_alone(where: Place, home: Path) -> None:
    ana, ben = decisions(home), decisions(home, "ben")
    first, second = where.self_trained[:2]
    ana.decide([first], "reject")
    ben.decide([second], "accept")
    assert [d.id for d in ana.undo()] == [first.id] and ana.undo() == []
    assert {d.by for d in ana.current().values()} == {"ben"}
    assert [d.id for d in ben.undo()] == [second.id] and not ben.current()


def test_a_text_that_cleaning_changes_stays_reviewed(
    tmp_path: Path, home: Path, encoder: Path
) -> None:
    """Its id in the training rows is another one then, and no decision names it."""
    config = toy.project(tmp_path / "project", endpoint="http://127.0.0.1:9/v1", encoder=encoder)
    odd = Record.create(
        f"\u200b{toy.sentence(toy.REAL['metal'], random.Random(1))}\u202e indeed",
        None,
        "unlabelled",
    )
    written = [row(k, i) for k in WHO for i in range(6)]
    data = Data(
        home, written=written, kept=written, unlabelled=[odd], dev=[real(k, 0, "dev") for k in WHO]
    )
    decisions(home).decide([replace(odd, label="bird")], "relabel", "metal")
    curated = curate(
        load_project(config), rounds=[data.round], splits=data.splits, workspace=Workspace(home)
    )
    (found,) = [r for r in curated.read() if r.source == "reviewed"]
    assert found.label == "metal" and found.id != odd.id and found.is_real
