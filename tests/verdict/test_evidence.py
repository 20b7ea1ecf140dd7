"""The evidence of a verdict: complete, and leading to the same verdict again, or it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.verdict import evidence
from tasks.verdict.decide import RULE_VERSION
from tasks.verdict.evidence import SIDES, VerdictResult, judge
from tasks.verdict.model import Policy, Rule, Verdict
from tasks.workspace import Workspace
from tests.kit.verdicts import LABELS, TRUE, answered, question, verdict_on


@pytest.fixture
def judged(tmp_path: Path) -> VerdictResult:
    mine, theirs = (
        answered(tmp_path, "challenger", wrong=6),
        answered(tmp_path, "opponent", wrong=40),
    )
    return judge(mine, theirs, question(), workspace=Workspace(tmp_path))


def test_the_verdict_is_the_judges(judged: VerdictResult) -> None:
    wrong = [LABELS[(LABELS.index(t) + 1) % 3] for t in TRUE]
    how: dict[str, Any] = {"labels": LABELS, "opponent_name": "champion version 1", "samples": 400}
    plain = verdict_on(TRUE, wrong[:6] + TRUE[6:], wrong[:40] + TRUE[40:], **how)
    assert judged.verdict == plain and plain.decision == "promote"
    assert Verdict.model_validate_json(plain.model_dump_json()) == plain


def test_it_follows_again_byte_for_byte(judged: VerdictResult) -> None:
    found = evidence.verify(judged.directory, digest=judged.digest)
    assert found.same and found.libraries == {} and found.rule_version == RULE_VERSION
    assert found.recorded == found.again == judged.verdict and found.evidence == judged.digest
    assert found.recorded.decision == "promote" and found.recorded.rows == 120


def test_another_digest_is_other_evidence(judged: VerdictResult) -> None:
    with pytest.raises(CorruptDirectory, match="not the evidence that was recorded"):
        evidence.verify(judged.directory, digest="0" * 64)


@pytest.mark.parametrize(
    "name", ["challenger.jsonl", "opponent.jsonl", "settings.json", "verdict.json"]
)
def test_a_changed_file_is_seen(name: str, judged: VerdictResult) -> None:
    path = judged.directory / name
    path.write_text(path.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    with pytest.raises(CorruptDirectory, match=name):
        evidence.verify(judged.directory)


def test_it_names_the_models_the_test_rows_and_the_libraries_under_its_seal(tmp_path: Path) -> None:
    read = [{"bundle": "a" * 64, "sealed": "c" * 64}, {"baseline": "majority", "sealed": "c" * 64}]
    mine, theirs = (
        answered(tmp_path, name, wrong=6, read=own) for name, own in zip(SIDES, read, strict=True)
    )
    judged = judge(mine, theirs, question(), workspace=Workspace(tmp_path))
    assert evidence.verify(judged.directory).read == dict(zip(SIDES, read, strict=True))
    path = judged.directory / "settings.json"
    settings = atomic.read_json(path)
    assert set(settings["libraries"]) == {"reseed", "numpy", "scipy", "scikit-learn"}
    assert settings["rule_version"] == RULE_VERSION
    path.write_text(path.read_text(encoding="utf-8").replace("a" * 64, "b" * 64), encoding="utf-8")
    with pytest.raises(CorruptDirectory, match=r"settings\.json"):
        evidence.verify(judged.directory)


def test_that_another_library_counted_is_said(judged: VerdictResult) -> None:
    settings = atomic.read_json(judged.directory / "settings.json")
    settings["libraries"]["scipy"] = "0.1"
    atomic.write_json(judged.directory / "settings.json", settings)
    atomic.seal(judged.directory)
    found = evidence.verify(judged.directory)
    assert found.same and found.libraries == {"scipy": "0.1"}


def test_another_version_of_the_rule_is_not_decided_again(judged: VerdictResult) -> None:
    settings = atomic.read_json(judged.directory / "settings.json")
    atomic.write_json(
        judged.directory / "settings.json", settings | {"rule_version": RULE_VERSION + 1}
    )
    atomic.seal(judged.directory)
    found = evidence.verify(judged.directory)
    assert found.same is None and found.again is None and found.recorded == judged.verdict
    assert found.rule_version == RULE_VERSION + 1


@pytest.mark.parametrize(
    ("name", "key"),
    [("settings.json", "read"), ("verdict.json", "decision"), ("opponent.jsonl", "predicted")],
)
def test_files_of_another_form_are_no_evidence(name: str, key: str, judged: VerdictResult) -> None:
    path = judged.directory / name
    path.write_text(
        path.read_text(encoding="utf-8").replace(f'"{key}"', '"other"', 1), encoding="utf-8"
    )
    (judged.directory / atomic.MANIFEST).unlink()
    atomic.seal(judged.directory)
    with pytest.raises(CorruptDirectory, match=f"is not the evidence of a verdict: .*{key}"):
        evidence.verify(judged.directory)


def test_a_verdict_that_does_not_follow_is_seen(judged: VerdictResult) -> None:
    """Sealed again, so that the manifest fits it."""
    path = judged.directory / "verdict.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"promote"', '"keep"'), encoding="utf-8"
    )
    (judged.directory / atomic.MANIFEST).unlink()
    atomic.seal(judged.directory)
    found = evidence.verify(judged.directory)
    assert found.same is False and found.recorded.decision == "keep"
    assert found.again is not None and found.again.decision == "promote"


def test_answers_to_other_rows_decide_nothing(tmp_path: Path) -> None:
    mine = answered(tmp_path, "challenger", wrong=0)
    theirs = answered(tmp_path, "opponent", wrong=40, true=TRUE[::-1])
    verdict = judge(mine, theirs, question(), workspace=Workspace(tmp_path)).verdict
    assert (
        verdict.decision == "inconclusive" and "answered different test rows" in verdict.reasons[0]
    )


def test_groups_slices_and_measures_are_in_the_evidence(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "group": lambda i: f"{i // 3:024x}" if i < 90 else None,
        "slices": lambda i: [
            "length=short",
            *(["late"] if i >= 60 else []),
            *(["few"] if i < 9 else []),
        ],
        "scores": lambda i: [0.2, 0.3, 0.5],
    }
    mine = answered(tmp_path, "challenger", wrong=6, **more)
    theirs = answered(tmp_path, "opponent", wrong=60, **more)
    policy = Policy(slice_margin=0.1, limits={"ece": 0.05})
    asked = question(policy=policy, slices=["late", "few"], measures={"ece": (0.1, None)})
    judged = judge(mine, theirs, asked, workspace=Workspace(tmp_path))
    verdict = judged.verdict
    assert (
        verdict.groups == 30 + 30
        and verdict.slices == {"late": 0.0}
        and verdict.measures == {"ece": (0.1, None)}
    )
    assert (
        verdict.decision == "inconclusive"
        and "expected calibration error is unknown" in verdict.reasons[1]
    )
    assert evidence.verify(judged.directory).same


def test_the_answers_of_several_seeds_are_in_the_evidence(tmp_path: Path) -> None:
    mine, theirs = (
        answered(tmp_path, "challenger", wrong=6),
        answered(tmp_path, "opponent", wrong=40),
    )
    seeds = [answered(tmp_path, f"seed {n}", wrong=n) for n in (6, 20, 30)]
    judged = judge(mine, theirs, question(), seeds=seeds, workspace=Workspace(tmp_path))
    recipe, gain = judged.verdict.recipe, judged.verdict.gain
    assert recipe is not None and gain is not None and recipe.seeds == 3 and 0 < recipe.gain < gain
    assert evidence.verify(judged.directory).same
    other = answered(tmp_path, "seed of other rows", wrong=0, true=TRUE[::-1])
    odd = judge(mine, theirs, question(), seeds=[*seeds, other], workspace=Workspace(tmp_path))
    assert odd.verdict.decision == "inconclusive"


def test_what_has_no_groups_slices_or_measures_says_nothing_of_them(judged: VerdictResult) -> None:
    recorded = atomic.read_json(judged.directory / "verdict.json")
    assert [recorded[name] for name in ("groups", "slices", "measures", "recipe")] == [None] * 4


@pytest.mark.parametrize("side", ["challenger", "opponent"])
@pytest.mark.parametrize("rule", ["bounds", "point"])
def test_probabilities_that_are_no_numbers_decide_nothing(
    side: str, rule: Rule, tmp_path: Path
) -> None:
    odd: dict[str, Any] = {
        "broken": lambda i: i == 7,
        "scores": lambda i: None if i == 7 else [0.2, 0.3, 0.5],
    }
    mine = answered(tmp_path, "challenger", wrong=0, **odd if side == "challenger" else {})
    theirs = answered(tmp_path, "opponent", wrong=90, **odd if side == "opponent" else {})
    verdict = judge(
        mine, theirs, question(policy=Policy(rule=rule)), workspace=Workspace(tmp_path)
    ).verdict
    assert (
        verdict.decision == "inconclusive"
        and f"1 of 120 answers of the {side}" in verdict.reasons[0]
    )


def test_the_same_test_rows_are_known_whatever_stands_beside_them(tmp_path: Path) -> None:
    plain = answered(tmp_path, "plain", wrong=3)
    beside = answered(
        tmp_path, "beside", wrong=9, slices=lambda i: ["late"], group=lambda i: f"{i:024x}"
    )
    other = answered(
        tmp_path, "other", wrong=3, true=[*TRUE[:-1], LABELS[(LABELS.index(TRUE[-1]) + 1) % 3]]
    )
    assert (
        evidence.rows_digest(plain) == evidence.rows_digest(beside) != evidence.rows_digest(other)
    )
