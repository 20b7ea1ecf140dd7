"""What the checks may look at besides the records, and what they learn on the way: embeddings, opinions, doubts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.curate.opinions import Opinions
from tasks.dataset.split import SplitsResult
from tasks.encoder.base_model import resolve_encoder
from tasks.figures import Figures
from tasks.project import Curate, Project
from tasks.records import Label, Record, Rejected, iter_records, read_records
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row that a person should look at: real ones stay among the training rows meanwhile, others are set aside."""

    id: str
    text: str
    label: Label | None
    check: str
    reason: str
    suggested: Label | None = None
    probability: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class CheckCounts(Figures):
    """How many rows came to a check, how many it rejected, and the seconds it took."""

    name: str
    came: int
    out: int
    seconds: float


@dataclass
class Context:
    """What the checks share. `real` holds texts for statistics only: seed, dev and unlabelled rows, never the test set."""

    settings: Curate
    held_out: Fingerprints
    embed: Callable[[list[str]], np.ndarray]
    real: list[Record] = field(default_factory=list)
    doubtful: list[Doubt] = field(default_factory=list)
    personal_data: Counter[str] = field(default_factory=Counter)
    funnel: list[CheckCounts] = field(default_factory=list)
    _opinions: Opinions | None = None
    _rows: dict[str, int] = field(default_factory=dict)
    _vectors: list[np.ndarray] = field(default_factory=list)

    def vectors(self, records: list[Record]) -> np.ndarray:
        """One embedding a record, float32 of length 1; each text is embedded once, whichever checks ask."""
        import numpy as np

        new = {r.id: r.text for r in records if r.id not in self._rows}
        if new:
            self._rows |= {row_id: len(self._rows) + i for i, row_id in enumerate(new)}
            self._vectors.append(self.embed(list(new.values())))
            self._vectors = [np.concatenate(self._vectors)]
        return (
            self._vectors[0][[self._rows[r.id] for r in records]]
            if records
            else np.zeros((0, 1), np.float32)
        )

    def opinions(self, records: list[Record]) -> Opinions | None:
        """The probe's out-of-fold opinion of each record, or None where it can't learn. Made once; later calls may ask
        about fewer records.
        """
        if self._opinions is None or not self._opinions.know(records):
            self._opinions = Opinions.of(records, self.vectors)
        return self._opinions

    @property
    def known_opinions(self) -> Opinions | None:
        """The probe's opinions, where a check asked for them."""
        return self._opinions

    def doubt(
        self,
        rejected: Rejected,
        *,
        suggested: Label | None = None,
        probability: float | None = None,
    ) -> None:
        """List a row for a person to review."""
        r = rejected.record
        self.doubtful.append(
            Doubt(r.id, r.text, r.label, rejected.check, rejected.reason, suggested, probability)
        )


REAL = 5000  # unlabelled rows that are read for the frequencies of words


def context_of(
    project: Project,
    splits: SplitsResult,
    *,
    workspace: Workspace,
    real: list[Record] | None = None,
) -> Context:
    """What the checks compare rows with. The encoder is looked up when a text is embedded, not before."""

    def embedded(texts: list[str]) -> np.ndarray:
        from tasks.encoder.embed import embed

        return embed(
            resolve_encoder(project, workspace), texts, max_length=project.train.max_length
        )

    held_out = Fingerprints.load(splits.directory / FINGERPRINTS)
    return Context(project.curate, held_out, embedded, real=real or [])


def real_rows(splits: SplitsResult) -> list[Record]:
    """Real rows for statistics: seed, dev, and the first of the unlabelled."""
    real = [
        r for split in ("seed", "dev") for r in read_records(splits.directory / f"{split}.jsonl")
    ]
    return [*real, *itertools.islice(iter_records(splits.directory / "unlabelled.jsonl"), REAL)]
