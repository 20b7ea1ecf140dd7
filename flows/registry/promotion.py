"""The writes of a promotion, and how what a kill or a lost lock left of one is set right.

MLflow has no compare-and-set: an alias goes to whoever writes last. So there is one writer, by the registry's lock, and
before each write it looks whether the lock is still held, its intent still open and the champion still the one it knows. Between a
look and its write is a moment that nobody guards: a holder that is stopped just there, loses its lock and goes on later writes
once more. It finds out at its next look, and puts back what the history says.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.registry import notifications, promotion_log
from flows.registry.client import HOOKS, Registry, Version
from flows.registry.lock import WORKSPACE, Held, LockLost, require_single_workspace
from flows.registry.promotion_log import MOST, Intent, Kind, PromotionLog
from flows.registry.smoke_test import smoke_test
from tasks.errors import TransientError


class ChampionMoved(RuntimeError):
    """The champion is not the one that the challenger was compared with: compare again."""


def promote(
    registry: Registry,
    version: Version,
    *,
    expected: Version | None,
    reason: str,
    probes: list[str],
    labels: list[str],
    kind: Kind = "verdict",
    who: str = "",
) -> None:
    """Make `version` the champion in place of `expected`.

    Raises ChampionMoved when another version is champion by now; CorruptDirectory when its files differ
    from the manifest, or a fresh process cannot load it and answer every one of `probes` with one of `labels`.
    """
    smoke_test(registry.fetch(version), version.digest, probes=probes, labels=labels)
    with open_writer(registry, version.name) as writer:
        writer.reconcile(version.name)
        current = registry.champion(version.name)
        if current is not None and current.version == version.version:
            return
        if (current.version if current else None) != (expected.version if expected else None):
            raise ChampionMoved(
                f"{version.name}: version {version.version} was compared with "
                f"{f'version {expected.version}' if expected else 'no champion'}, but the champion is now "
                f"{f'version {current.version}' if current else 'gone'}"
            )
        tags = promotion_log.tags_of(registry.client, version.name)
        if here := require_single_workspace(
            registry.settings, version.name, tags.get(WORKSPACE, "")
        ):
            registry.client.set_registered_model_tag(version.name, WORKSPACE, here)
        intent = Intent(
            name=version.name,
            new=version.version,
            old=current.version if current else None,
            reason=reason[:MOST],
            when=datetime.now(UTC).isoformat(timespec="microseconds"),
            number=PromotionLog.read(registry.client, version.name).next,
            kind=kind,
            who=who,
        )
        writer.begin(intent)


def reconcile(registry: Registry, name: str) -> list[str]:
    """Finish what a killed promotion left open, by whichever worker; a sentence on each."""
    if not PromotionLog.read(registry.client, name).intents:
        return []
    with open_writer(registry, name) as writer:
        return writer.reconcile(name)


@contextlib.contextmanager
def open_writer(registry: Registry, name: str) -> Iterator[Writer]:
    """The one that may write while the body runs, under the lock.

    After LockLost, which is raised again, what it wrote too late is set right.
    """
    begun: list[Intent] = []
    try:
        with registry.lock(name) as held:
            try:
                yield Writer(registry, held, begun)
            except Exception:
                held()  # without the lock, whatever was met is the other's doing
                raise
    except LockLost:
        for intent in begun:
            _set_right(registry, intent)
        raise


@dataclass(frozen=True, slots=True)
class Writer:
    """Who holds the lock, and the promotions that it has a part in."""

    registry: Registry
    held: Held
    begun: list[Intent]

    def begin(self, intent: Intent) -> None:
        """Write the intent and carry it out."""
        self.held()
        self.begun.append(intent)
        intent.write(self.registry.client)
        self.carry_out(intent)

    def carry_out(self, intent: Intent) -> None:
        """Move the aliases, add the row, write the letters and close the intent. Every step can be done twice.

        Raises LockLost when the lock or the intent is gone, ChampionMoved when somebody else moved the alias meanwhile.
        """
        registry, client = self.registry, self.registry.client
        self.begun.append(intent)
        before = intent.old or _promoted_before(registry, intent)
        if before is not None:
            self.check(intent)
            client.set_registered_model_alias(intent.name, "previous", before)
        self.check(intent)
        client.set_registered_model_alias(intent.name, "champion", intent.new)
        back = registry.champion(intent.name)
        if back is None or back.version != intent.new:
            raise TransientError(
                f"{intent.name}: the alias champion reads back as {back}, not version {intent.new}"
            )
        verdict, evidence = (back.tags.get(f"reseed.{key}", "") for key in ("verdict", "evidence"))
        self.check(intent)
        row = promotion_log.append(
            client, intent, bundle=back.digest, verdict=verdict, evidence=evidence
        )
        told = client.get_registered_model(intent.name).tags.get(HOOKS, "{}")
        notifications.enqueue(registry.settings, intent, hooks=json.loads(told), bundle=back.digest)
        registry.tag_version(back, {"reseed.promoted_at": intent.when, promotion_log.ROW: row})
        intent.close(client)

    def check(self, intent: Intent) -> None:
        """Return while the next write of this promotion may be made."""
        self.held()
        model = self.registry.client.get_registered_model(intent.name)
        if not intent.is_open(model.tags):
            raise LockLost(
                f"{intent.name}: another process has ended the promotion of version {intent.new} meanwhile"
            )
        now = str(model.aliases["champion"]) if "champion" in model.aliases else None
        if now not in {intent.old, intent.new}:
            raise ChampionMoved(
                f"{intent.name}: while version {intent.new} was promoted, the champion was set to "
                f"{f'version {now}' if now else 'none'} without the lock"
            )

    def reconcile(self, name: str) -> list[str]:
        """Finish every promotion that a kill left open, or drop it where it can't be any more; a sentence on each."""
        said = []
        for intent in PromotionLog.read(self.registry.client, name).intents:
            why, what = (
                _void(self.registry, intent),
                f"promotion of version {intent.new}, begun at {intent.when[:19]}",
            )
            if why is None:
                self.carry_out(intent)
                said.append(f"{name}: finished the {what}")
            else:
                self.held()
                intent.close(self.registry.client)
                said.append(f"{name}: dropped the {what}: {why}")
        return said


def _set_right(registry: Registry, intent: Intent) -> None:
    """Undo what this process wrote after it had lost the lock, where others have promoted meanwhile."""
    with open_writer(registry, intent.name) as writer:
        writer.reconcile(intent.name)
        rows, aliases = registry.history(intent.name), registry.aliases(intent.name)
        if not rows or intent.is_row(rows[-1]):
            return
        last, there = rows[-1], {v.version for v in registry.versions(intent.name)}
        if aliases.get("champion") == intent.new and last.version in there:
            writer.held()
            registry.client.set_registered_model_alias(intent.name, "champion", last.version)
        if (
            last.before is not None
            and aliases.get("previous") == intent.old
            and last.before in there
        ):
            writer.held()
            registry.client.set_registered_model_alias(intent.name, "previous", last.before)


def _void(registry: Registry, intent: Intent) -> str | None:
    """Why an open intent can't be carried out any more; None where it can."""
    if any(
        row.number >= intent.number and not intent.is_row(row)
        for row in registry.history(intent.name)
    ):
        return "others were promoted since"
    champion = registry.champion(intent.name)
    if (champion.version if champion else None) not in {intent.old, intent.new}:
        return "somebody moved the alias champion since"
    there = {None, *(v.version for v in registry.versions(intent.name))}
    if not {intent.old, intent.new} <= there:
        return "somebody deleted a version of it since"
    return None


def _promoted_before(registry: Registry, intent: Intent) -> str | None:
    """Where there was no alias champion: the version promoted last that is there, which a rollback goes to."""
    there = {v.version for v in registry.versions(intent.name)} - {intent.new}
    rows = [row for row in registry.history(intent.name) if row.number < intent.number]
    return next((row.version for row in reversed(rows) if row.version in there), None)
