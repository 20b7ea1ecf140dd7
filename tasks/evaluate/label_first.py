"""Which unlabelled texts a person should label first, where a verdict was inconclusive.

First those that two models answer differently (query by committee: Seung, Opper and Sompolinsky
1992), then those that the challenger is least certain of (smallest margin: Scheffer, Decomain and
Wrobel 2001). They are harder than the texts of real use, so they are for training and dev: a test
set of them would be biased, and needs rows drawn at random.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.figures import Figures
from tasks.labels import are_label_sets
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.records import Label, Record, label_text, read_records
from tasks.stage import Metrics, StageResult, Table, run_stage
from tasks.workspace import Workspace

VERSION = 2
FILE = "label_first.jsonl"
MOST_LISTED = 200
MOST_READ = 5000  # unlabelled rows that are answered; of more, those with the first ids (hashes)


class RowToLabel(Figures):
    """One row of the list; `decision` is for a person to fill in."""

    id: str
    challenger: str
    champion: str | None
    margin: float
    text: str
    decision: str = ""

    @property
    def differs(self) -> bool:
        """True where the champion answers differently."""
        return self.champion not in (None, self.challenger)


def rank_to_label(
    records: Sequence[Record],
    p: np.ndarray,
    answers: Sequence[Label],
    champion: Sequence[Label] | None,
    *,
    labels: int,
    most: int = MOST_LISTED,
) -> list[RowToLabel]:
    """At most `most` rows: those that the champion answers differently, then by ascending margin.

    `p` is the challenger's probabilities, shape (rows, labels), `answers` its answers. The margin
    is the distance of the two highest probabilities, or of label sets of the nearest one to one
    half. No answer gets more than its equal part of the list, most / `labels`.
    """
    margins = _margins(p, sets=are_label_sets(answers))
    rows = [
        RowToLabel(
            id=r.id,
            challenger=label_text(answers[i]),
            champion=None if champion is None else label_text(champion[i]),
            margin=float(margins[i]),
            text=r.text,
        )
        for i, r in enumerate(records)
        if np.isfinite(margins[i])
    ]
    taken: Counter[str] = Counter()
    ranked: list[RowToLabel] = []
    for row in sorted(rows, key=lambda row: (not row.differs, row.margin, row.id)):
        if len(ranked) < most and taken[row.challenger] < math.ceil(most / labels):
            taken[row.challenger] += 1
            ranked.append(row)
    return ranked


def _margins(p: np.ndarray, *, sets: bool) -> np.ndarray:
    """Shape (rows,), rounded to six places: the last bits differ between runs."""
    if sets:
        margins = np.abs(p - 0.5).min(axis=1)
    else:
        highest = np.sort(p, axis=1)[:, -2:]
        margins = highest[:, 1] - highest[:, 0]
    return np.round(margins.astype(np.float64), 6)


class LabelFirstResult(StageResult):
    """The list of texts to label first: its rows, the texts read, and the rows that differ."""

    rows: int
    read: int
    differ: int

    @property
    def list_file(self) -> Path:
        """The list, one RowToLabel per line."""
        return self.directory / FILE

    def metrics(self) -> Metrics:
        """How many rows are listed, and on how many of them the two models differ."""
        return {"label_first.rows": float(self.rows), "label_first.differ": float(self.differ)}

    def tables(self) -> dict[str, Table]:
        """The list."""
        return {"label_first": atomic.read_lines(self.list_file)}


def label_first(
    project: Project,
    challenger: BundleRef,
    champion: BundleRef | None,
    *,
    splits: SplitsResult,
    workspace: Workspace,
) -> LabelFirstResult:
    """The list as `label_first.jsonl`, from the project's unlabelled text."""

    def build(out: Path, scratch: Path) -> LabelFirstResult:
        unlabelled = read_records(splits.directory / "unlabelled.jsonl")
        records = sorted(unlabelled, key=lambda r: r.id)[:MOST_READ]
        p, answers = _answer(project, challenger, records)
        others = _answer(project, champion, records)[1] if champion else None
        rows = rank_to_label(records, p, answers, others, labels=len(project.labels))
        atomic.write_lines(out / FILE, (row.model_dump() for row in rows))
        differ = sum(row.differs for row in rows)
        return LabelFirstResult(rows=len(rows), read=len(records), differ=differ)

    inputs = {"splits": splits.digest, "challenger": challenger.digest}
    return run_stage(
        LabelFirstResult,
        "label_first",
        workspace=workspace,
        version=VERSION,
        params={"labels": project.label_names},
        inputs=inputs | ({"champion": champion.digest} if champion else {}),
        build=build,
    )


def _answer(
    project: Project, bundle: BundleRef, records: list[Record]
) -> tuple[np.ndarray, list[Label]]:
    """Probabilities, in the order of the bundle's own labels, and answers of the project's kind."""
    from tasks.model.bundle import Classifier

    model = Classifier.load(bundle.directory, digest=bundle.digest)
    p = model.probabilities([r.text for r in records])
    return p, model.answers(p, multi_label=project.multi_label)
