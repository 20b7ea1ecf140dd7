"""The review queue: which rows a person should look at first, and what is known of each."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import atomic
from tasks.decisions import CHECK, LEAKS, Decision
from tasks.encoder.base_model import resolve_encoder
from tasks.labels import unknown_labels
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import Record, Rejected, iter_records, read_records, read_rejected
from tasks.references import digest_of_path
from tasks.review.ranked_row import Pairs, RankedRow
from tasks.stage import StageResult, run_stage
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints, is_short
from tasks.workspace import RetrainData, Workspace

if TYPE_CHECKING:
    import numpy as np

    from tasks.review.probe import Assessment

VERSION = 4
# these reject a row for its label, which a person can judge; the other checks judge the text
_LABEL_CHECKS = frozenset({"off_label", "label_noise", "two_labels", CHECK})
_NEIGHBOURS = 5  # training rows shown with a row
_MIN_COSINE = 0.6  # of a row that a decision may be applied to as well
_MOST_LIKE = 12


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A row that may be shown: a training row, or one that a check rejected."""

    record: Record
    rejected: Rejected | None = None


class RankResult(StageResult):
    """Rows ranked by doubt, and how many of them are doubtful."""

    rows: int
    doubtful: int

    def read(self) -> list[RankedRow]:
        """The ranked rows, the most doubtful first."""
        return read_ranked(self.directory)


def read_ranked(directory: Path) -> list[RankedRow]:
    """The ranked rows in the directory of a RankResult, the most doubtful first."""
    with (directory / "rows.jsonl").open(encoding="utf-8") as f:
        return [RankedRow.model_validate_json(line) for line in f]


def rank_doubtful(
    project: Project, data: RetrainData, *, workspace: Workspace, progress: Progress = silent
) -> RankResult:
    """`rank_rows` as a stage: `rows.jsonl`, found when the same rows were ranked before."""
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> RankResult:
        rows = rank_rows(project, data, encoder=encoder, progress=progress)
        atomic.write_lines(out / "rows.jsonl", (row.model_dump(mode="json") for row in rows))
        return RankResult(rows=len(rows), doubtful=sum(row.doubtful for row in rows))

    directories = {
        "curated": data.curated,
        "splits": data.splits,
        "self_trained": data.self_trained,
    }
    inputs = {name: atomic.verify(d)["digest"] for name, d in directories.items() if d}
    inputs["encoder"] = digest_of_path(encoder)
    params = {
        "labels": project.label_names,
        "max_length": project.train.max_length,
        "leak": project.curate.leak,
        "short_leak": project.curate.short_leak,
    }
    return run_stage(
        RankResult,
        "review",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def doubtful_or_decided(
    ranked: list[RankedRow], decisions: Mapping[str, Decision]
) -> list[RankedRow]:
    """The rows of the queue: a decided row stays, so that its decision can be undone."""
    return [row for row in ranked if row.doubtful or row.id in decisions]


def count_decided(queue: list[RankedRow], decisions: Mapping[str, Decision]) -> int:
    """How many rows of the queue a person decided."""
    return sum(row.id in decisions for row in queue)


def rank_rows(
    project: Project, data: RetrainData, *, encoder: Path, progress: Progress = silent
) -> list[RankedRow]:
    """Every row that may be shown, by the mean of its ranks in margin, loss and influence.

    Raises UserError when the probe has too few rows, CorruptDirectory when a directory differs
    from its manifest.
    """
    import numpy as np

    from tasks.encoder.embed import embed
    from tasks.review.probe import assess_rows

    for directory in filter(None, (data.curated, data.splits, data.self_trained)):
        atomic.verify(directory)
    held_out = Fingerprints.load(data.splits / FINGERPRINTS)
    dev = read_records(data.splits / "dev.jsonl")
    candidates = _candidates(project, data, dev, held_out)
    progress(0, 2, "embedding the texts")
    texts = [r.text for r in (*(c.record for c in candidates), *dev)]
    vectors = embed(encoder, texts, max_length=project.train.max_length)
    x, dev_x = vectors[: len(candidates)], vectors[len(candidates) :]
    shown = ~_short_leaks(candidates, x, held_out, project.curate.short_leak)
    candidates, x = list(compress(candidates, shown)), x[shown]
    progress(1, 2, "fitting the probe")
    records = [c.record for c in candidates]
    trained_on = np.array([c.rejected is None for c in candidates])
    assessment = assess_rows(records, x, trained_on, dev=dev, dev_x=dev_x)
    kinds = [(r.label, opinion) for r, opinion in zip(records, assessment.predicted, strict=True)]
    close = _close_rows([r.id for r in records], x, trained_on, kinds)
    progress(2, 2, "done")
    return _ranked(candidates, assessment, close)


def _candidates(
    project: Project, data: RetrainData, dev: list[Record], held_out: Fingerprints
) -> list[_Candidate]:
    """The training rows, also self-trained ones, and those rejected for their label, one per text.

    Held-out rows are not among them, nor rows that repeat held-out text as far as `curate.leak`
    allows: a row that was rejected early did not reach the check for leaks.
    """
    rejected = read_rejected(data.curated / "rejected.jsonl")
    hidden = {r.id for r in dev} | held_out.id_set
    hidden |= {r.record.id for r in rejected if r.check in LEAKS}
    found: dict[str, _Candidate] = {}
    for directory in filter(None, (data.curated, data.self_trained)):
        for r in iter_records(directory / "kept.jsonl"):
            found.setdefault(r.id, _Candidate(r))
    for rejection in rejected:
        r = rejection.record
        known_label = r.label is not None and not unknown_labels([r.label], project.label_names)
        if rejection.check in _LABEL_CHECKS and r.text.strip() and known_label:
            share, _ = held_out.closest(r.text)
            if share == 0 or share < project.curate.leak:
                found.setdefault(r.id, _Candidate(r, rejection))
    return [
        c
        for c in found.values()
        if c.record.id not in hidden and c.record.source not in ("dev", "test")
    ]


def _short_leaks(
    candidates: list[_Candidate], x: np.ndarray, held_out: Fingerprints, limit: float
) -> np.ndarray:
    """Which rejected rows (n, bool) are short and mean what a held-out row says."""
    import numpy as np

    short = np.array([c.rejected is not None and is_short(c.record.text) for c in candidates], bool)
    if limit <= 0 or not short.any() or not len(held_out.vectors):
        return np.zeros(len(candidates), dtype=bool)
    cosines, _ = held_out.closest_short(x[short])
    short[short] = cosines >= limit
    return short


def _close_rows(
    ids: list[str], x: np.ndarray, trained_on: np.ndarray, kinds: Sequence[Hashable]
) -> list[tuple[Pairs, Pairs]]:
    """For each row its nearest training rows, and the rows like it.

    `kinds` are each row's label and the probe's: only rows of one kind are like each other, as a
    decision that is right about a row need not be right about one that the probe sees otherwise.
    """
    import numpy as np

    numbers = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    kind = np.array([numbers[k] for k in kinds])
    close = []
    for i in range(len(x)):  # row by row: the whole matrix of a large set would not fit
        cosines = x @ x[i]
        cosines[i] = -2.0
        trained = np.where(trained_on, cosines, -2.0)
        alike = np.where(kind == kind[i], cosines, -2.0)
        near = [j for j in np.argsort(-trained, kind="stable")[:_NEIGHBOURS] if trained[j] > -2]
        like = [
            j for j in np.argsort(-alike, kind="stable")[:_MOST_LIKE] if alike[j] >= _MIN_COSINE
        ]
        pairs = [tuple((ids[j], round(float(cosines[j]), 4)) for j in js) for js in (near, like)]
        close.append((pairs[0], pairs[1]))
    return close


def _ranked(
    candidates: list[_Candidate], assessment: Assessment, close: list[tuple[Pairs, Pairs]]
) -> list[RankedRow]:
    import numpy as np
    from scipy.stats import rankdata

    values = {name: getattr(assessment, name) for name in ("margin", "loss", "influence")}
    ranks = {name: rankdata(-array) for name, array in values.items()}
    mean = np.mean(list(ranks.values()), axis=0)
    rows = []
    for i in sorted(range(len(candidates)), key=lambda i: (mean[i], candidates[i].record.id)):
        rejected = candidates[i].rejected
        rows.append(
            RankedRow(
                record=candidates[i].record,
                check=rejected.check if rejected else None,
                reason=rejected.reason if rejected else "",
                opinion=assessment.predicted[i],
                probability=round(float(assessment.probability[i]), 4),
                own=round(float(assessment.own[i]), 4),
                **{name: round(float(array[i]), 4) for name, array in values.items()},
                ranks={name: float(array[i]) for name, array in ranks.items()},
                rank=round(float(mean[i]), 1),
                near=close[i][0],
                like=close[i][1],
            )
        )
    return rows
