"""Which unlabelled texts a person should label first, where a verdict was inconclusive.

What two models answer differently tells most about which is better (query by committee: Seung, Opper and Sompolinsky 1992), then
what the challenger is least sure of (smallest margin: Scheffer, Decomain and Wrobel 2001). Rows chosen this way are harder than
the texts of real use, so they are for training and dev: a test set made of them would be biased, and wants rows drawn at random.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.labels import are_label_sets
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.records import Label, Record, label_text, read_records
from tasks.stage import Metrics, StageResult, Table, run_stage
from tasks.workspace import Workspace

VERSION = 2
FILE = "label_first.jsonl"
MOST = 200  # rows in the list
MOST_READ = 5000  # unlabelled rows that are answered; of more, those with the first ids, which are hashes: as good as at random


def rank(
    records: Sequence[Record],
    p: np.ndarray,
    answers: Sequence[Label],
    champion: Sequence[Label] | None,
    *,
    labels: int,
    most: int = MOST,
) -> list[dict[str, Any]]:
    """At most `most` rows, the most telling first: those that the champion answers differently, then by ascending margin.

    `p` are the challenger's probabilities, shape (rows, labels), and `answers` what it says. The margin is the distance of the two
    highest, or of label sets of the nearest one to one half. No answer of the challenger's takes more than its equal part of the
    list, most / `labels`, so that one confused pair of labels does not fill it.
    """
    margins = _margins(p, sets=are_label_sets(answers))
    other = [champion is not None and champion[i] != a for i, a in enumerate(answers)]
    order = sorted(
        np.flatnonzero(np.isfinite(margins)).tolist(),
        key=lambda i: (not other[i], margins[i], records[i].id),
    )
    taken: Counter[str] = Counter()
    found: list[dict[str, Any]] = []
    for i in order:
        said = label_text(answers[i])
        if len(found) == most:
            break
        if taken[said] >= math.ceil(most / labels):
            continue
        taken[said] += 1
        found.append(
            {
                "id": records[i].id,
                "challenger": said,
                "champion": None if champion is None else label_text(champion[i]),
                "margin": float(margins[i]),
                "text": records[i].text,
                "decision": "",  # for a person: a label
            }
        )
    return found


def _margins(p: np.ndarray, *, sets: bool) -> np.ndarray:
    """Shape (rows,), to six places: how far apart two runs put the last bits is no order."""
    last = np.sort(p, axis=1)[:, -2:]
    return np.round(
        (np.abs(p - 0.5).min(axis=1) if sets else last[:, 1] - last[:, 0]).astype(np.float64), 6
    )


class LabelFirstResult(StageResult):
    """The list of texts to label first: its rows, the texts read, and the rows that the champion answers differently."""

    rows: int
    read: int
    differ: int

    @property
    def list_file(self) -> Path:
        return self.directory / FILE

    def metrics(self) -> Metrics:
        return {"label_first.rows": float(self.rows), "label_first.differ": float(self.differ)}

    def tables(self) -> dict[str, Table]:
        return {"label_first": atomic.read_lines(self.list_file)}


def label_first(
    project: Project,
    challenger: BundleRef,
    champion: BundleRef | None,
    *,
    splits: SplitsResult,
    workspace: Workspace,
) -> LabelFirstResult:
    """The list as `label_first.jsonl`. The project must have unlabelled text."""

    def build(out: Path, scratch: Path) -> LabelFirstResult:
        rows = sorted(read_records(splits.directory / "unlabelled.jsonl"), key=lambda r: r.id)[
            :MOST_READ
        ]
        texts = [r.text for r in rows]
        p, answers = _answers(project, challenger, texts)
        others = None if champion is None else _answers(project, champion, texts)[1]
        found = rank(rows, p, answers, others, labels=len(project.labels))
        atomic.write_lines(out / FILE, found)
        differ = sum(r["champion"] is not None and r["champion"] != r["challenger"] for r in found)
        return LabelFirstResult(rows=len(found), read=len(rows), differ=differ)

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


def _answers(
    project: Project, bundle: BundleRef, texts: list[str]
) -> tuple[np.ndarray, list[Label]]:
    """Probabilities, in the order of the bundle's own labels, and answers of the project's kind."""
    from tasks.model.bundle import Classifier

    model = Classifier.load(bundle.directory, digest=bundle.digest)
    p = model.probabilities(texts)
    return p, model.answers(p, multi_label=project.multi_label)
