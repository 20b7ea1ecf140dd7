"""The evidence of a verdict: both models' answers, the settings, and the verdict that follows.

The verdict can be derived again, byte for byte, from the files in the directory alone. The settings
name the version of the rule; any version of the code with the same rule verifies it.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from tasks import atomic
from tasks.atomic import CorruptDirectory, digest_of
from tasks.evaluate.result import PREDICTIONS, ScoreResult, read_answers
from tasks.figures import Figures
from tasks.stage import Metrics, StageResult, run_stage
from tasks.verdict.decide import RULE_VERSION, decide
from tasks.verdict.model import (
    Comparison,
    MeasurePair,
    Policy,
    Resampling,
    Verdict,
    inconclusive,
)
from tasks.workspace import Workspace

VERSION = 5
LIBRARIES = ("reseed", "numpy", "scipy", "scikit-learn")  # a verdict depends on their arithmetic
VERDICT, SETTINGS, SEED = "verdict.json", "settings.json", "seed_"
SIDES = ("challenger", "opponent")


class Question(Figures):
    """The comparison to judge, apart from the answers of the two evaluations.

    `use` is the number of this verdict on the test set; `slices` is the names of the judged slices,
    whose rows the answers name; `measures` is both models' figures, challenger first.
    """

    labels: list[str]
    opponent_name: str
    policy: Policy
    use: int = 1
    resampling: Resampling
    slices: list[str]
    measures: dict[str, MeasurePair]


class Settings(Figures):
    """How a verdict was reached: the question, the version of the rule, and those of the libraries.

    `read` is the digests that each evaluation read: of its model and of the sealed test rows.
    """

    question: Question
    rule_version: int
    libraries: dict[str, str]
    read: dict[str, dict[str, str]]


class VerdictResult(StageResult):
    """The verdict on a challenger."""

    verdict: Verdict

    def metrics(self) -> Metrics:
        """The gain and its bounds."""
        return verdict_metrics(self.verdict)

    def artifacts(self) -> list[Path]:
        """The evidence that `reseed verify` reads."""
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
    """The verdict, published with its evidence.

    `seeds` is the evaluations of the recipe's models, one per seed.
    """
    scores = dict(zip(SIDES, (challenger, opponent), strict=True))
    scores |= {f"{SEED}{number:03}": score for number, score in enumerate(seeds, 1)}
    manifests = {
        name: atomic.read_json(s.directory / atomic.MANIFEST) for name, s in scores.items()
    }
    settings = Settings(
        question=question,
        rule_version=RULE_VERSION,
        libraries=library_versions(LIBRARIES),
        read={name: manifest["inputs"] for name, manifest in manifests.items()},
    ).model_dump(mode="json")

    def build(out: Path, scratch: Path) -> VerdictResult:
        for name, score in scores.items():
            shutil.copyfile(score.directory / PREDICTIONS, out / f"{name}.jsonl")
        atomic.write_json(out / SETTINGS, settings)
        verdict = derive_verdict(out)
        (out / VERDICT).write_bytes(_to_bytes(verdict))
        return VerdictResult(verdict=verdict)

    return run_stage(
        VerdictResult,
        "verdict",
        workspace=workspace,
        version=VERSION,
        params=settings,
        inputs={name: score.digest for name, score in scores.items()},
        build=build,
    )


def rows_digest(score: ScoreResult) -> str:
    """The digest of the test rows by id and label, in any order and without other columns."""
    return digest_of(sorted([row.id, row.label] for row in score.read()))


def derive_verdict(directory: Path) -> Verdict:
    """The verdict that follows from the evidence in `directory`.

    Raises ValidationError where a file has another form.
    """
    question = _read_settings(directory).question
    mine, theirs = (read_answers(directory / f"{name}.jsonl") for name in SIDES)
    seeds = [read_answers(path) for path in sorted(directory.glob(f"{SEED}*.jsonl"))]
    rows = [(row.id, row.label) for row in mine]
    if any([(row.id, row.label) for row in answers] != rows for answers in (theirs, *seeds)):
        return inconclusive("the models answered different test rows", "the opponent", len(rows))
    for name, answers in zip(SIDES, (mine, theirs), strict=True):
        if broken := sum(row.broken for row in answers):
            fault = f"{broken} of {len(rows)} answers of the {name} have probabilities that are not finite"
            return inconclusive(fault, question.opponent_name, len(rows))
    comparison = Comparison(
        labels=question.labels,
        true=[row.label for row in mine],
        challenger=[row.predicted for row in mine],
        opponent=[row.predicted for row in theirs],
        opponent_name=question.opponent_name,
        groups=[row.group for row in mine],
        slices={
            name: [i for i, row in enumerate(mine) if name in row.slices]
            for name in question.slices
        },
        measures=question.measures,
        seeds=[[row.predicted for row in answers] for answers in seeds],
    )
    return decide(comparison, question.policy, use=question.use, resampling=question.resampling)


class Verification(Figures):
    """Whether the evidence leads to the recorded verdict again.

    `same` and `again` are None where another version of the rule judged, which cannot be derived
    again. `libraries` is the recorded versions that differ from the installed ones.
    """

    same: bool | None
    recorded: Verdict
    again: Verdict | None
    evidence: str
    rule_version: int
    libraries: dict[str, str]
    read: dict[str, dict[str, str]]


def verify(directory: Path, *, digest: str | None = None) -> Verification:
    """Whether the evidence is unchanged and leads to the recorded verdict again, byte for byte.

    Raises CorruptDirectory where a file differs from the manifest, the directory from `digest`, or a
    file has another form.
    """
    manifest = atomic.verify(directory)
    if digest is not None and manifest["digest"] != digest:
        raise CorruptDirectory(
            f"{directory} is not the evidence that was recorded: {manifest['digest'][:12]}"
        )
    try:
        settings, verdict = _read_settings(directory), (directory / VERDICT).read_bytes()
        recorded = Verdict.model_validate_json(verdict)
        again = derive_verdict(directory) if settings.rule_version == RULE_VERSION else None
    except ValidationError as e:
        why = " ".join(str(e).split())[:300]
        raise CorruptDirectory(f"{directory} is not the evidence of a verdict: {why}") from None
    installed = library_versions(settings.libraries)
    return Verification(
        same=None if again is None else verdict == _to_bytes(again),
        recorded=recorded,
        again=again,
        evidence=manifest["digest"],
        rule_version=settings.rule_version,
        libraries={name: v for name, v in settings.libraries.items() if installed[name] != v},
        read=settings.read,
    )


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """The installed version of each library, or `not installed`."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _read_settings(directory: Path) -> Settings:
    return Settings.model_validate_json((directory / SETTINGS).read_bytes())


def _to_bytes(verdict: Verdict) -> bytes:
    return json.dumps(
        verdict.model_dump(mode="json"), ensure_ascii=False, sort_keys=True, indent=1
    ).encode()
