"""Verify a recorded verdict: whether it follows from its evidence, and is what the registry claims."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import click
from mlflow.exceptions import MlflowException

from flows.registry.admin import open_registry
from flows.registry.client import Registry, require_champion
from flows.registry.promotion_log import LogEntry
from flows.settings import Settings
from tasks.atomic import CorruptDirectory
from tasks.errors import UserError
from tasks.figures import Figures
from tasks.verdict import evidence
from tasks.verdict.evidence import Verification


@dataclass(frozen=True, slots=True)
class Claim:
    """What the registry says of a verdict: on which version and bundle, by which evidence, and the promotion that rests on it."""

    version: str
    bundle: str
    verdict: str
    evidence: str
    row: LogEntry | None = None
    before: str = ""  # the bundle in whose place the promotion put it, where it is known


class VerifiedVerdict(Figures):
    """What verifying a verdict found.

    `verification` is None where the evidence is not what was recorded, which `fault` explains;
    `disagreements` has a sentence on whatever the registry says otherwise than the evidence.
    """

    model: str
    version: str
    promotion: int | None
    verdict: str
    same: bool
    verification: Verification | None
    fault: str | None
    disagreements: list[str]


def verify_verdict(
    settings: Settings, name: str, version: str | None = None, *, promotion: int | None = None
) -> VerifiedVerdict:
    """Whether a recorded verdict follows from its evidence, byte for byte, and is the one that the registry claims.

    It is the verdict on a version (the champion otherwise), or the one of a promotion in the history. The
    evidence comes from MLflow, and must have the digest that the version or the promotion carries.
    """
    registry = open_registry(settings, name)
    if promotion is None:
        claim = _claimed(registry, name, version)
    else:
        claim = _promoted(registry, name, version, promotion)
    found, fault = None, None
    try:
        found = _verify_evidence(registry, name, claim)
    except (CorruptDirectory, MlflowException, OSError) as e:
        fault = str(e)
    return VerifiedVerdict(
        model=name,
        version=claim.version,
        promotion=claim.row.number if claim.row else None,
        verdict=found.recorded.decision if found else claim.verdict,
        same=bool(found and found.same),
        verification=found,
        fault=fault,
        disagreements=_disagreements(claim, found) if found else [],
    )


def _verify_evidence(registry: Registry, name: str, claim: Claim) -> Verification:
    import mlflow.artifacts

    run_id = _run_of(registry, name, claim)
    with tempfile.TemporaryDirectory() as folder:
        place = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path="", dst_path=folder
        )
        return evidence.verify(Path(place), digest=claim.evidence)


def _claimed(registry: Registry, name: str, version: str | None) -> Claim:
    """What the tags of a version say; of the champion, what the promotion says that made it champion, too."""
    asked = require_champion(registry, name) if version is None else registry.version(name, version)
    verdict, digest = (asked.tags.get(f"reseed.{key}", "") for key in ("verdict", "evidence"))
    if not digest:
        raise UserError(
            f"version {asked.version} of {name!r} has no evidence: its opponent could not be scored, or it was not judged"
        )
    champion, rows = registry.champion(name), registry.history(name)
    claim = Claim(asked.version, asked.digest, verdict, digest)
    if champion is None or not rows or not champion.version == asked.version == rows[-1].version:
        return claim  # it may have been judged again since
    return replace(claim, row=rows[-1], before=_before(rows, rows[-1]))


def _promoted(registry: Registry, name: str, version: str | None, number: int) -> Claim:
    """What the history says of the promotion of this number."""
    rows = registry.history(name)
    row = next((r for r in rows if r.number == number), None)
    if row is None or version not in {None, row.version}:
        known = ", ".join(f"{r.number} of version {r.version}" for r in rows) or "none"
        what = (
            f"promotion {number}" if version is None else f"promotion {number} of version {version}"
        )
        raise UserError(
            f"{name!r} has no {what} (there are: {known}); `reseed history {name}` shows them"
        )
    if not row.evidence:
        raise UserError(
            f"promotion {number} of {name!r} has no evidence: the version had no verdict that rests on any"
        )
    return Claim(row.version, row.bundle, row.verdict, row.evidence, row, _before(rows, row))


def _before(rows: list[LogEntry], row: LogEntry) -> str:
    return next(
        (r.bundle for r in reversed(rows) if r.number < row.number and r.version == row.before), ""
    )


def _run_of(registry: Registry, name: str, claim: Claim) -> str:
    """The run that holds the evidence. Raises CorruptDirectory where there is none any more."""
    tags = {v.version: v.tags for v in registry.versions(name)}.get(claim.version, {})
    if tags.get("reseed.evidence") == claim.evidence and tags.get("reseed.evidence_run"):
        return tags["reseed.evidence_run"]
    experiment = registry.client.get_experiment_by_name(name)
    query = f"tags.`reseed.stage` = 'verdict' and tags.`reseed.digest` = '{claim.evidence}'"
    runs = (
        registry.client.search_runs([experiment.experiment_id], query, max_results=1)
        if experiment
        else []
    )
    if not runs:
        raise CorruptDirectory(
            f"MLflow has no run any more that holds the evidence {claim.evidence[:12]}"
        )
    return str(runs[0].info.run_id)


def _disagreements(claim: Claim, found: Verification) -> list[str]:
    """A sentence on whatever the registry says otherwise than the evidence."""
    said, row, version = [], claim.row, f"version {claim.version}"
    if found.recorded.decision != claim.verdict:
        said.append(
            f"the verdict on {version} is recorded as {claim.verdict or 'none'}, the evidence says {found.recorded.decision}"
        )
    read = found.read
    bundle, opponent = (read.get(side, {}).get("bundle", "") for side in evidence.SIDES)
    if read and bundle != claim.bundle:
        said.append(
            f"the evidence is of bundle {bundle[:12] or 'none'}, and {version} is bundle {claim.bundle[:12]}"
        )
    if row is None:
        return said
    if (row.evidence, row.verdict, row.bundle) != (claim.evidence, claim.verdict, claim.bundle):
        said.append(
            f"promotion {row.number} was of bundle {row.bundle[:12]} by the verdict {row.verdict or 'none'} on the evidence "
            f"{row.evidence[:12] or 'none'}; {version} says bundle {claim.bundle[:12]}, {claim.verdict}, {claim.evidence[:12]}"
        )
    if read and row.kind == "verdict" and claim.before and opponent != claim.before:
        said.append(
            f"the evidence compares with {f'bundle {opponent[:12]}' if opponent else 'a baseline'}, and promotion {row.number} "
            f"was in the place of version {row.before}, bundle {claim.before[:12]}"
        )
    return said


def show_verification(found: VerifiedVerdict) -> None:
    """Print what was found, and the reasons of the verdict."""
    what, v = f"{found.model} {found.version}: {found.verdict}", found.verification
    if v is None:
        click.echo(f"{what}, but the evidence is not what was recorded: {found.fault}")
        return
    code = f"rule version {v.rule_version}"
    if v.libraries:
        code += f" (judged with {', '.join(f'{name} {version}' for name, version in v.libraries.items())})"
    if v.again is None:
        click.echo(
            f"{what}, by {code}, which is not the rule of this version of Reseed: not decided again"
        )
    elif not v.same:
        click.echo(f"{what}, but the evidence now leads to {v.again.decision}, by {code}")
    elif found.disagreements:
        click.echo(f"{what}, but the evidence is not of what the registry says:")
    else:
        click.echo(f"{what}, byte for byte again from {v.recorded.rows} rows, by {code}")
    for sentence in found.disagreements:
        click.echo(f"  warning: {sentence}")
    for reason in v.recorded.reasons:
        click.echo(f"  {reason}")
