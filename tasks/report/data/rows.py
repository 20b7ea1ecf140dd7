"""The rows of one retrain's data as its stages left them. The sealed test set is not among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.augment.self_training import SelfTrainingResult
from tasks.curate.checks.personal_data import personal_data_kinds
from tasks.curate.stage import CurateResult
from tasks.dataset.split import SplitsResult
from tasks.records import Record, Rejected, read_records, read_rejected
from tasks.synthesise.stage import SynthesiseResult
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints
from tasks.workspace import RetrainData

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


def generated(record: Record) -> bool:
    """True for a row that an LLM wrote, also after a person has looked at it."""
    return record.source == "synthetic" or "request" in record.lineage


def withheld(
    set_aside: list[Rejected], splits: Path, *, leak: float, personal: bool
) -> Callable[[str, str], bool]:
    """`hidden(id, text)`: True for a text that may not be shown, as it holds personal data or repeats held-out text.

    Held-out text is known by the hashes of its n-grams. A row that was set aside before those checks, or never came to
    them, is looked at here: `leak` is the limit (`curate.leak`), `personal` says whether personal data is looked for.
    """
    named = {r.record.id for r in set_aside if r.check in WITHHELD}
    path = splits / FINGERPRINTS
    held_out = Fingerprints.load(path) if path.exists() else None

    def hidden(row: str, text: str) -> bool:
        if row in named:
            return True
        share = held_out.closest(text)[0] if held_out and text else 0.0
        return (share > 0 and share >= leak) or (personal and any(personal_data_kinds(text)))

    return hidden


@dataclass(frozen=True, slots=True)
class Gathered:
    """Every row of the stages, by what happened to it."""

    rounds: list[SynthesiseResult]
    written: list[Record]  # rows read from replies, as they came
    unread: list[Rejected]  # replies that held no usable row
    kept: list[Record]  # what curation kept: seed, synthetic, reviewed
    set_aside: list[Rejected]  # by the checks of curation, in their order
    trained_on: list[Record]  # of those, with harvested rows where there are any
    dev: list[Record]
    seed: list[Record]
    unlabelled: list[Record]
    curated: CurateResult

    @property
    def checks(self) -> list[str]:
        """The checks of curation, in their order."""
        return [c.name for c in self.curated.checks]

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


def load(data: RetrainData) -> Gathered:
    """The rows of a retrain's directories, which are verified first. Raises CorruptDirectory."""
    return gather(
        rounds=[SynthesiseResult.load(d) for d in data.rounds],
        curated=CurateResult.load(data.curated),
        self_trained=SelfTrainingResult.load(data.self_trained) if data.self_trained else None,
        splits=SplitsResult.load(data.splits),
    )


def gather(
    *,
    rounds: list[SynthesiseResult],
    curated: CurateResult,
    self_trained: SelfTrainingResult | None,
    splits: SplitsResult,
) -> Gathered:
    """The rows of these stages. `dev`, `seed` and `unlabelled` are all that is read of the splits."""
    written = [r for s in rounds for r in read_records(s.directory / "rows.jsonl")]
    unread = [r for s in rounds for r in read_rejected(s.directory / "rejected.jsonl")]
    before = {_identity(r) for r in unread}
    kept = curated.read()
    return Gathered(
        rounds=rounds,
        written=written,
        unread=unread,
        kept=kept,
        set_aside=[
            r
            for r in read_rejected(curated.directory / "rejected.jsonl")
            if _identity(r) not in before
        ],
        trained_on=self_trained.read() if self_trained else kept,
        dev=read_records(splits.directory / "dev.jsonl"),
        seed=read_records(splits.directory / "seed.jsonl"),
        unlabelled=read_records(splits.directory / "unlabelled.jsonl"),
        curated=curated,
    )


def _identity(r: Rejected) -> tuple[str, str, str]:
    """What tells a reply that curation hands on, already set aside, from a row that curation set aside."""
    return r.check, r.record.id, str(r.record.lineage.get("request"))
