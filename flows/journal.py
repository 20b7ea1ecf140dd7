"""What was meant and what was done: the intent of a promotion on this disk, and the history of a name in MLflow's store.

An intent is written before the aliases move and closed after, so that a kill between them is finished at the next start.
The history has one row a promotion, in the tags of the registered model: it is where the aliases are, for every worker,
and stays when an alias is moved or deleted. Each row holds the digest of the one before it, so a row that was changed or
taken away is seen.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.settings import Settings
from tasks import files
from tasks.records import digest_of

Kind = Literal["verdict", "by hand", "rollback"]
_TAG = "reseed.history."
_MOST = 3000  # characters of a reason that are kept: a tag of MLflow's holds 5000


@dataclass(frozen=True, slots=True)
class Intent:
    """A promotion in the journal: from `old` to `new`, by whom and why."""

    name: str
    new: str
    old: str | None
    reason: str
    when: str
    state: str = "open"
    kind: Kind = "verdict"
    who: str = ""

    def write(self, settings: Settings) -> None:
        files.write_json(self._path(settings), asdict(self))

    def close(self, settings: Settings, state: str) -> None:
        files.write_json(self._path(settings), asdict(self) | {"state": state})

    def _path(self, settings: Settings) -> Any:
        return settings.home / "journal" / self.name / f"{self.when.replace(':', '')}-{self.new}.json"

    @classmethod
    def all(cls, settings: Settings, name: str) -> list[Intent]:
        """The journal of a project, oldest first."""
        return [cls(**files.read_json(p)) for p in sorted((settings.home / "journal" / name).glob("[!.]*.json"))]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the history: at `when`, `who` made `version` the champion in place of `before`.

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


def read_history(client: MlflowClient, name: str) -> list[Entry]:
    """The promotions of `name`, oldest first; none where there is no such model."""
    try:
        tags = client.get_registered_model(name).tags
    except MlflowException as e:
        if e.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []
        raise
    rows = sorted((k, v) for k, v in tags.items() if k.startswith(_TAG))
    return [Entry(**json.loads(v)) for _, v in rows]


def note(client: MlflowClient, intent: Intent, *, bundle: str, verdict: str, evidence: str) -> None:
    """Add the row of a promotion that was carried out, once. Call it under the registry's lock."""
    rows = read_history(client, intent.name)
    if any((row.when, row.version) == (intent.when, intent.new) for row in rows):
        return
    entry = Entry(
        number=rows[-1].number + 1 if rows else 1,
        when=intent.when,
        kind=intent.kind,
        version=intent.new,
        bundle=bundle,
        before=intent.old,
        who=intent.who,
        reason=intent.reason[:_MOST],
        verdict=verdict,
        evidence=evidence,
        link=rows[-1].digest if rows else "",
    )
    said = json.dumps(asdict(entry), ensure_ascii=False, sort_keys=True)
    client.set_registered_model_tag(intent.name, f"{_TAG}{entry.number:06d}", said)


def broken_links(rows: list[Entry]) -> list[str]:
    """A sentence for each row that does not follow on the one before it: something was changed or taken away."""
    found = []
    last: Entry | None = None
    for row in rows:
        if row.number != (last.number + 1 if last else 1):
            found.append(f"before row {row.number} a row is missing")
        elif row.link != (last.digest if last else ""):
            found.append(
                f"row {row.number} does not follow on row {row.number - 1} as it stands: one of them was changed"
            )
        last = row
    return found
