"""What a person does to the registry: promote by hand, roll back, refuse, and read the history."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from flows.progress import say
from flows.registry import notifications, promotion, promotion_log
from flows.registry.client import Registry, Version, require_champion
from flows.registry.promotion_log import REASON_LENGTH, Intent, Kind, LogEntry, PromotionLog
from flows.settings import Settings, current_user
from flows.tracking.store import connect
from tasks.atomic import CorruptDirectory
from tasks.errors import UserError
from tasks.figures import Figures
from tasks.model.bundle import check_bundle

# a model must answer any text
PROBES = ["A short text.", "Another one, a little longer, with a comma.", "1"]


class PromotionReport(Figures):
    """The new champion, the version `before` it, and a sentence per notification."""

    model: str
    version: str
    before: str | None
    reason: str
    notifications: list[str]


class RefusalReport(Figures):
    """The refused version, and the champion that stays."""

    model: str
    version: str
    champion: str | None
    who: str
    reason: str


class HistoryReport(Figures):
    """Every promotion and refusal, oldest first, and whatever contradicts them in the registry."""

    model: str
    champion: str | None
    history: list[LogEntry]
    inconsistencies: list[str]


def acting_person(by: str | None = None) -> str:
    """The name in --by, or this machine's user. Raises UserError for a blank or long name."""
    if by is None:
        return current_user()
    if not by.strip() or len(by) > 100:
        raise UserError(f"--by {by[:20]!r} is not a name: give 1 to 100 characters")
    return by.strip()


def open_registry(settings: Settings, name: str) -> Registry:
    """The registry, after promotions that a kill left open were finished.

    Raises UserError where there is no model of this name.
    """
    registry = Registry(connect(settings), settings)
    registry.require_model(name)
    for sentence in promotion.reconcile(registry, name):
        say(sentence)
    return registry


def promote_by_hand(
    settings: Settings, name: str, version: str, *, reason: str, by: str | None = None
) -> PromotionReport:
    """Make a registered version the champion whatever its verdict says."""
    registry = open_registry(settings, name)
    return _promote(registry, registry.version(name, version), kind="by hand", reason=reason, by=by)


def roll_back(
    settings: Settings, name: str, *, reason: str, by: str | None = None
) -> PromotionReport:
    """Make the previous champion the champion again. Raises UserError where there is none."""
    registry = open_registry(settings, name)
    champion = require_champion(registry, name)
    previous = registry.find_alias(name, "previous")
    if previous is None or previous.version == champion.version:
        raise UserError(
            f"{name!r} has no version to go back to, as version {champion.version} is the first "
            f"champion: `reseed promote {name} VERSION --reason ...` takes any other"
        )
    return _promote(registry, previous, kind="rollback", reason=reason, by=by)


def _promote(
    registry: Registry, version: Version, *, kind: Kind, reason: str, by: str | None
) -> PromotionReport:
    name, number, reason = version.name, version.version, _require_reason(reason)
    champion = registry.champion(name)
    if champion is not None and champion.version == number:
        raise UserError(f"version {number} of {name!r} is the champion already")
    try:
        promotion.promote(
            registry,
            version,
            expected=champion,
            reason=reason,
            probes=PROBES,
            labels=list(check_bundle(registry.fetch(version), digest=version.digest)["labels"]),
            kind=kind,
            who=acting_person(by),
        )
    except CorruptDirectory as e:
        raise UserError(f"version {number} of {name!r} cannot be the champion: {e}") from None
    if who := registry.version(name, number).tags.get("reseed.refused_by"):
        registry.tag_version(version, {"reseed.overruled": f"refused by {who}"})
        registry.client.delete_model_version_tag(name, number, "reseed.refused_by")
    return PromotionReport(
        model=name,
        version=number,
        before=champion.version if champion else None,
        reason=reason,
        notifications=notifications.deliver(registry.settings, registry),
    )


def show_promotion(report: PromotionReport) -> None:
    """Print the new champion and what became of the notifications."""
    before = f", in place of version {report.before}" if report.before else ""
    click.echo(f"{report.model}: version {report.version} is the champion{before}")
    for sentence in report.notifications:
        click.echo(f"  {sentence}")


def refuse_version(
    settings: Settings, name: str, version: str, *, reason: str, by: str | None = None
) -> RefusalReport:
    """Record that a version is not to be the champion. Raises UserError for the champion itself."""
    who, reason = acting_person(by), _require_reason(reason)
    registry = Registry(connect(settings), settings)
    registry.require_model(name)
    refused, champion = registry.version(name, version), registry.champion(name)
    if champion is not None and champion.version == refused.version:
        raise UserError(
            f"version {version} of {name!r} is the champion: "
            f"`reseed rollback {name} --reason ...` replaces it"
        )
    tags = {"reseed.refused_by": who, "reseed.refused_because": reason}
    registry.tag_version(refused, tags)
    record_refusal(registry, refused, champion=champion, who=who, reason=reason)
    current = champion.version if champion else None
    return RefusalReport(model=name, version=version, champion=current, who=who, reason=reason)


def show_refusal(report: RefusalReport) -> None:
    """Print which version was refused and which is the champion."""
    champion = f"version {report.champion} stays" if report.champion else "there is no"
    click.echo(f"{report.model}: version {report.version} is refused; {champion} champion")


def record_refusal(
    registry: Registry, version: Version, *, champion: Version | None, who: str, reason: str
) -> None:
    """Add a row of kind `refused` to the history, with the champion as `before`.

    The same refusal is added once: a flow run that is executed again gets the same answer again.
    """
    before, reason = champion.version if champion else None, reason[:REASON_LENGTH]
    with promotion.open_writer(registry, version.name) as writer:
        writer.reconcile(version.name)  # an open intent has the number of the next row
        log = PromotionLog.read(registry.client, version.name)
        new = ("refused", version.version, before, who, reason)
        if any((r.kind, r.version, r.before, r.who, r.reason) == new for r in log.rows):
            return
        intent = Intent(
            name=version.name,
            new=version.version,
            old=before,
            reason=reason,
            when=datetime.now(UTC).isoformat(timespec="microseconds"),
            number=log.next_number,
            kind="refused",
            who=who,
        )
        tags = registry.version(version.name, version.version).tags
        verdict, evidence = (tags.get(f"reseed.{key}", "") for key in ("verdict", "evidence"))
        writer.held()
        promotion_log.append(
            registry.client, intent, bundle=version.digest, verdict=verdict, evidence=evidence
        )


def read_history(settings: Settings, name: str) -> HistoryReport:
    """The history of `name`, compared with the registry."""
    registry = open_registry(settings, name)
    champion = registry.champion(name)
    return HistoryReport(
        model=name,
        champion=champion.version if champion else None,
        history=PromotionLog.read(registry.client, name).rows,
        inconsistencies=registry.inconsistencies(name),
    )


def show_history(report: HistoryReport) -> None:
    """Print a line per promotion and refusal, and a warning per contradiction."""
    click.echo(f"{report.model}: champion {report.champion or 'none'}")
    for row in report.history:
        relation = "against" if row.kind == "refused" else "after"
        change = f"version {row.version}" + (f" {relation} {row.before}" if row.before else "")
        click.echo(
            f"  {row.number:>3}  {row.when[:19]}  {change:<24} {row.kind:<8} {row.who:<12} "
            f"{row.reason}"
        )
    for sentence in report.inconsistencies:
        click.echo(f"  warning: {sentence}")


def _require_reason(reason: str) -> str:
    if not reason.strip():
        raise UserError("--reason is empty: give a reason for the history")
    return reason.strip()
