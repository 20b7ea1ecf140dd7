"""What was meant and what was done, both in MLflow's store, where the aliases are: intents, and the history of a name.

An intent is written before the aliases move and taken away after, so that what a kill leaves between them is finished at the
next start, of whichever worker and workspace. The history has one row a promotion and one a refusal, in the tags of the
registered model: it stays when an alias is moved or deleted. Each row holds the digest of the one before it, and the version that was
promoted the digest of its row, so a row that was changed or taken away is seen.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter

from tasks.atomic import digest_of

Kind = Literal["verdict", "by hand", "rollback", "refused"]
ROW = "reseed.promotion"  # of a version: the digest of its last row in the history
_ROWS, _INTENTS = "reseed.history.", "reseed.intent."
MOST = 3000  # characters of a reason that are kept: a tag of MLflow's holds 5000


@dataclass(frozen=True, slots=True)
class Intent:
    """A promotion that was begun: from `old` to `new`, by whom and why, to be row `number` of the history.

    The number is the fence: once the history has another row of this number, the intent is void.
    """

    name: str
    new: str
    old: str | None
    reason: str
    when: str
    number: int
    kind: Kind = "verdict"
    who: str = ""

    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.name}\0{self.when}\0{self.new}".encode()).hexdigest()[:32]

    def write(self, client: MlflowClient) -> None:
        client.set_registered_model_tag(
            self.name, _INTENTS + self.id, json.dumps(asdict(self), ensure_ascii=False)
        )

    def close(self, client: MlflowClient) -> None:
        client.delete_registered_model_tag(self.name, _INTENTS + self.id)

    def is_open(self, tags: dict[str, str]) -> bool:
        return _INTENTS + self.id in tags

    def is_row(self, row: LogEntry) -> bool:
        return (row.when, row.version) == (self.when, self.new)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One row of the history: at `when`, `who` made `version` the champion in place of `before`, or refused to.

    `bundle` is the digest of what was promoted, `evidence` of what its verdict rests on, `link` of the row before.
    """

    number: int
    when: str
    kind: Kind
    version: str
    bundle: str
    before: str | None
    who: str
    reason: str
    verdict: str
    evidence: str
    link: str

    @property
    def digest(self) -> str:
        return digest_of(asdict(self))


@dataclass(frozen=True, slots=True)
class PromotionLog:
    """The promotions of a name, oldest first, its refusals, its open intents, and the numbers of rows that can't be read."""

    rows: list[LogEntry] = field(default_factory=list)
    refusals: list[LogEntry] = field(default_factory=list)
    intents: list[Intent] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, client: MlflowClient, name: str) -> PromotionLog:
        """Empty where there is no such model."""
        return cls.of(tags_of(client, name))

    @classmethod
    def of(cls, tags: dict[str, str]) -> PromotionLog:
        found = cls()
        for key, said in sorted(tags.items()):
            if key.startswith(_ROWS) and key.removeprefix(_ROWS).isdigit():
                number = int(key.removeprefix(_ROWS))
                row = _read(LogEntry, said)
                if row is None or row.number != number:
                    found.unreadable.append(number)
                else:
                    (found.refusals if row.kind == "refused" else found.rows).append(row)
            elif key.startswith(_INTENTS):
                intent = _read(Intent, said)
                if intent is not None and intent.is_open(tags):
                    found.intents.append(intent)
        found.rows.sort(key=lambda row: row.number)
        found.intents.sort(key=lambda intent: intent.when)
        return found

    @property
    def chain(self) -> list[LogEntry]:
        """The promotions and the refusals, in the order of their numbers: each follows on the one before."""
        return sorted([*self.rows, *self.refusals], key=lambda row: row.number)

    @property
    def next(self) -> int:
        """The number of the row to come."""
        return 1 + max([0, *(row.number for row in self.chain), *self.unreadable])

    def taken_back(self, version: str) -> LogEntry | None:
        """The row by which a person put another version in the place of this one, after it was promoted last; None where it was
        never champion, still is, or had to give way to a verdict."""
        at = max(
            (i for i, row in enumerate(self.rows) if row.version == version), default=len(self.rows)
        )
        return next((row for row in self.rows[at + 1 : at + 2] if row.kind != "verdict"), None)

    def broken_links(self) -> list[str]:
        """A sentence for each row that does not follow on the one before it: something was changed or taken away."""
        found = [f"row {number} can't be read: it was changed" for number in self.unreadable]
        last: LogEntry | None = None
        for row in self.chain:
            if row.number != (last.number + 1 if last else 1):
                if row.number - 1 not in self.unreadable:
                    found.append(f"before row {row.number} a row is missing")
            elif row.link != (last.digest if last else ""):
                found.append(
                    f"row {row.number} does not follow on row {row.number - 1} as it stands: one of them was changed"
                )
            last = row
        return found

    def inconsistencies(self, champion: str | None, *, there: dict[str, str | None]) -> list[str]:
        """A sentence on whatever is not as the rows say: `champion` is the version of the alias, `there` the versions that there
        are, each with the digest of its row as it carries it."""
        found, last = self.broken_links(), self.rows[-1].version if self.rows else None
        now = f"version {champion}" if champion else "gone"
        if last is not None and last not in there:
            found.append(
                f"version {last}, which was promoted last, was deleted; the alias champion is {now}"
            )
        elif last not in {None, champion}:
            found.append(
                f"the alias champion is {now}, but version {last} was promoted last: it was moved without Reseed"
            )
        for (
            version,
            written,
        ) in there.items():  # of every version, or the last rows could be cut off unseen
            if written not in {None, *(row.digest for row in self.rows if row.version == version)}:
                found.append(
                    f"the row of version {version} was changed or taken away since it was promoted"
                )
        if champion is not None and last is None and there.get(champion) is None:
            found.append(f"the alias champion is {now}, which was not promoted by Reseed")
        return found


def append(
    client: MlflowClient, intent: Intent, *, bundle: str, verdict: str, evidence: str
) -> str:
    """Add the row of a promotion that was carried out or refused, once; its digest. Call it under the registry's lock."""
    rows = PromotionLog.read(client, intent.name).chain
    there = next((row for row in rows if intent.is_row(row)), None)
    if there is not None:
        return there.digest
    entry = LogEntry(
        number=intent.number,
        when=intent.when,
        kind=intent.kind,
        version=intent.new,
        bundle=bundle,
        before=intent.old,
        who=intent.who,
        reason=intent.reason,
        verdict=verdict,
        evidence=evidence,
        link=rows[-1].digest if rows else "",
    )
    said = json.dumps(asdict(entry), ensure_ascii=False, sort_keys=True)
    client.set_registered_model_tag(intent.name, f"{_ROWS}{entry.number:06d}", said)
    return entry.digest


def tags_of(client: MlflowClient, name: str) -> dict[str, str]:
    """The tags of the registered model; none where there is no such model."""
    try:
        return dict(client.get_registered_model(name).tags)
    except MlflowException as e:
        if e.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def _read(kind: Any, said: str) -> Any:
    """The row or intent, or None where somebody made something else of it."""
    try:
        return TypeAdapter(kind).validate_json(said, strict=True)
    except ValueError:
        return None
