"""What a person does to the registry: promote by hand, roll back, look at the history, clear away what nobody needs."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from flows.progress import say
from flows.registry import notifications, promotion, promotion_log
from flows.registry.client import Registry, Version, require_champion
from flows.registry.promotion_log import MOST, Intent, Kind, PromotionLog
from flows.settings import Settings, current_user
from flows.tracking.store import connect
from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.errors import UserError
from tasks.model.bundle import check_bundle

PROBES = [
    "A short text.",
    "Another one, a little longer, with a comma.",
    "1",
]  # any text must get an answer
WITH_WEIGHTS = ("train", "export", "soup")  # stages that hold a bundle


def acting_person(by: str | None = None) -> str:
    """Who does it: the name given, otherwise this machine's user. Raises UserError for a name without a letter."""
    if by is None:
        return current_user()
    if not by.strip() or len(by) > 100:
        raise UserError(f"--by {by[:20]!r}: give a name of 1 to 100 characters")
    return by.strip()


def promote_by_hand(
    settings: Settings, name: str, version: str, *, reason: str, by: str | None = None
) -> dict[str, Any]:
    """Make a registered version the champion because a person says so; its verdict stays as it is."""
    registry = open_registry(settings, name)
    return _move(
        registry, registry.version(name, version), kind="by hand", reason=_said(reason), by=by
    )


def roll_back(
    settings: Settings, name: str, *, reason: str, by: str | None = None
) -> dict[str, Any]:
    """Make the version that was champion before the champion again. Raises UserError when there is none."""
    registry = open_registry(settings, name)
    champion = require_champion(registry, name)
    before = registry.find_alias(name, "previous")
    if before is None or before.version == champion.version:
        raise UserError(
            f"{name!r} has no version to go back to: version {champion.version} is the first champion. "
            f"`reseed promote {name} VERSION --reason ...` takes any other"
        )
    return _move(registry, before, kind="rollback", reason=_said(reason), by=by)


def _move(
    registry: Registry, to: Version, *, kind: Kind, reason: str, by: str | None
) -> dict[str, Any]:
    champion = registry.champion(to.name)
    if champion is not None and champion.version == to.version:
        raise UserError(f"version {to.version} of {to.name!r} is the champion already")
    try:
        labels = list(check_bundle(registry.fetch(to), digest=to.digest)["labels"])
        promotion.promote(
            registry,
            to,
            expected=champion,
            reason=reason,
            probes=PROBES,
            labels=labels,
            kind=kind,
            who=acting_person(by),
        )
    except CorruptDirectory as e:
        raise UserError(f"version {to.version} of {to.name!r} can't be the champion: {e}") from None
    if by := registry.version(to.name, to.version).tags.get(
        "reseed.refused_by"
    ):  # that no is overruled from now on
        registry.tag_version(to, {"reseed.overruled": f"refused by {by}"})
        registry.client.delete_model_version_tag(to.name, to.version, "reseed.refused_by")
    before = champion.version if champion else None
    told = notifications.deliver(registry.settings, registry)
    return {
        "model": to.name,
        "version": to.version,
        "before": before,
        "reason": reason,
        "told": told,
    }


def show_promotion(done: dict[str, Any], said: str) -> None:
    for sentence in [said, *(f"  {told}" for told in done["told"])]:
        click.echo(sentence)


def refuse_version(
    settings: Settings, name: str, version: str, *, reason: str, by: str | None = None
) -> dict[str, Any]:
    """A person's no outside of a deployment: a row of the history. Raises UserError for the champion."""
    who, registry = acting_person(by), Registry(connect(settings), settings)
    registry.require_model(name)
    refused, champion = registry.version(name, version), registry.champion(name)
    if champion is not None and champion.version == refused.version:
        raise UserError(
            f"version {version} of {name!r} is the champion: `reseed rollback {name} --reason ...` takes it back"
        )
    why = _said(reason)
    registry.tag_version(refused, {"reseed.refused_by": who, "reseed.refused_because": why})
    record_refusal(registry, refused, champion=champion, who=who, reason=why)
    current = champion.version if champion else None
    return {"model": name, "version": version, "champion": current, "who": who, "reason": why}


def show_refusal(done: dict[str, Any]) -> None:
    """Print what was refused."""
    stays = (
        f"version {done['champion']} stays the champion"
        if done["champion"]
        else "there is no champion yet"
    )
    click.echo(f"{done['model']}: version {done['version']} is refused; {stays}")


def record_refusal(
    registry: Registry, version: Version, *, champion: Version | None, who: str, reason: str
) -> None:
    """Add a row of kind `refused` to the history, with the champion that stays as `before`.

    The same refusal is one row: a flow run that is executed again meets its answer again.
    """
    before, reason = champion.version if champion else None, reason[:MOST]
    with promotion.open_writer(registry, version.name) as writer:
        writer.reconcile(version.name)  # an intent that is open has the number of the next row
        found = PromotionLog.read(registry.client, version.name)
        same = (version.version, before, who, reason)
        if any((row.version, row.before, row.who, row.reason) == same for row in found.refusals):
            return
        when = datetime.now(UTC).isoformat(timespec="microseconds")
        intent = Intent(
            version.name, version.version, before, reason, when, found.next, "refused", who
        )
        tags = registry.version(version.name, version.version).tags
        verdict, evidence = (tags.get(f"reseed.{key}", "") for key in ("verdict", "evidence"))
        writer.held()
        promotion_log.append(
            registry.client, intent, bundle=version.digest, verdict=verdict, evidence=evidence
        )


def read_history(settings: Settings, name: str) -> dict[str, Any]:
    """Every promotion and refusal of `name`, oldest first, and what is not as the history says."""
    registry = open_registry(settings, name)
    rows, champion = PromotionLog.read(registry.client, name).chain, registry.champion(name)
    now = champion.version if champion else None
    return {
        "model": name,
        "champion": now,
        "history": [asdict(r) for r in rows],
        "inconsistencies": registry.inconsistencies(name),
    }


def show_history(found: dict[str, Any]) -> None:
    click.echo(f"{found['model']}: champion {found['champion'] or 'none'}")
    for row in found["history"]:
        beside = "against" if row["kind"] == "refused" else "after"
        came = f"version {row['version']}" + (f" {beside} {row['before']}" if row["before"] else "")
        click.echo(
            f"  {row['number']:>3}  {row['when'][:19]}  {came:<24} {row['kind']:<8} {row['who']:<12} {row['reason']}"
        )
    for sentence in found["inconsistencies"]:
        click.echo(f"  look: {sentence}")


def prune(settings: Settings, name: str, *, keep: int, really: bool) -> dict[str, Any]:
    """What stands in the way of nobody: versions that are not among the newest `keep`, not under an alias and were
    never champion, with their files; removed where `really`.
    """
    registry = open_registry(settings, name)
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
        f"versions {', '.join(sorted(gone, key=int))} and {found['mib']} MiB of this workspace"
        if gone
        else "nothing"
    )
    kept = ", ".join(sorted(found["kept"], key=int)) or "none"
    click.echo(
        f"{found['model']}: {what} {'removed' if done else 'would go; --yes removes it'}; kept: {kept}"
    )
    for sentence in found["stayed"]:
        click.echo(f"  look: {sentence}")


def _directories(settings: Settings, version: Version) -> list[Path]:
    """Where this workspace holds the version's bundle: in stages, and as it was fetched. None of one without a digest, which is
    not ours: the path would be that of every fetched bundle of the project."""
    if not version.digest:
        return []
    found = [settings.workspace.served_bundle(version.name, version.digest)]
    for stage in WITH_WEIGHTS:
        for directory in settings.workspace.published(stage):
            figures = atomic.read_json(directory / atomic.MANIFEST).get("figures", {})
            if figures.get("bundle") == version.digest:
                found.append(directory)
    return [d for d in found if d.exists()]


def _size(directory: Path) -> int:
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())


def open_registry(settings: Settings, name: str) -> Registry:
    """The registry, with what a kill left open finished. Raises UserError when there is no model of this name."""
    registry = Registry(connect(settings), settings)
    registry.require_model(name)
    for sentence in promotion.reconcile(registry, name):
        say(sentence)
    return registry


def _said(reason: str) -> str:
    if not reason.strip():
        raise UserError("--reason is empty: say why, for whoever reads the history")
    return reason.strip()
