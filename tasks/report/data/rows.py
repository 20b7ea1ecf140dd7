"""The rows of one retrain's data as its stages left them. The sealed test set is not among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.curate.checks.personal_data import kinds
from tasks.errors import UserError
from tasks.records import Record, Rejected, read_records, read_rejected
from tasks.stage import Stage
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints

# a row set aside by these repeats a held-out row or holds personal data: its text is never shown
WITHHELD = frozenset({"leak", "short_leak", "personal_data"})

# a row may be set aside under another name than that of the check that ran
RUN_BY = {
    "empty": "normalise",
    "exact_duplicate": "exact",
    "near_duplicate": "near",
    "off_label": "agreement",
    "too_long": "length",
    "too_short": "length",
    "two_labels": "exact",
}


def stage_at(directory: Path) -> Stage:
    """The stage that was published in `directory`, verified. Raises CorruptDirectory."""
    m = atomic.verify(directory)
    key = str(m.get("key", directory.name))
    name = str(m.get("stage", directory.parent.name))
    return Stage(name, str(directory), key, m["digest"], m.get("counts", {}), m.get("seconds", 0.0), found=True)


def generated(record: Record) -> bool:
    """True for a row that an LLM wrote, also after a person has looked at it."""
    return record.source == "synthetic" or "request" in record.lineage


def withheld(set_aside: list[Rejected], splits: Path, *, leak: float, personal: bool) -> Callable[[str, str], bool]:
    """`hidden(id, text)`: True for a text that may not be shown, as it holds personal data or repeats held-out text.

    Held-out text is known by the hashes of its n-grams. A row that was set aside before those checks, or never came to
    them, is looked at here: `leak` is the limit (`curate.leak`), `personal` says whether personal data is looked for.
    Raises UserError for an older version's hashes.
    """
    named = {r.record.id for r in set_aside if r.check in WITHHELD}
    path = splits / FINGERPRINTS
    try:
        held_out = Fingerprints.load(path) if path.exists() else None
    except KeyError:
        raise UserError(f"{path} was made by an older version: run `reseed retrain`, which makes it anew") from None

    def hidden(row: str, text: str) -> bool:
        if row in named:
            return True
        share = held_out.closest(text)[0] if held_out and text else 0.0
        return (share > 0 and share >= leak) or (personal and any(kinds(text)))

    return hidden


@dataclass(frozen=True, slots=True)
class Gathered:
    """Every row of the stages, by what happened to it."""

    rounds: list[Stage]
    written: list[Record]  # rows read from replies, as they came
    unread: list[Rejected]  # replies that held no usable row
    kept: list[Record]  # what curation kept: seed, synthetic, reviewed
    set_aside: list[Rejected]  # by the checks of curation, in their order
    trained_on: list[Record]  # of those, with harvested rows where there are any
    dev: list[Record]
    seed: list[Record]
    unlabelled: list[Record]
    counts: dict[str, Any]  # of curation

    @property
    def checks(self) -> list[str]:
        """The checks of curation that ran, in their order; none where an older stage does not say it."""
        return [str(c["name"]) for c in self.counts.get("checks", [])]

    @property
    def accepted(self) -> list[Record]:
        """The kept rows that an LLM wrote."""
        return [r for r in self.kept if generated(r)]

    @property
    def harvested(self) -> list[Record]:
        """Unlabelled real rows that were given a label."""
        return [r for r in self.trained_on if r.source == "harvested"]

    @property
    def real(self) -> list[Record]:
        """Real rows whose label is known."""
        return [*self.dev, *self.seed]


def gather(*, rounds: list[Stage], curated: Stage, harvested: Stage | None, splits: Stage) -> Gathered:
    """The rows of these stages. `dev`, `seed` and `unlabelled` are all that is read of the splits."""
    written = [r for s in rounds for r in _records(s.directory / "rows.jsonl")]
    unread = [r for s in rounds for r in _rejected(s.directory / "rejected.jsonl")]
    before = {_identity(r) for r in unread}
    kept = _records(curated.directory / "kept.jsonl")
    return Gathered(
        rounds=rounds,
        written=written,
        unread=unread,
        kept=kept,
        set_aside=[r for r in _rejected(curated.directory / "rejected.jsonl") if _identity(r) not in before],
        trained_on=_records(harvested.directory / "kept.jsonl") if harvested else kept,
        dev=_records(splits.directory / "dev.jsonl"),
        seed=_records(splits.directory / "seed.jsonl"),
        unlabelled=_records(splits.directory / "unlabelled.jsonl"),
        counts=curated.counts,
    )


def _identity(r: Rejected) -> tuple[str, str, str]:
    """What tells a reply that curation hands on, already set aside, from a row that curation set aside."""
    return r.check, r.record.id, str(r.record.lineage.get("request"))


def _records(path: Path) -> list[Record]:
    return read_records(path) if path.exists() else []


def _rejected(path: Path) -> list[Rejected]:
    return read_rejected(path) if path.exists() else []
