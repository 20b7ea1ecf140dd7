"""The rows of one retrain, by what its stages did with them, without the sealed test set."""

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

# rows rejected by these repeat a held-out row or hold personal data: their text is never shown
WITHHELD = frozenset({"leak", "short_leak", "personal_data"})

# the check of each name of a rejection that is not a check's own name
CHECK_BY_REASON = {
    "empty": "normalise",
    "exact_duplicate": "exact",
    "near_duplicate": "near",
    "off_label": "agreement",
    "too_long": "length",
    "too_short": "length",
    "two_labels": "exact",
}


def is_generated(record: Record) -> bool:
    """True for a row that an LLM wrote, also after a person reviewed it."""
    return record.source == "synthetic" or "request" in record.lineage


def hidden_texts(
    rejected: list[Rejected], splits: Path, *, leak: float, personal: bool
) -> Callable[[str, str], bool]:
    """`hidden(id, text)`: True for personal data or held-out text, which may not be shown.

    It also holds for rows that never reached those checks: held-out text is recognised by the
    hashes of its n-grams, from the share `leak` (`curate.leak`), and personal data where `personal`
    is set.
    """
    named = {r.record.id for r in rejected if r.check in WITHHELD}
    path = splits / FINGERPRINTS
    held_out = Fingerprints.load(path) if path.exists() else None

    def hidden(row: str, text: str) -> bool:
        if row in named:
            return True
        share = held_out.closest(text)[0] if held_out and text else 0.0
        return (share > 0 and share >= leak) or (personal and any(personal_data_kinds(text)))

    return hidden


@dataclass(frozen=True, slots=True)
class RetrainRows:
    """Every row of the stages, by what happened to it."""

    rounds: list[SynthesiseResult]
    written: list[Record]  # rows as they were in the replies
    unusable: list[Rejected]  # replies without a usable row
    kept: list[Record]  # what curation kept: seed, synthetic, reviewed
    rejected: list[Rejected]  # by the checks of curation, in their order
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
        return [r for r in self.kept if is_generated(r)]

    @property
    def harvested(self) -> list[Record]:
        """Unlabelled real rows that were given a label."""
        return [r for r in self.trained_on if r.source == "harvested"]

    @property
    def real(self) -> list[Record]:
        """Real rows whose label is known."""
        return [*self.dev, *self.seed]


@dataclass(frozen=True, slots=True)
class RetrainStages:
    """The stages of one retrain that wrote its rows."""

    rounds: list[SynthesiseResult]
    curated: CurateResult
    self_trained: SelfTrainingResult | None
    splits: SplitsResult


def load_rows(data: RetrainData) -> RetrainRows:
    """The rows of a retrain's directories, which are verified first. Raises CorruptDirectory."""
    return gather_rows(
        RetrainStages(
            rounds=[SynthesiseResult.load(d) for d in data.rounds],
            curated=CurateResult.load(data.curated),
            self_trained=SelfTrainingResult.load(data.self_trained) if data.self_trained else None,
            splits=SplitsResult.load(data.splits),
        )
    )


def gather_rows(stages: RetrainStages) -> RetrainRows:
    """The rows of these stages; of the splits, only `dev`, `seed` and `unlabelled` are read."""
    written = [r for s in stages.rounds for r in read_records(s.directory / "rows.jsonl")]
    unusable = [r for s in stages.rounds for r in read_rejected(s.directory / "rejected.jsonl")]
    before = {_identity(r) for r in unusable}
    kept = stages.curated.read()
    splits = stages.splits.directory
    return RetrainRows(
        rounds=stages.rounds,
        written=written,
        unusable=unusable,
        kept=kept,
        rejected=[
            r for r in read_rejected(stages.curated.rejected_file) if _identity(r) not in before
        ],
        trained_on=stages.self_trained.read() if stages.self_trained else kept,
        dev=read_records(splits / "dev.jsonl"),
        seed=read_records(splits / "seed.jsonl"),
        unlabelled=read_records(splits / "unlabelled.jsonl"),
        curated=stages.curated,
    )


def _identity(r: Rejected) -> tuple[str, str, str]:
    """Identifies a rejected reply, which curation passes on, among the rows that it rejected."""
    return r.check, r.record.id, str(r.record.lineage.get("request"))
