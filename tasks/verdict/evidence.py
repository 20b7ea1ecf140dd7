"""The evidence of a verdict: both models' answers, the settings, and the verdict that follows from them.

Anyone who has the directory can reach the verdict again, byte for byte: it is decided from these files
alone. The settings name the version of the rule, so a later version of the code that has the same rule
verifies it too.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from tasks import atomic
from tasks.atomic import CorruptDirectory, digest_of
from tasks.evaluate.score import PREDICTIONS, ScoredRow, ScoreResult, read_answers
from tasks.figures import Figures
from tasks.stage import Metrics, StageResult, run_stage
from tasks.verdict.decide import (
    RULE_VERSION,
    Comparison,
    Policy,
    Resampling,
    Verdict,
    decide,
    unsure,
)
from tasks.workspace import Workspace

VERSION = 5
LIBRARIES = ("reseed", "numpy", "scipy", "scikit-learn")  # whose arithmetic the verdict rests on
VERDICT, SETTINGS, SIDES, SEED = (
    "verdict.json",
    "settings.json",
    ("challenger", "opponent"),
    "seed_",
)


class Question(Figures):
    """What is asked about two evaluations of the same test rows.

    `use` is the number of this verdict on the test set; `slices` names the slices that are judged, whose
    rows the answers tell; `measures` are both models' figures of what is limited, challenger first.
    """

    labels: list[str]
    opponent_name: str
    policy: Policy
    use: int = 1
    resampling: Resampling
    slices: list[str]
    measures: dict[str, tuple[float | None, float | None]]


class Settings(Figures):
    """How a verdict was reached: the question, the version of the rule, and the libraries that counted.

    `read` has the digests of what each evaluation read: its model and the sealed test rows.
    """

    question: Question
    rule_version: int
    libraries: dict[str, str]
    read: dict[str, dict[str, str]]


class VerdictResult(StageResult):
    """The verdict on a challenger."""

    verdict: Verdict

    def metrics(self) -> Metrics:
        return verdict_metrics(self.verdict)

    def artifacts(self) -> list[Path]:
        return sorted(self.directory.iterdir())


def verdict_metrics(verdict: Verdict) -> Metrics:
    """The gain and its bounds, for MLflow."""
    gain = {"gain": verdict.gain, "lower": verdict.lower, "upper": verdict.upper}
    return {f"verdict.{name}": value for name, value in gain.items() if value is not None}


def judge(
    challenger: ScoreResult,
    opponent: ScoreResult,
    question: Question,
    *,
    workspace: Workspace,
    seeds: Sequence[ScoreResult] = (),
) -> VerdictResult:
    """The verdict, with its evidence. `seeds` are the evaluations of the recipe's models, one per seed."""
    sides = dict(zip(SIDES, (challenger, opponent), strict=True))
    sides |= {f"{SEED}{number:03}": score for number, score in enumerate(seeds, 1)}
    read = {
        name: atomic.read_json(s.directory / atomic.MANIFEST)["inputs"] for name, s in sides.items()
    }
    settings = Settings(
        question=question, rule_version=RULE_VERSION, libraries=library_versions(), read=read
    )

    def build(out: Path, scratch: Path) -> VerdictResult:
        for name, scored in sides.items():
            shutil.copyfile(scored.directory / PREDICTIONS, out / f"{name}.jsonl")
        atomic.write_json(out / SETTINGS, settings.model_dump(mode="json"))
        verdict = decide_again(out)
        (out / VERDICT).write_bytes(_bytes(verdict))
        return VerdictResult(verdict=verdict)

    return run_stage(
        VerdictResult,
        "verdict",
        workspace=workspace,
        version=VERSION,
        params=settings.model_dump(mode="json"),
        inputs={name: score.digest for name, score in sides.items()},
        build=build,
    )


def rows_digest(scored: ScoreResult) -> str:
    """The digest of the test rows that were answered, by id and label, whatever their order and other columns."""
    return digest_of(sorted([row.id, row.label] for row in scored.read()))


def decide_again(directory: Path) -> Verdict:
    """The verdict that follows from the evidence in `directory`. Raises ValidationError for files of another form."""
    question = _settings(directory).question
    mine, theirs = (read_answers(directory / f"{name}.jsonl") for name in SIDES)
    of_seeds = [read_answers(path) for path in sorted(directory.glob(f"{SEED}*.jsonl"))]
    asked = [(a.id, a.label) for a in mine]
    if any([(a.id, a.label) for a in rows] != asked for rows in (theirs, *of_seeds)):
        return unsure("the models answered different test rows", "the opponent", len(mine))
    for name, rows in zip(SIDES, (mine, theirs), strict=True):
        if broken := sum(row.broken for row in rows):
            fault = f"{broken} of {len(rows)} answers of the {name} have probabilities that are not finite"
            return unsure(fault, question.opponent_name, len(rows))
    comparison = Comparison(
        labels=question.labels,
        true=[row.label for row in mine],
        challenger=_answers(mine),
        opponent=_answers(theirs),
        opponent_name=question.opponent_name,
        groups=[row.group for row in mine],
        slices={
            name: [i for i, row in enumerate(mine) if name in row.slices]
            for name in question.slices
        },
        measures=question.measures,
        seeds=[_answers(rows) for rows in of_seeds],
    )
    return decide(comparison, question.policy, use=question.use, resampling=question.resampling)


def _answers(rows: list[ScoredRow]) -> list[str | tuple[str, ...]]:
    return [row.predicted for row in rows]


class Verification(Figures):
    """Whether the evidence leads to the recorded verdict again.

    `same` is None where another version of the rule judged: then nothing is decided again. `libraries`
    names those whose versions differ from the ones that counted.
    """

    same: bool | None
    recorded: Verdict
    again: Verdict | None
    evidence: str
    rule_version: int
    libraries: dict[str, str]
    read: dict[str, dict[str, str]]


def verify(directory: Path, *, digest: str | None = None) -> Verification:
    """Whether the evidence is as it was sealed, and leads to the recorded verdict again, byte for byte.

    Raises CorruptDirectory when a file differs from the manifest, the directory from `digest`, or a file has another form.
    """
    manifest = atomic.verify(directory)
    if digest is not None and manifest["digest"] != digest:
        raise CorruptDirectory(
            f"{directory} is not the evidence that was recorded: {manifest['digest'][:12]}"
        )
    try:
        settings, verdict = _settings(directory), (directory / VERDICT).read_bytes()
        recorded = Verdict.model_validate_json(verdict)
        again = decide_again(directory) if settings.rule_version == RULE_VERSION else None
    except ValidationError as e:
        why = " ".join(str(e).split())[:300]
        raise CorruptDirectory(f"{directory} is not the evidence of a verdict: {why}") from None
    current = library_versions()
    return Verification(
        same=None if again is None else verdict == _bytes(again),
        recorded=recorded,
        again=again,
        evidence=manifest["digest"],
        rule_version=settings.rule_version,
        libraries={name: v for name, v in settings.libraries.items() if current.get(name) != v},
        read=settings.read,
    )


def _settings(directory: Path) -> Settings:
    return Settings.model_validate_json((directory / SETTINGS).read_bytes())


def library_versions() -> dict[str, str]:
    """The installed versions of what counts."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _bytes(verdict: Verdict) -> bytes:
    return json.dumps(
        verdict.model_dump(mode="json"), ensure_ascii=False, sort_keys=True, indent=1
    ).encode()
