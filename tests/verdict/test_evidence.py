"""The evidence of a verdict: complete, and leading to the same verdict again, or it says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.stage import Stage, stage
from tasks.verdict import evidence
from tasks.verdict.decide import Verdict, decide
from tests.kit import toy

LABELS = list(toy.LABELS)
TRUE = [LABELS[i % 3] for i in range(120)]
SETTINGS: dict[str, Any] = {
    "labels": LABELS,
    "opponent_name": "champion version 1",
    "min_gain": 0.0,
    "confidence": 0.95,
    "samples": 400,
    "seed": 0,
}


def answered(
    home: Path, name: str, *, wrong: int, true: list[str] = TRUE, read: dict[str, str] | None = None, **more: Any
) -> Stage:
    """An evaluation whose first `wrong` answers are wrong. `read` is what it read; `more` are other fields, made of the row's
    number."""

    def build(out: Path, work: Path) -> dict[str, Any]:
        with (out / "predictions.jsonl").open("w", encoding="utf-8") as f:
            for i, label in enumerate(true):
                said = LABELS[(LABELS.index(label) + 1) % 3] if i < wrong else label
                row = {"id": f"row {i}", "label": label, "predicted": said}
                f.write(json.dumps(row | {k: make(i) for k, make in more.items()}) + "\n")
        return {}

    params = {"name": name, "wrong": wrong, "more": sorted(more)}
    return stage(home, "evaluate", version=1, params=params, inputs=read or {}, build=build)


@pytest.fixture
def judged(tmp_path: Path) -> Stage:
    mine, theirs = answered(tmp_path, "challenger", wrong=6), answered(tmp_path, "opponent", wrong=40)
    return evidence.judged(mine, theirs, settings=SETTINGS, home=tmp_path)


def test_the_verdict_is_the_judges(judged: Stage) -> None:
    wrong = [LABELS[(LABELS.index(t) + 1) % 3] for t in TRUE]
    plain = decide(TRUE, wrong[:6] + TRUE[6:], wrong[:40] + TRUE[40:], **SETTINGS)
    assert Verdict.from_json(judged.counts) == plain and plain.decision == "promote"
    assert Verdict.from_json(json.loads(json.dumps(plain.to_json()))) == plain


def test_it_follows_again_byte_for_byte(judged: Stage) -> None:
    found = evidence.verify(judged.directory, digest=judged.digest)
    assert found["same"] and found["code"] == "the same" and found["verdict"] == "promote" and found["rows"] == 120


def test_another_digest_is_other_evidence(judged: Stage) -> None:
    with pytest.raises(CorruptDirectory, match="not the evidence that was recorded"):
        evidence.verify(judged.directory, digest="0" * 64)


@pytest.mark.parametrize("name", ["challenger.jsonl", "opponent.jsonl", "settings.json", "verdict.json"])
def test_a_changed_file_is_seen(name: str, judged: Stage) -> None:
    path = judged.directory / name
    path.write_text(path.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    with pytest.raises(CorruptDirectory, match=name):
        evidence.verify(judged.directory)


def test_it_names_the_models_the_test_rows_and_the_libraries_under_its_seal(tmp_path: Path) -> None:
    told = [{"bundle": "a" * 64, "sealed": "c" * 64}, {"baseline": "majority", "sealed": "c" * 64}]
    sides = [answered(tmp_path, name, wrong=6, read=read) for name, read in zip(evidence.SIDES, told, strict=True)]
    judged = evidence.judged(sides[0], sides[1], settings=SETTINGS, home=tmp_path)
    assert evidence.verify(judged.directory)["read"] == dict(zip(evidence.SIDES, told, strict=True))
    path = judged.directory / "settings.json"
    assert set(atomic.read_json(path)["code"]) == {"reseed", "judge", *evidence.LIBRARIES}
    path.write_text(path.read_text(encoding="utf-8").replace("a" * 64, "b" * 64), encoding="utf-8")
    with pytest.raises(CorruptDirectory, match=r"settings\.json"):
        evidence.verify(judged.directory)


def test_that_another_library_counted_is_said(judged: Stage) -> None:
    settings = atomic.read_json(judged.directory / "settings.json")
    settings["code"]["scipy"] = "0.1"
    atomic.write_json(judged.directory / "settings.json", settings)
    atomic.seal(judged.directory)
    found = evidence.verify(judged.directory)
    assert found["same"] and found["code"] == "other: judged by scipy 0.1"


def test_evidence_of_an_older_form_is_verified_and_names_nothing(judged: Stage) -> None:
    settings = atomic.read_json(judged.directory / "settings.json")
    settings.pop("read")
    settings["code"] = {key: settings["code"][key] for key in ("reseed", "judge")}
    atomic.write_json(judged.directory / "settings.json", settings)
    atomic.seal(judged.directory)
    found = evidence.verify(judged.directory)
    assert found["same"] and found["code"] == "the same" and found["read"] is None


def test_a_verdict_that_does_not_follow_is_seen(judged: Stage) -> None:
    """As an older judge may have left it, sealed and all."""
    path = judged.directory / "verdict.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"promote"', '"keep"'), encoding="utf-8")
    (judged.directory / atomic.MANIFEST).unlink()
    atomic.seal(judged.directory)
    found = evidence.verify(judged.directory)
    assert not found["same"] and found["recorded"]["decision"] == "keep" and found["again"]["decision"] == "promote"


def test_answers_to_other_rows_decide_nothing(tmp_path: Path) -> None:
    mine = answered(tmp_path, "challenger", wrong=0)
    theirs = answered(tmp_path, "opponent", wrong=40, true=TRUE[::-1])
    verdict = Verdict.from_json(evidence.judged(mine, theirs, settings=SETTINGS, home=tmp_path).counts)
    assert verdict.decision == "inconclusive" and "did not answer the same rows" in verdict.reasons[0]


def test_groups_slices_and_measures_are_in_the_evidence(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "group": lambda i: f"{i // 3:024x}" if i < 90 else None,
        "slices": lambda i: ["length=short", *(["late"] if i >= 60 else []), *(["few"] if i < 9 else [])],
        "scores": lambda i: [0.2, 0.3, 0.5],
    }
    mine = answered(tmp_path, "challenger", wrong=6, **more)
    theirs = answered(tmp_path, "opponent", wrong=60, **more)
    limits = {"slices": ["late", "few"], "slice_margin": 0.1, "measures": {"ece": [0.1, None]}, "limits": {"ece": 0.05}}
    judged = evidence.judged(mine, theirs, settings=SETTINGS | limits, home=tmp_path)
    verdict = Verdict.from_json(judged.counts)
    assert verdict.groups == 30 + 30 and verdict.slices == {"late": 0.0} and verdict.measures == {"ece": [0.1, None]}
    assert verdict.decision == "inconclusive" and "expected calibration error is not known" in verdict.reasons[1]
    assert evidence.verify(judged.directory)["same"]


def test_the_answers_of_several_seeds_are_in_the_evidence(tmp_path: Path) -> None:
    mine, theirs = answered(tmp_path, "challenger", wrong=6), answered(tmp_path, "opponent", wrong=40)
    seeds = [answered(tmp_path, f"seed {n}", wrong=n) for n in (6, 20, 30)]
    judged = evidence.judged(mine, theirs, settings=SETTINGS, seeds=seeds, home=tmp_path)
    assert judged.counts["recipe"]["seeds"] == 3 and 0 < judged.counts["recipe"]["gain"] < judged.counts["gain"]
    assert evidence.verify(judged.directory)["same"]
    other = answered(tmp_path, "seed of other rows", wrong=0, true=TRUE[::-1])
    odd = evidence.judged(mine, theirs, settings=SETTINGS, seeds=[*seeds, other], home=tmp_path)
    assert odd.counts["decision"] == "inconclusive"


def test_what_has_no_groups_slices_or_measures_says_nothing_of_them(judged: Stage) -> None:
    assert not {"groups", "slices", "measures", "recipe"} & set(
        json.loads((judged.directory / "verdict.json").read_text())
    )


@pytest.mark.parametrize("side", ["challenger", "opponent"])
@pytest.mark.parametrize("rule", ["bounds", "point"])
def test_probabilities_that_are_no_numbers_decide_nothing(side: str, rule: str, tmp_path: Path) -> None:
    odd: dict[str, Any] = {"scores": lambda i: None if i == 7 else [0.2, 0.3, 0.5]}
    mine = answered(tmp_path, "challenger", wrong=0, **odd if side == "challenger" else {})
    theirs = answered(tmp_path, "opponent", wrong=90, **odd if side == "opponent" else {})
    verdict = Verdict.from_json(evidence.judged(mine, theirs, settings=SETTINGS | {"rule": rule}, home=tmp_path).counts)
    assert verdict.decision == "inconclusive" and f"1 of 120 answers of the {side}" in verdict.reasons[0]


def test_the_same_test_rows_are_known_whatever_stands_beside_them(tmp_path: Path) -> None:
    plain = answered(tmp_path, "plain", wrong=3)
    beside = answered(tmp_path, "beside", wrong=9, place=lambda i: f"rows.csv:{i}")
    other = answered(tmp_path, "other", wrong=3, true=[*TRUE[:-1], LABELS[(LABELS.index(TRUE[-1]) + 1) % 3]])
    assert evidence.rows_digest(plain) == evidence.rows_digest(beside) != evidence.rows_digest(other)
