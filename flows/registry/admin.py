"""What a person does to the registry: promote by hand, roll back, look at the history, clear away what nobody needs."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from mlflow.exceptions import MlflowException

from flows.progress import say
from flows.registry import notifications
from flows.registry.client import Registry, Version, need_champion
from flows.registry.promotion_log import Entry, Journal, Kind
from flows.settings import Settings, user
from flows.tracking.run import connect
from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.errors import UserError
from tasks.model import bundle
from tasks.verdict import evidence

PROBES = ["A short text.", "Another one, a little longer, with a comma.", "1"]  # any text must get an answer
WITH_WEIGHTS = ("train", "export", "soup")  # stages that hold a bundle


def person(by: str | None = None) -> str:
    """Who does it: the name given, otherwise this machine's user. Raises UserError for a name without a letter."""
    if by is None:
        return user()
    if not by.strip() or len(by) > 100:
        raise UserError(f"--by {by[:20]!r}: give a name of 1 to 100 characters")
    return by.strip()


def promote(settings: Settings, name: str, version: str, *, reason: str, by: str | None = None) -> dict[str, Any]:
    """Make a registered version the champion because a person says so; its verdict stays as it is."""
    registry = _registry(settings, name)
    return _move(registry, registry.version(name, version), kind="by hand", reason=_said(reason), by=by)


def rollback(settings: Settings, name: str, *, reason: str, by: str | None = None) -> dict[str, Any]:
    """Make the version that was champion before the champion again. Raises UserError when there is none."""
    registry = _registry(settings, name)
    champion = need_champion(registry, name)
    before = registry.alias(name, "previous")
    if before is None or before.version == champion.version:
        raise UserError(
            f"{name!r} has no version to go back to: version {champion.version} is the first champion. "
            f"`reseed promote {name} VERSION --reason ...` takes any other"
        )
    return _move(registry, before, kind="rollback", reason=_said(reason), by=by)


def _move(registry: Registry, to: Version, *, kind: Kind, reason: str, by: str | None) -> dict[str, Any]:
    champion = registry.champion(to.name)
    if champion is not None and champion.version == to.version:
        raise UserError(f"version {to.version} of {to.name!r} is the champion already")
    try:
        labels = list(bundle.check(registry.fetch(to), digest=to.digest)["labels"])
        registry.promote(to, expected=champion, reason=reason, probes=PROBES, labels=labels, kind=kind, who=person(by))
    except CorruptDirectory as e:
        raise UserError(f"version {to.version} of {to.name!r} can't be the champion: {e}") from None
    if by := registry.version(to.name, to.version).tags.get("reseed.refused_by"):  # that no is overruled from now on
        registry.record(to, {"reseed.overruled": f"refused by {by}"})
        registry.client.delete_model_version_tag(to.name, to.version, "reseed.refused_by")
    before = champion.version if champion else None
    told = notifications.deliver(registry.settings, registry)
    return {"model": to.name, "version": to.version, "before": before, "reason": reason, "told": told}


def show_moved(done: dict[str, Any], said: str) -> None:
    for sentence in [said, *(f"  {told}" for told in done["told"])]:
        click.echo(sentence)


def history(settings: Settings, name: str) -> dict[str, Any]:
    """Every promotion and refusal of `name`, oldest first, and what is not as the history says."""
    registry = _registry(settings, name)
    rows, champion = Journal.read(registry.client, name).chain, registry.champion(name)
    now = champion.version if champion else None
    return {"model": name, "champion": now, "history": [asdict(r) for r in rows], "odd": registry.odd(name)}


def show_history(found: dict[str, Any]) -> None:
    click.echo(f"{found['model']}: champion {found['champion'] or 'none'}")
    for row in found["history"]:
        beside = "against" if row["kind"] == "refused" else "after"
        came = f"version {row['version']}" + (f" {beside} {row['before']}" if row["before"] else "")
        click.echo(
            f"  {row['number']:>3}  {row['when'][:19]}  {came:<24} {row['kind']:<8} {row['who']:<12} {row['reason']}"
        )
    for sentence in found["odd"]:
        click.echo(f"  look: {sentence}")


@dataclass(frozen=True, slots=True)
class Claim:
    """What the registry says of a verdict: on which version and bundle, by which evidence, and the promotion that rests on it."""

    version: str
    bundle: str
    verdict: str
    evidence: str
    row: Entry | None = None
    before: str = ""  # the bundle in whose place the promotion put it, where it is known


def verify(
    settings: Settings, name: str, version: str | None = None, *, promotion: int | None = None
) -> dict[str, Any]:
    """Whether the recorded verdict on a version (the champion otherwise), or the one of a promotion in the history, follows from its
    evidence, byte for byte, and is the one that the registry claims: `disagrees` has a sentence on whatever differs.

    The evidence comes from MLflow, and must have the digest that the version or the promotion carries.
    """
    import mlflow.artifacts

    registry = _registry(settings, name)
    claim = _claimed(registry, name, version) if promotion is None else _promoted(registry, name, version, promotion)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_id = _run_of(registry, name, claim)
            place = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="", dst_path=folder)
            found = evidence.verify(Path(place), digest=claim.evidence)
            found |= {"disagrees": _disagreements(claim, found), "older": found["read"] is None}
        except (CorruptDirectory, MlflowException, OSError) as e:
            found = {"same": False, "verdict": claim.verdict, "fault": str(e), "disagrees": []}
    return {"model": name, "version": claim.version, "promotion": claim.row and claim.row.number, **found}


def _claimed(registry: Registry, name: str, version: str | None) -> Claim:
    """What the tags of a version say; of the champion, what the promotion says that made it champion, too."""
    asked = need_champion(registry, name) if version is None else registry.version(name, version)
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
        what = f"promotion {number}" if version is None else f"promotion {number} of version {version}"
        raise UserError(f"{name!r} has no {what} (there are: {known}); `reseed history {name}` shows them")
    if not row.evidence:
        raise UserError(f"promotion {number} of {name!r} has no evidence: the version had no verdict that rests on any")
    return Claim(row.version, row.bundle, row.verdict, row.evidence, row, _before(rows, row))


def _before(rows: list[Entry], row: Entry) -> str:
    return next((r.bundle for r in reversed(rows) if r.number < row.number and r.version == row.before), "")


def _run_of(registry: Registry, name: str, claim: Claim) -> str:
    """The run that holds the evidence. Raises CorruptDirectory where there is none any more."""
    tags = {v.version: v.tags for v in registry.versions(name)}.get(claim.version, {})
    if tags.get("reseed.evidence") == claim.evidence and tags.get("reseed.evidence_run"):
        return tags["reseed.evidence_run"]
    experiment = registry.client.get_experiment_by_name(name)
    query = f"tags.`reseed.stage` = 'verdict' and tags.`reseed.digest` = '{claim.evidence}'"
    runs = registry.client.search_runs([experiment.experiment_id], query, max_results=1) if experiment else []
    if not runs:
        raise CorruptDirectory(f"MLflow has no run any more that holds the evidence {claim.evidence[:12]}")
    return str(runs[0].info.run_id)


def _disagreements(claim: Claim, found: dict[str, Any]) -> list[str]:
    """A sentence on whatever the registry says otherwise than the evidence."""
    said, row, version = [], claim.row, f"version {claim.version}"
    if found["verdict"] != claim.verdict:
        said.append(
            f"the verdict on {version} is recorded as {claim.verdict or 'none'}, the evidence says {found['verdict']}"
        )
    read = found["read"] or {}
    bundle, opponent = (read.get(side, {}).get("bundle", "") for side in evidence.SIDES)
    if read and bundle != claim.bundle:
        said.append(f"the evidence is of bundle {bundle[:12] or 'none'}, and {version} is bundle {claim.bundle[:12]}")
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


def show_verified(found: dict[str, Any]) -> None:
    what = f"{found['model']} {found['version']}: {found['verdict']}"
    kind, _, why = str(found.get("code", "")).partition(": ")
    code = f"{kind} code" + f" ({why})" * bool(why)
    if "fault" in found:
        click.echo(f"{what}, but the evidence is not what was recorded: {found['fault']}")
    elif not found["same"]:
        click.echo(f"{what}, but the evidence now leads to {found['again']['decision']}: by {code}")
    elif found["disagrees"]:
        click.echo(f"{what}, but the evidence is not of what the registry says:")
    else:
        click.echo(f"{what}, byte for byte again from {found['rows']} rows, by {code}")
    for sentence in found["disagrees"]:
        click.echo(f"  look: {sentence}")
    if found.get("older"):
        click.echo("  look: the evidence is of an older form, which does not name the models and the test rows")
    for reason in found.get("reasons", []):
        click.echo(f"  {reason}")


def prune(settings: Settings, name: str, *, keep: int, really: bool) -> dict[str, Any]:
    """What stands in the way of nobody: versions that are not among the newest `keep`, not under an alias and were
    never champion, with their files; removed where `really`.
    """
    registry = _registry(settings, name)
    with registry.lock(name) as held:  # no promotion meanwhile, so a champion is never among them
        versions = registry.versions(name)
        stay = {v.version for v in versions[:keep]} | set(registry.aliases(name).values())
        stay |= {row.version for row in registry.history(name)}
        kept = [v for v in versions if v.version in stay]
        gone = [v for v in versions if v.version not in stay]
        needed = {v.digest for v in kept}
        directories = [d for v in gone if v.digest not in needed for d in _directories(settings, v)]
        size = sum(_size(d) for d in directories)
        stayed = []
        if really:
            for v in gone:
                held()
                stayed.append(registry.delete(v))
            for d in directories:
                shutil.rmtree(d, ignore_errors=True)
    return {
        "model": name,
        "kept": [v.version for v in kept],
        "removed" if really else "would_remove": [v.version for v in gone],
        "mib": round(size / 2**20, 1),
        "stayed": [sentence for sentence in stayed if sentence],
    }


def show_pruned(found: dict[str, Any]) -> None:
    done = "removed" in found
    gone = found["removed"] if done else found["would_remove"]
    what = (
        f"versions {', '.join(sorted(gone, key=int))} and {found['mib']} MiB of this workspace" if gone else "nothing"
    )
    kept = ", ".join(sorted(found["kept"], key=int)) or "none"
    click.echo(f"{found['model']}: {what} {'removed' if done else 'would go; --yes removes it'}; kept: {kept}")
    for sentence in found["stayed"]:
        click.echo(f"  look: {sentence}")


def _directories(settings: Settings, version: Version) -> list[Path]:
    """Where this workspace holds the version's bundle: in stages, and as it was fetched. None of one without a digest, which is
    not ours: the path would be that of every fetched bundle of the project."""
    if not version.digest:
        return []
    found = [settings.home / "serving" / version.name / version.digest[:32]]
    for stage in WITH_WEIGHTS:
        for manifest in (settings.home / "stages" / stage).glob(f"*/{atomic.MANIFEST}"):
            if atomic.read_json(manifest).get("counts", {}).get("bundle") == version.digest:
                found.append(manifest.parent)
    return [d for d in found if d.exists()]


def _size(directory: Path) -> int:
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())


def _registry(settings: Settings, name: str) -> Registry:
    """The registry, with what a kill left open finished. Raises UserError when there is no model of this name."""
    registry = Registry(connect(settings), settings)
    registry.need_name(name)
    for sentence in registry.reconcile(name):
        say(sentence)
    return registry


def _said(reason: str) -> str:
    if not reason.strip():
        raise UserError("--reason is empty: say why, for whoever reads the history")
    return reason.strip()
