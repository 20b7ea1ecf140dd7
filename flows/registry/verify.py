"""Verify a recorded verdict: that it follows from its evidence, and is what the registry claims."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import click
import mlflow.artifacts
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
    """What the registry says of a verdict: its version and bundle, its evidence, and the promotion
    that followed it.

    `replaced` is the bundle of the champion before, where it is known.
    """

    version: str
    bundle: str
    verdict: str
    evidence: str
    row: LogEntry | None = None
    replaced: str = ""


class VerifiedVerdict(Figures):
    """The result of verifying a verdict.

    `verification` is None where the evidence is not the recorded one, which `fault` explains;
    `disagreements` has a sentence per difference between the registry and the evidence.
    """

    model: str
    version: str
    promotion: int | None
    verdict: str
    same: bool
    verification: Verification | None
    fault: str | None
    disagreements: list[str]

    @property
    def passed(self) -> bool:
        """True where the evidence leads to the same verdict and the registry agrees with it."""
        return self.same and not self.disagreements


def verify_verdict(
    settings: Settings, name: str, version: str | None = None, *, promotion: int | None = None
) -> VerifiedVerdict:
    """Verify the verdict on a version (by default the champion), or of a promotion in the history.

    The evidence is read from MLflow and must have the recorded digest. Raises UserError where there
    is no such version, promotion or evidence.
    """
    registry = open_registry(settings, name)
    if promotion is None:
        claim = _claim_of_version(registry, name, version)
    else:
        claim = _claim_of_promotion(registry, name, version, promotion)
    verification, fault = None, None
    try:
        verification = _verify_evidence(registry, name, claim)
    except (CorruptDirectory, MlflowException, OSError) as e:
        fault = str(e)
    return VerifiedVerdict(
        model=name,
        version=claim.version,
        promotion=claim.row.number if claim.row else None,
        verdict=verification.recorded.decision if verification else claim.verdict,
        same=bool(verification and verification.same),
        verification=verification,
        fault=fault,
        disagreements=_disagreements(claim, verification) if verification else [],
    )


def _verify_evidence(registry: Registry, name: str, claim: Claim) -> Verification:
    run_id = _find_run(registry, name, claim)
    with tempfile.TemporaryDirectory() as folder:
        directory = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path="", dst_path=folder
        )
        return evidence.verify(Path(directory), digest=claim.evidence)


def _claim_of_version(registry: Registry, name: str, number: str | None) -> Claim:
    """The tags of a version; of the champion, also the promotion that made it champion."""
    champion, rows = registry.champion(name), registry.history(name)
    version = registry.version(name, number) if number else require_champion(registry, name)
    verdict, digest = (version.tags.get(f"reseed.{key}", "") for key in ("verdict", "evidence"))
    if not digest:
        raise UserError(
            f"version {version.version} of {name!r} has no evidence: its opponent could not be "
            "scored, or it was not judged"
        )
    claim = Claim(version.version, version.digest, verdict, digest)
    if champion is None or not rows or not champion.version == version.version == rows[-1].version:
        return claim  # it may have been judged again since its promotion
    return replace(claim, row=rows[-1], replaced=_replaced_bundle(rows, rows[-1]))


def _claim_of_promotion(registry: Registry, name: str, version: str | None, number: int) -> Claim:
    rows = registry.history(name)
    row = next((r for r in rows if r.number == number), None)
    if row is None or version not in {None, row.version}:
        known = ", ".join(f"{r.number} of version {r.version}" for r in rows) or "none"
        asked = f"promotion {number}" + ("" if version is None else f" of version {version}")
        raise UserError(
            f"{name!r} has no {asked} (existing: {known}): `reseed history {name}` shows them"
        )
    if not row.evidence:
        raise UserError(f"promotion {number} of {name!r} has no evidence: it followed no verdict")
    bundle = _replaced_bundle(rows, row)
    return Claim(row.version, row.bundle, row.verdict, row.evidence, row, bundle)


def _replaced_bundle(rows: list[LogEntry], row: LogEntry) -> str:
    earlier = (r for r in reversed(rows) if r.number < row.number and r.version == row.before)
    return next((r.bundle for r in earlier), "")


def _find_run(registry: Registry, name: str, claim: Claim) -> str:
    """The run that holds the evidence. Raises CorruptDirectory where there is none."""
    tags = {v.version: v.tags for v in registry.versions(name)}.get(claim.version, {})
    if tags.get("reseed.evidence") == claim.evidence and tags.get("reseed.evidence_run"):
        return tags["reseed.evidence_run"]
    experiment, runs = registry.client.get_experiment_by_name(name), []
    if experiment:
        query = f"tags.`reseed.stage` = 'verdict' and tags.`reseed.digest` = '{claim.evidence}'"
        runs = registry.client.search_runs([experiment.experiment_id], query, max_results=1)
    if not runs:
        raise CorruptDirectory(f"no run in MLflow holds the evidence {claim.evidence[:12]}")
    return str(runs[0].info.run_id)


def _disagreements(claim: Claim, verification: Verification) -> list[str]:
    sentences, row, version = [], claim.row, f"version {claim.version}"
    decision = verification.recorded.decision
    if decision != claim.verdict:
        sentences.append(
            f"the verdict on {version} is recorded as {claim.verdict or 'none'}, the evidence says "
            f"{decision}"
        )
    read = verification.read
    bundle, opponent = (read.get(side, {}).get("bundle", "") for side in evidence.SIDES)
    if read and bundle != claim.bundle:
        sentences.append(
            f"the evidence is of bundle {bundle[:12] or 'none'}, and {version} is bundle "
            f"{claim.bundle[:12]}"
        )
    if row is None:
        return sentences
    if (row.evidence, row.verdict, row.bundle) != (claim.evidence, claim.verdict, claim.bundle):
        sentences.append(
            f"promotion {row.number} was of bundle {row.bundle[:12]} by the verdict "
            f"{row.verdict or 'none'} on the evidence {row.evidence[:12] or 'none'}; {version} has "
            f"bundle {claim.bundle[:12]}, {claim.verdict}, {claim.evidence[:12]}"
        )
    if read and row.kind == "verdict" and claim.replaced and opponent != claim.replaced:
        compared = f"bundle {opponent[:12]}" if opponent else "a baseline"
        sentences.append(
            f"the evidence compares with {compared}, and promotion {row.number} replaced version "
            f"{row.before}, bundle {claim.replaced[:12]}"
        )
    return sentences


def show_verification(result: VerifiedVerdict) -> None:
    """Print the outcome, the disagreements and the reasons of the verdict."""
    title, verification = f"{result.model} {result.version}: {result.verdict}", result.verification
    if verification is None:
        click.echo(f"{title}, but the evidence is not the recorded one: {result.fault}")
        return
    rule = f"rule version {verification.rule_version}"
    if libraries := ", ".join(f"{name} {v}" for name, v in verification.libraries.items()):
        rule += f" (judged with {libraries})"
    if verification.again is None:
        outcome = f", by {rule}, which this version of Reseed cannot apply: not decided again"
    elif not verification.same:
        outcome = f", but the evidence now leads to {verification.again.decision}, by {rule}"
    elif result.disagreements:
        outcome = ", but the registry disagrees with the evidence:"
    else:
        rows = verification.recorded.rows
        outcome = f", reproduced byte for byte from {rows} rows, by {rule}"
    click.echo(title + outcome)
    for sentence in result.disagreements:
        click.echo(f"  warning: {sentence}")
    for reason in verification.recorded.reasons:
        click.echo(f"  {reason}")
