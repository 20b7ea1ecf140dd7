"""Delete old versions that were never champion, with their files."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from flows.registry.admin import open_registry
from flows.registry.client import Registry, Version
from flows.settings import Settings
from flows.tracking.logged_model import delete_model_files
from tasks import atomic
from tasks.errors import UserError
from tasks.figures import Figures

BUNDLE_STAGES = ("train", "export", "soup")


class PruneReport(Figures):
    """The versions that are kept and removed; without --yes they are in `would_remove`.

    `mib` is the disk space of this workspace, `stayed` a sentence per version whose files were kept.
    """

    model: str
    kept: list[str]
    removed: list[str]
    would_remove: list[str]
    mib: float
    stayed: list[str]


def prune(settings: Settings, name: str, *, keep: int, really: bool) -> PruneReport:
    """Delete the versions that are not among the newest `keep`, have no alias and were never
    champion; without `really` only list them."""
    registry = open_registry(settings, name)
    with registry.lock(name) as held:  # no version is promoted meanwhile
        versions = registry.versions(name)
        needed = {v.version for v in versions[:keep]} | set(registry.aliases(name).values())
        needed |= {row.version for row in registry.history(name)}
        kept = [v for v in versions if v.version in needed]
        old = [v for v in versions if v.version not in needed]
        digests = {v.digest for v in kept}
        folders = [d for v in old if v.digest not in digests for d in _local_copies(settings, v)]
        size = sum(_size(folder) for folder in folders)
        stayed = []
        for version in old if really else []:
            held()
            stayed.append(delete_version(registry, version))
        for folder in folders if really else []:
            shutil.rmtree(folder, ignore_errors=True)
    numbers = [v.version for v in old]
    return PruneReport(
        model=name,
        kept=[v.version for v in kept],
        removed=numbers if really else [],
        would_remove=[] if really else numbers,
        mib=round(size / 2**20, 1),
        stayed=[sentence for sentence in stayed if sentence],
    )


def show_prune(report: PruneReport) -> None:
    """Print what was removed or would be, and what is kept."""
    numbers = report.removed or report.would_remove
    versions = f"versions {', '.join(sorted(numbers, key=int))} and {report.mib} MiB"
    if report.would_remove:
        done = f"{versions} would be removed; --yes removes them"
    else:
        done = f"{versions} of this workspace removed" if numbers else "nothing to remove"
    kept = ", ".join(sorted(report.kept, key=int)) or "none"
    click.echo(f"{report.model}: {done}; kept: {kept}")
    for sentence in report.stayed:
        click.echo(f"  warning: {sentence}")


def delete_version(registry: Registry, version: Version) -> str | None:
    """Delete a version, its logged model and its files; a sentence where files are kept.

    Call it while holding the lock. Files of a version that Reseed did not register are kept: they may
    be another version's. Raises UserError for a version with an alias, as the champion has.
    """
    name, number = version.name, version.version
    names = [alias for alias, v in registry.aliases(name).items() if v == number]
    if names:
        raise UserError(f"version {number} of {name!r} is its {names[0]}: it is not deleted")
    location = str(registry.client.get_model_version(name, number).source or "")
    registry.client.delete_model_version(name, number)
    if version.model_id:
        registry.client.delete_logged_model(version.model_id)
    reason: str | None = "Reseed did not register it"
    if version.digest:
        within = registry.settings.workspace.mlflow_artifacts
        reason = delete_model_files(location, within=within)
    if reason is None:
        return None
    location = location or "an unknown location"
    return f"the files of version {number} stay at {location}: {reason}"


def _local_copies(settings: Settings, version: Version) -> list[Path]:
    """The folders of this workspace with the version's bundle: stages, and the fetched copy."""
    if not version.digest:  # without one, the path would be that of every fetched bundle
        return []
    copies = [settings.workspace.served_bundle(version.name, version.digest)]
    for stage in BUNDLE_STAGES:
        for directory in settings.workspace.published(stage):
            figures = atomic.read_json(directory / atomic.MANIFEST).get("figures", {})
            if figures.get("bundle") == version.digest:
                copies.append(directory)
    return [d for d in copies if d.exists()]


def _size(directory: Path) -> int:
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
