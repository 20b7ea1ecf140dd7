"""The queue of doubtful rows: which rows a person should look at first, and what there is to know of each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import atomic
from tasks.decisions import CHECK, LEAKS, Decision
from tasks.encoder.base_model import resolve_encoder
from tasks.labels import label_of, unknown_labels
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import (
    Label,
    Record,
    Rejected,
    iter_records,
    label_text,
    read_records,
    read_rejected,
)
from tasks.references import digest_of_path
from tasks.stage import StageResult, run_stage
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints, is_short
from tasks.workspace import RetrainData, Workspace

if TYPE_CHECKING:
    import numpy as np

    from tasks.review.probe import Opinions

VERSION = 3
Pairs = tuple[
    tuple[str, float], ...
]  # (id, cosine similarity) of other rows, the most similar first
# set aside because of the label, which a person can judge; the other checks judge the text
CHECKS = frozenset({"off_label", "label_noise", "two_labels", CHECK})
NEIGHBOURS = 5  # training rows shown beside a row
LIKE = 0.6  # least cosine similarity of a row that a decision may be applied to as well
MOST_LIKE = 12


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row, and why it is in the queue.

    `opinion` is the probe's label for it with its `probability`; `own` is the probability of the row's own label.
    `margin` (of the best other label over its own), `loss` (-log own) and `influence` (on the dev loss) rank it, each
    from 1 for the most doubtful; `rank` is their mean. `near` are (id, cosine similarity) of the nearest training rows,
    `like` of the rows with its label and opinion that are close enough to be decided with it. What the figures mean of
    label sets: tasks/review/probe.py.
    """

    record: Record
    check: str | None
    reason: str
    opinion: Label
    probability: float
    own: float
    margin: float
    loss: float
    influence: float
    ranks: dict[str, float]
    rank: float
    near: Pairs
    like: Pairs

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def doubtful(self) -> bool:
        """True for a row that a check set aside, or of whose own label the probe is less than half sure."""
        return (self.check is not None and self.check != CHECK) or self.own < 0.5

    def why(self) -> str:
        """One sentence: what speaks against the row's label."""
        if self.check:
            return f"set aside as {self.check}: {self.reason}"
        if self.opinion == self.record.label:
            return f"the probe gives its own label only {self.own:.2f}"
        said = f"the probe says {label_text(self.opinion)!r} ({self.probability:.2f})"
        if isinstance(self.record.label, tuple) and isinstance(self.opinion, tuple):
            return f"{said}: {_difference(self.record.label, self.opinion)} ({1 - self.own:.2f})"
        return f"{said} and gives its own label {self.own:.2f}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Doubt:
        pairs = {k: tuple((i, s) for i, s in row[k]) for k in ("near", "like")}
        opinion = tuple(row["opinion"]) if isinstance(row["opinion"], list) else row["opinion"]
        return cls(**row | pairs | {"record": Record.from_json(row["record"]), "opinion": opinion})


def _difference(own: tuple[str, ...], seen: tuple[str, ...]) -> str:
    """What stands between a row's set and the one that is seen in it."""
    more, less = sorted(set(seen) - set(own)), sorted(set(own) - set(seen))
    parts = [
        f"{what} {' and '.join(map(repr, which))}"
        for what, which in (("it also has", more), ("not", less))
        if which
    ]
    return ", ".join(parts)


def queue(
    project: Project, data: RetrainData, *, encoder: Path, decisions: dict[str, Decision]
) -> list[Doubt]:
    """The doubtful rows and the decided ones, the most doubtful first."""
    return waiting(rank(project, data, encoder=encoder), decisions)


def waiting(ranked: list[Doubt], decisions: dict[str, Decision]) -> list[Doubt]:
    """Of the ranked rows, those that are doubtful or decided: a decision can always be seen and undone."""
    return [d for d in ranked if d.doubtful or d.id in decisions]


def looked_at(decisions: dict[str, Decision], queue: list[Doubt]) -> int:
    """How many rows of the queue a person decided."""
    return sum(d.id in decisions for d in queue)


def candidates(
    project: Project, data: RetrainData, *, held_out: Fingerprints
) -> tuple[list[Record], list[tuple[Record, Rejected | None]]]:
    """(dev rows, what may be shown): the training rows, harvested ones too, and those set aside for their label, one row a text.

    A row of dev is never shown, nor one that repeats held-out text as far as `curate.leak` allows: what was set aside
    before the check for leaks has not been through it.
    """
    dev = read_records(data.splits / "dev.jsonl")
    rejected = read_rejected(data.curated / "rejected.jsonl")
    hidden = (
        {d.id for d in dev}
        | set(held_out.ids)
        | {r.record.id for r in rejected if r.check in LEAKS}
    )
    limit = project.curate.leak
    found: dict[str, tuple[Record, Rejected | None]] = {}
    for directory in (data.curated, *([data.self_trained] if data.self_trained else [])):
        for r in iter_records(directory / "kept.jsonl"):
            found.setdefault(r.id, (r, None))
    for row in rejected:
        r = row.record
        known_label = r.label is not None and not unknown_labels([r.label], project.label_names)
        if row.check in CHECKS and r.text.strip() and known_label:
            share = held_out.closest(r.text)[0]
            if not (share > 0 and share >= limit):
                found.setdefault(r.id, (r, row))
    shown = [
        (r, row)
        for r, row in found.values()
        if r.id not in hidden and r.source not in ("dev", "test")
    ]
    return dev, shown


def rank(
    project: Project, data: RetrainData, *, encoder: Path, progress: Progress = silent
) -> list[Doubt]:
    """Every row that may be shown, the most doubtful first: by the mean of its ranks in margin, loss and influence.

    Raises UserError when the probe has too few rows, CorruptDirectory when a directory differs from its manifest.
    """
    import numpy as np

    from tasks.encoder.embed import embed
    from tasks.review.probe import opinions

    for directory in (data.curated, data.splits, data.self_trained):
        if directory:
            atomic.verify(directory)
    held_out = Fingerprints.load(data.splits / FINGERPRINTS)
    dev, shown = candidates(project, data, held_out=held_out)
    progress(0, 2, "reading the texts")
    vectors = embed(
        encoder,
        [r.text for r in (*(r for r, _ in shown), *dev)],
        max_length=project.train.max_length,
    )
    x, dev_x = vectors[: len(shown)], vectors[len(shown) :]
    repeats = _repeats(shown, x, held_out, project.curate.short_leak)
    shown, x = (
        [pair for pair, hidden in zip(shown, repeats, strict=True) if not hidden],
        x[~repeats],
    )
    progress(1, 2, "asking the probe")
    labels = [label_of(r) for r, _ in shown]
    trained_on = np.array([row is None for _, row in shown])
    found = opinions(x, labels, trained_on, dev=dev_x, dev_labels=[label_of(d) for d in dev])
    close = _close(x, shown, [*zip(labels, found.said()[0], strict=True)])
    rows = _ranked(shown, found, close)
    progress(2, 2, "done")
    return rows


def _repeats(
    shown: list[tuple[Record, Rejected | None]], x: np.ndarray, held_out: Fingerprints, limit: float
) -> np.ndarray:
    """Which rows (n, bool) are short, were set aside before the check for leaks, and mean what a held-out row says."""
    import numpy as np

    short = np.array([row is not None and is_short(r.text) for r, row in shown], dtype=bool)
    if limit > 0 and short.any() and len(held_out.vectors):
        best, _ = held_out.closest_short(x[short])
        short[short] = best >= limit
        return short
    return np.zeros(len(shown), dtype=bool)


def _ranked(
    shown: list[tuple[Record, Rejected | None]], found: Opinions, close: list[tuple[Pairs, Pairs]]
) -> list[Doubt]:
    import numpy as np
    from scipy.stats import rankdata

    said, sure = found.said()
    own, margin, loss = found.measures()
    measures = {"margin": margin, "loss": loss, "influence": found.influence}
    ranks = {name: rankdata(-values) for name, values in measures.items()}
    mean = np.mean(list(ranks.values()), axis=0)
    rows = []
    for i in sorted(range(len(shown)), key=lambda i: (mean[i], shown[i][0].id)):
        record, row = shown[i]
        rows.append(
            Doubt(
                record,
                row.check if row else None,
                row.reason if row else "",
                said[i],
                round(float(sure[i]), 4),
                round(float(own[i]), 4),
                **{name: round(float(values[i]), 4) for name, values in measures.items()},
                ranks={name: float(values[i]) for name, values in ranks.items()},
                rank=round(float(mean[i]), 1),
                near=close[i][0],
                like=close[i][1],
            )
        )
    return rows


def _close(
    x: np.ndarray, shown: list[tuple[Record, Rejected | None]], kinds: list[tuple[Label, Label]]
) -> list[tuple[Pairs, Pairs]]:
    """For each row its nearest training rows, and the rows like it, both as (id, cosine similarity).

    `kinds` are each row's label and the probe's: only rows of one kind are like each other, as a decision that is right
    about one need not be right about a near row of which the probe thinks otherwise.
    """
    import numpy as np

    codes = {kind: i for i, kind in enumerate(dict.fromkeys(kinds))}
    names = np.array([codes[kind] for kind in kinds])
    outside = np.array([row is not None for _, row in shown])
    found = []
    for i in range(len(x)):  # a row at a time: the whole matrix of a large set would not fit
        similar = x @ x[i]
        similar[i] = -2.0
        trained = np.where(outside, -2.0, similar)
        alike = np.where(names == names[i], similar, -2.0)
        near = [int(j) for j in np.argsort(-trained, kind="stable")[:NEIGHBOURS] if trained[j] > -2]
        like = [int(j) for j in np.argsort(-alike, kind="stable")[:MOST_LIKE] if alike[j] >= LIKE]
        pairs = [
            tuple((shown[j][0].id, round(float(similar[j]), 4)) for j in group)
            for group in (near, like)
        ]
        found.append((pairs[0], pairs[1]))
    return found


class RankResult(StageResult):
    """Rows ranked by doubt, and how many of them are doubtful."""

    rows: int
    doubtful: int

    def read(self) -> list[Doubt]:
        """The ranked rows, the most doubtful first."""
        with (self.directory / "rows.jsonl").open(encoding="utf-8") as f:
            return [Doubt.from_json(json.loads(line)) for line in f]


def rank_doubtful(
    project: Project, data: RetrainData, *, workspace: Workspace, progress: Progress = silent
) -> RankResult:
    """`rank` as a stage: `rows.jsonl`, found when the same rows were ranked before."""
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> RankResult:
        rows = rank(project, data, encoder=encoder, progress=progress)
        atomic.write_lines(out / "rows.jsonl", (d.to_json() for d in rows))
        return RankResult(rows=len(rows), doubtful=sum(d.doubtful for d in rows))

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
