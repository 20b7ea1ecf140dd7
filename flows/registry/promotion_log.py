"""The promotion log of a model: open intents and the history, in the tags of the registered model.

An intent is written before the aliases move and deleted afterwards, so what a killed process left
open is finished at the next start, by any worker. The history has a row per promotion and refusal,
which stays when an alias moves. Each row holds the digest of the row before it, and a promoted
version holds the digest of its own row, so a row that was changed or deleted is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from tasks.atomic import digest_of
from tasks.figures import Figures

Kind = Literal["verdict", "by hand", "rollback", "refused"]
Entry = TypeVar("Entry", bound=Figures)

ROW = "reseed.promotion"  # tag of a version: the digest of its last row in the history
_ROWS, _INTENTS = "reseed.history.", "reseed.intent."
REASON_LENGTH = 3000  # characters of a reason that are kept: a tag of MLflow holds 5000


class LogEntry(Figures):
    """One row of the history: `who` made `version` the champion in place of `before`, or refused to.

    `bundle` is the digest of the version's bundle, `evidence` of its verdict's evidence, and `link`
    of the row before.
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
        """The digest of the whole row."""
        return digest_of(self.model_dump())


class Intent(Figures):
    """A promotion that was begun, from version `old` to `new`, to be row `number` of the history.

    Once the history has another row of this number, the intent is void.
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
        """The id of the promotion, the same when it is carried out again."""
        return hashlib.sha256(f"{self.name}\0{self.when}\0{self.new}".encode()).hexdigest()[:32]

    def write(self, client: MlflowClient) -> None:
        """Record the intent on the registered model."""
        client.set_registered_model_tag(self.name, _INTENTS + self.id, self.model_dump_json())

    def close(self, client: MlflowClient) -> None:
        """Delete the intent from the registered model."""
        client.delete_registered_model_tag(self.name, _INTENTS + self.id)

    def is_open(self, tags: Mapping[str, str]) -> bool:
        """True where the registered model's tags hold the intent."""
        return _INTENTS + self.id in tags

    def matches(self, row: LogEntry) -> bool:
        """True of the row that this promotion added."""
        return (row.when, row.version) == (self.when, self.new)


@dataclass(frozen=True, slots=True)
class PromotionLog:
    """`rows`, the promotions and refusals by their numbers; the open intents, oldest first; and the
    numbers of unreadable rows."""

    rows: list[LogEntry]
    intents: list[Intent]
    unreadable: list[int]

    @classmethod
    def read(cls, client: MlflowClient, name: str) -> PromotionLog:
        """The log of the model `name`; empty where there is no such model."""
        return cls.from_tags(read_tags(client, name))

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> PromotionLog:
        """The log in the tags of a registered model."""
        log = cls([], [], [])
        for key, text in tags.items():
            if key.startswith(_ROWS) and key.removeprefix(_ROWS).isdigit():
                number = int(key.removeprefix(_ROWS))
                row = _parse(LogEntry, text)
                if row is None or row.number != number:
                    log.unreadable.append(number)
                else:
                    log.rows.append(row)
            elif key.startswith(_INTENTS):
                intent = _parse(Intent, text)
                if intent is not None and intent.is_open(tags):
                    log.intents.append(intent)
        log.unreadable.sort()
        log.rows.sort(key=lambda row: row.number)
        log.intents.sort(key=lambda intent: intent.when)
        return log

    @property
    def promotions(self) -> list[LogEntry]:
        """The rows that moved the champion."""
        return [row for row in self.rows if row.kind != "refused"]

    @property
    def next_number(self) -> int:
        """The number of the next row."""
        return 1 + max([0, *(row.number for row in self.rows), *self.unreadable])

    def taken_back(self, version: str) -> LogEntry | None:
        """The row by which a person replaced the version after it was promoted last.

        None where it was never champion, still is, or lost against a verdict.
        """
        promotions = self.promotions
        last = max(
            (i for i, row in enumerate(promotions) if row.version == version),
            default=len(promotions),
        )
        return next((row for row in promotions[last + 1 : last + 2] if row.kind != "verdict"), None)

    def broken_links(self) -> list[str]:
        """A sentence per row that is unreadable or does not follow the one before it."""
        sentences = [f"row {number} is unreadable: it was changed" for number in self.unreadable]
        last: LogEntry | None = None
        for row in self.rows:
            if row.number != (last.number + 1 if last else 1):
                if row.number - 1 not in self.unreadable:
                    sentences.append(f"a row is missing before row {row.number}")
            elif row.link != (last.digest if last else ""):
                sentences.append(
                    f"row {row.number} does not follow row {row.number - 1}: one of them was changed"
                )
            last = row
        return sentences

    def inconsistencies(
        self, champion: str | None, *, versions: Mapping[str, str | None]
    ) -> list[str]:
        """A sentence on every contradiction between the history and the registry.

        `champion` is the version with that alias; `versions` has every version with the digest of
        its row, as the version holds it.
        """
        sentences, promotions = self.broken_links(), self.promotions
        last = promotions[-1].version if promotions else None
        now = f"version {champion}" if champion else "gone"
        if last is not None and last not in versions:
            sentences.append(
                f"version {last}, which was promoted last, was deleted; the alias champion is {now}"
            )
        elif last not in {None, champion}:
            sentences.append(
                f"the alias champion is {now}, but version {last} was promoted last: it was moved "
                "without Reseed"
            )
        for version, digest in versions.items():  # all, or deleted last rows would go unnoticed
            if digest not in {None, *(r.digest for r in promotions if r.version == version)}:
                sentences.append(
                    f"the row of version {version} was changed or deleted since it was promoted"
                )
        if champion is not None and last is None and versions.get(champion) is None:
            sentences.append(f"the alias champion is {now}, which was not promoted by Reseed")
        return sentences


def append(
    client: MlflowClient, intent: Intent, *, bundle: str, verdict: str, evidence: str
) -> str:
    """Add the row of a promotion or refusal, unless it is there; its digest.

    Call it while holding the registry's lock.
    """
    rows = PromotionLog.read(client, intent.name).rows
    existing = next((row for row in rows if intent.matches(row)), None)
    if existing is not None:
        return existing.digest
    row = LogEntry(
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
    client.set_registered_model_tag(intent.name, f"{_ROWS}{row.number:06d}", row.model_dump_json())
    return row.digest


def read_tags(client: MlflowClient, name: str) -> dict[str, str]:
    """The tags of the registered model; none where there is no such model."""
    try:
        return dict(client.get_registered_model(name).tags)
    except MlflowException as e:
        if e.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def _parse(kind: type[Entry], text: str) -> Entry | None:
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        return None
