"""What the checks read besides the records, and what they collect: embeddings, opinions, doubtful rows."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.curate.opinions import Opinions, form_opinions
from tasks.dataset.split import SplitsResult
from tasks.encoder.base_model import resolve_encoder
from tasks.figures import Figures
from tasks.project import Curate, Project
from tasks.records import Label, Record, Rejected, iter_records, read_records
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

_UNLABELLED = 5000  # unlabelled rows that are read for the frequencies of words


@dataclass(frozen=True, slots=True)
class DoubtfulRow:
    """A row whose label a check doubts, with the label that it suggests and its probability."""

    id: str
    text: str
    label: Label | None
    check: str
    reason: str
    suggested: Label | None = None
    probability: float | None = None


class CheckCounts(Figures):
    """How many rows a check received and rejected, and the seconds it took."""

    name: str
    received: int
    rejected: int
    seconds: float


@dataclass
class CurationContext:
    """What the checks share.

    `held_out` fingerprints dev and test rows; `embed(texts)` gives float32 vectors of length 1; `real`
    holds texts for statistics: seed, dev and unlabelled rows, never the test set. The checks fill
    `doubtful` and `personal_data` (kinds of it, counted), and `run_checks` fills `funnel`.
    """

    settings: Curate
    held_out: Fingerprints
    embed: Callable[[list[str]], np.ndarray]
    real: list[Record] = field(default_factory=list)
    doubtful: list[DoubtfulRow] = field(default_factory=list)
    personal_data: Counter[str] = field(default_factory=Counter)
    funnel: list[CheckCounts] = field(default_factory=list)
    known_opinions: Opinions | None = None
    _vectors: dict[str, np.ndarray] = field(default_factory=dict)

    def vectors(self, records: list[Record]) -> np.ndarray:
        """The embeddings of the records, shape (rows, dimensions); each text is embedded once."""
        import numpy as np

        new = {r.id: r.text for r in records if r.id not in self._vectors}
        if new:
            self._vectors |= zip(new, self.embed(list(new.values())), strict=True)
        return np.array([self._vectors[r.id] for r in records])

    def opinions(self, records: list[Record]) -> Opinions | None:
        """The probe's opinion of each record, by id; None while a label has fewer than two rows.

        They are formed once: later calls may ask about fewer records.
        """
        known = self.known_opinions or {}
        if not all(r.id in known and known[r.id].label == r.label for r in records):
            self.known_opinions = form_opinions(records, self.vectors)
        return self.known_opinions

    def doubt(
        self,
        rejection: Rejected,
        *,
        suggested: Label | None = None,
        probability: float | None = None,
    ) -> None:
        """Add a row to `doubtful`, with the label that the check suggests and its probability.

        The stage writes and counts these rows; `reseed review` ranks the rows by itself.
        """
        r, p = rejection.record, None if probability is None else round(probability, 4)
        self.doubtful.append(
            DoubtfulRow(r.id, r.text, r.label, rejection.check, rejection.reason, suggested, p)
        )


def load_context(
    project: Project,
    splits: SplitsResult,
    *,
    workspace: Workspace,
    real: list[Record] | None = None,
) -> CurationContext:
    """What the checks compare rows with. The encoder is resolved when a text is embedded, not before."""

    def embed_texts(texts: list[str]) -> np.ndarray:
        from tasks.encoder.embed import embed

        encoder = resolve_encoder(project, workspace)
        return embed(encoder, texts, max_length=project.train.max_length)

    held_out = Fingerprints.load(splits.directory / FINGERPRINTS)
    return CurationContext(project.curate, held_out, embed_texts, real=real or [])


def real_rows(splits: SplitsResult) -> list[Record]:
    """Real rows for statistics: seed, dev, and the first of the unlabelled."""
    rows = [r for name in ("seed", "dev") for r in read_records(splits.directory / f"{name}.jsonl")]
    unlabelled = iter_records(splits.directory / "unlabelled.jsonl")
    return [*rows, *itertools.islice(unlabelled, _UNLABELLED)]
