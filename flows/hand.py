"""What a person does to the registry: promote by hand, roll back, look at the history, clear away what nobody needs."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from mlflow.exceptions import MlflowException

from flows import outbox
from flows.journal import Journal, Kind
from flows.progress import say
from flows.registry import Registry, Version, need_champion
from flows.settings import Settings, user
from flows.tracking import connect
from tasks import bundle, evidence, files
from tasks.errors import UserError
from tasks.files import CorruptDirectory

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
    before = champion.version if champion else None
    told = outbox.deliver(registry.settings, registry)
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


def verify(settings: Settings, name: str, version: str | None = None) -> dict[str, Any]:
    """Whether the recorded verdict on a version (the champion otherwise) follows from its evidence, byte for byte.

    The evidence comes from MLflow, and must have the digest that the version carries.
    """
    import mlflow.artifacts

    registry = _registry(settings, name)
    asked = need_champion(registry, name) if version is None else registry.version(name, version)
    digest, run_id = (asked.tags.get(f"reseed.{key}", "") for key in ("evidence", "evidence_run"))
    if not digest or not run_id:
        raise UserError(
            f"version {asked.version} of {name!r} has no evidence: its opponent could not be scored, or it was not judged"
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            place = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="", dst_path=folder)
            found = evidence.verify(Path(place), digest=digest)
        except (CorruptDirectory, MlflowException, OSError) as e:
            found = {"same": False, "verdict": asked.tags.get("reseed.verdict", ""), "fault": str(e)}
    return {"model": name, "version": asked.version, **found}


def show_verified(found: dict[str, Any]) -> None:
    what = f"{found['model']} {found['version']}: {found['verdict']}"
    if "fault" in found:
        click.echo(f"{what}, but the evidence is not what was recorded: {found['fault']}")
    elif found["same"]:
        click.echo(f"{what}, byte for byte again from {found['rows']} rows and {found['code']} code")
    else:
        click.echo(f"{what}, but the evidence now leads to {found['again']['decision']} ({found['code']} code)")
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
        if really:
            for v in gone:
                held()
                registry.delete(v)
            for d in directories:
                shutil.rmtree(d, ignore_errors=True)
    return {
        "model": name,
        "kept": [v.version for v in kept],
        "removed" if really else "would_remove": [v.version for v in gone],
        "mib": round(size / 2**20, 1),
    }


def show_pruned(found: dict[str, Any]) -> None:
    done = "removed" in found
    gone = found["removed"] if done else found["would_remove"]
    what = f"versions {', '.join(sorted(gone, key=int))} and {found['mib']} MiB of files" if gone else "nothing"
    kept = ", ".join(sorted(found["kept"], key=int)) or "none"
    click.echo(f"{found['model']}: {what} {'removed' if done else 'would go; --yes removes it'}; kept: {kept}")


def _directories(settings: Settings, version: Version) -> list[Path]:
    """Where this workspace holds the version's bundle: in stages, and as it was fetched."""
    found = [settings.home / "serving" / version.name / version.digest[:32]]
    for stage in WITH_WEIGHTS:
        for manifest in (settings.home / "stages" / stage).glob(f"*/{files.MANIFEST}"):
            if files.read_json(manifest).get("counts", {}).get("bundle") == version.digest:
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
