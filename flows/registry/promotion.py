"""The writes of a promotion, and the repair of what a kill or a lost lock left of one.

MLflow has no compare-and-set: an alias belongs to the last writer. So there is one writer, who holds
the registry's lock and checks before each write that the lock is still held, the intent still open
and the champion the expected one. A writer that is stopped between a check and its write, and loses
the lock meanwhile, makes this one write too late; its next check finds out, and it restores what the
history says.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.registry import notifications, promotion_log
from flows.registry.client import TARGETS, Registry, Version
from flows.registry.lock import WORKSPACE, Held, LockLost, require_single_workspace
from flows.registry.promotion_log import REASON_LENGTH, Intent, Kind, PromotionLog
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

    Raises ChampionMoved where another version is champion by now; CorruptDirectory where its files
    differ from the manifest, or a new process cannot load it and answer each of `probes` with one of
    `labels`.
    """
    smoke_test(registry.fetch(version), version.digest, probes=probes, labels=labels)
    name, client = version.name, registry.client
    with open_writer(registry, name) as writer:
        writer.reconcile(name)
        champion = registry.champion(name)
        if champion is not None and champion.version == version.version:
            return
        old = champion.version if champion else None
        if old != (expected.version if expected else None):
            raise ChampionMoved(
                f"{name}: version {version.version} was compared with "
                f"{f'version {expected.version}' if expected else 'no champion'}, but the champion "
                f"is now {f'version {old}' if old else 'gone'}"
            )
        last = promotion_log.read_tags(client, name).get(WORKSPACE, "")
        if here := require_single_workspace(registry.settings, name, last):
            client.set_registered_model_tag(name, WORKSPACE, here)
        writer.begin(
            Intent(
                name=name,
                new=version.version,
                old=old,
                reason=reason[:REASON_LENGTH],
                when=datetime.now(UTC).isoformat(timespec="microseconds"),
                number=PromotionLog.read(client, name).next_number,
                kind=kind,
                who=who,
            )
        )


def reconcile(registry: Registry, name: str) -> list[str]:
    """Finish the promotions that a killed process left open; a sentence on each."""
    if not PromotionLog.read(registry.client, name).intents:
        return []
    with open_writer(registry, name) as writer:
        return writer.reconcile(name)


@contextlib.contextmanager
def open_writer(registry: Registry, name: str) -> Iterator[Writer]:
    """The only writer of the model `name` during the body.

    Where the lock is lost, what was written too late is repaired before LockLost is raised.
    """
    begun: list[Intent] = []
    try:
        with registry.lock(name) as held:
            try:
                yield Writer(registry, held, begun)
            except Exception:
                held()  # without the lock, the error is another writer's doing
                raise
    except LockLost:
        for intent in begun:
            _repair(registry, intent)
        raise


@dataclass(frozen=True, slots=True)
class Writer:
    """The holder of the lock; `begun` are the promotions that it has written anything of."""

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
        """Move the aliases, add the row, enqueue the notifications and close the intent.

        Every step may be repeated. Raises LockLost where the lock or the intent is gone,
        ChampionMoved where the alias was moved without the lock.
        """
        registry, client = self.registry, self.registry.client
        self.begun.append(intent)
        before = intent.old or _promoted_before(registry, intent)
        if before is not None:
            self.check(intent)
            client.set_registered_model_alias(intent.name, "previous", before)
        self.check(intent)
        client.set_registered_model_alias(intent.name, "champion", intent.new)
        champion = registry.champion(intent.name)
        if champion is None or champion.version != intent.new:
            raise TransientError(
                f"{intent.name}: the alias champion reads back as {champion}, not as version "
                f"{intent.new}: try again"
            )
        verdict, evidence = (champion.tags.get(f"reseed.{k}", "") for k in ("verdict", "evidence"))
        self.check(intent)
        row = promotion_log.append(
            client, intent, bundle=champion.digest, verdict=verdict, evidence=evidence
        )
        targets = json.loads(client.get_registered_model(intent.name).tags.get(TARGETS, "{}"))
        notifications.enqueue(registry.settings, intent, targets=targets, bundle=champion.digest)
        tags = {"reseed.promoted_at": intent.when, promotion_log.ROW: row}
        registry.tag_version(champion, tags)
        intent.close(client)

    def check(self, intent: Intent) -> None:
        """Return where the next write of this promotion may be made."""
        self.held()
        model = self.registry.client.get_registered_model(intent.name)
        if not intent.is_open(model.tags):
            raise LockLost(
                f"{intent.name}: another process has ended the promotion of version {intent.new}"
            )
        now = str(model.aliases["champion"]) if "champion" in model.aliases else None
        if now not in {intent.old, intent.new}:
            raise ChampionMoved(
                f"{intent.name}: while version {intent.new} was promoted, the champion was set to "
                f"{f'version {now}' if now else 'none'} without the lock"
            )

    def reconcile(self, name: str) -> list[str]:
        """Finish every open promotion, or drop it where it is void; a sentence on each."""
        sentences = []
        for intent in PromotionLog.read(self.registry.client, name).intents:
            title = f"promotion of version {intent.new}, begun at {intent.when[:19]}"
            reason = _void_reason(self.registry, intent)
            if reason is None:
                self.carry_out(intent)
                sentences.append(f"{name}: finished the {title}")
            else:
                self.held()
                intent.close(self.registry.client)
                sentences.append(f"{name}: dropped the {title}: {reason}")
        return sentences


def _repair(registry: Registry, intent: Intent) -> None:
    """Undo what this process wrote after it lost the lock, where others have promoted meanwhile."""
    name = intent.name
    with open_writer(registry, name) as writer:
        writer.reconcile(name)
        rows, aliases = registry.history(name), registry.aliases(name)
        if not rows or intent.matches(rows[-1]):
            return
        versions = _existing(registry, name)
        for alias, late, right in (
            ("champion", intent.new, rows[-1].version),
            ("previous", intent.old, rows[-1].before),
        ):
            if aliases.get(alias) == late and right in versions:
                writer.held()
                registry.client.set_registered_model_alias(name, alias, right)


def _void_reason(registry: Registry, intent: Intent) -> str | None:
    """Why an open intent cannot be carried out any more; None where it can."""
    rows = registry.history(intent.name)
    if any(row.number >= intent.number and not intent.matches(row) for row in rows):
        return "others were promoted since"
    champion = registry.champion(intent.name)
    if (champion.version if champion else None) not in {intent.old, intent.new}:
        return "somebody moved the alias champion since"
    if not {intent.old, intent.new} - {None} <= _existing(registry, intent.name):
        return "somebody deleted one of its versions since"
    return None


def _promoted_before(registry: Registry, intent: Intent) -> str | None:
    """The existing version promoted last before this intent: where there was no alias champion, a
    rollback goes to it."""
    versions = _existing(registry, intent.name) - {intent.new}
    rows = [row for row in registry.history(intent.name) if row.number < intent.number]
    return next((row.version for row in reversed(rows) if row.version in versions), None)


def _existing(registry: Registry, name: str) -> set[str | None]:
    return {v.version for v in registry.versions(name)}
