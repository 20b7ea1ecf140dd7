"""Add real unlabelled text to the training rows, under the labels that the model trained so far gives it.

Self-training with two judges: a row is taken when the model and a linear probe on frozen embeddings see the same label and
are confident together (Yarowsky 1995; agreement of two views as in co-training, Blum and Mitchell 1998). Both are calibrated
on dev, and the probe has learned from the unlabelled text too. Among confident rows chance decides, not confidence: the
surest rows are the ones that teach nothing new. Each label gets its estimated share of the unlabelled text, so that easy
labels don't crowd out the others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.atomic import digest_of
from tasks.curate.checks.duplicates import near
from tasks.curate.checks.language import language
from tasks.curate.checks.leak import leak, short_leak
from tasks.curate.checks.personal_data import personal_data
from tasks.curate.context import CurationContext, load_context, real_rows
from tasks.dataset.split import SplitsResult
from tasks.dataset.tables import record_row
from tasks.dataset.training_rows import TrainingRows
from tasks.decisions import current_decisions
from tasks.encoder.base_model import resolve_encoder
from tasks.figures import Figures
from tasks.labels import encode, label_of
from tasks.progress import Progress, silent
from tasks.project import Project, SelfTraining
from tasks.records import (
    NO_LABEL,
    Record,
    Rejected,
    count_by_check,
    count_by_label,
    read_records,
    write_records,
)
from tasks.references import digest_of_path
from tasks.stage import Metrics, Table, run_stage
from tasks.train.stage import TrainResult
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

VERSION = 5
CHECKS = (
    personal_data,
    language,
    leak,
    short_leak,
)  # of curation, in its order; `near` is after them
READ = 512  # tokens of a text that both judges read, also where training cuts it earlier,
READ_IN_ALL = 1_280_000  # as long as these are enough for all texts: it costs little then
MOST_LOOKED_AT = 50_000  # unlabelled rows, the first by content hash


def row_quotas(
    proportions: dict[str, float], candidates: dict[str, int], *, rows: int, settings: SelfTraining
) -> dict[str, int]:
    """Rows a label to take: its share of `self_training.share` of the `rows`, under `self_training.per_label` and what there is.

    Where a cap cuts one label, the others are cut in proportion, but not below half of what they could have.
    """
    wanted = {k: p * settings.share * rows for k, p in proportions.items()}
    capped = {k: min(w, settings.per_label, candidates.get(k, 0)) for k, w in wanted.items()}
    fits = min((capped[k] / w for k, w in wanted.items() if w > 0), default=0.0)
    return {k: int(max(min(w * fits, capped[k]), capped[k] / 2)) for k, w in wanted.items()}


class Selection(Figures):
    """The figures behind a choice of rows, by label; see SelfTrainingResult."""

    proportions: dict[str, float]
    confident: dict[str, int]
    quota: dict[str, int]


def _choice(
    proportions: dict[str, float], confident: dict[str, int], quota: dict[str, int]
) -> Selection:
    shares = {k: round(v, 4) for k, v in proportions.items()}
    return Selection(proportions=shares, confident=confident, quota=quota)


def take_sets(
    rows: list[Record],
    p: np.ndarray,
    q: np.ndarray,
    *,
    labels: list[str],
    settings: SelfTraining,
    number: int,
) -> tuple[list[Record], Selection]:
    """As `take`, for label sets: a row's score is the least, over its labels, of the geometric mean of what model and probe make
    of its being given or not, and none where they decide differently about one of them.

    A row is taken while one of its labels lacks rows and none has `self_training.per_label`; those without a label by a share of
    their own.
    """
    import numpy as np

    given = p >= 0.5
    sure = np.sqrt(np.where(given, p, 1 - p) * np.where(q >= 0.5, q, 1 - q))
    scores = np.where((given == (q >= 0.5)).all(axis=1), sure.min(axis=1), 0.0)
    own = [tuple(sorted(labels[k] for k in np.flatnonzero(row))) or (NO_LABEL,) for row in given]
    shares = [*p.mean(axis=0), (~given).all(axis=1).mean()]
    proportions = {
        label: float(share) for label, share in zip([*labels, NO_LABEL], shares, strict=True)
    }
    confident = [i for i in range(len(rows)) if scores[i] >= max(settings.confidence, 1e-9)]
    counts = Counter(label for i in confident for label in own[i])
    found = {label: counts[label] for label in proportions}
    quota = row_quotas(proportions, found, rows=len(rows), settings=settings)
    have: Counter[str] = Counter()
    taken = []
    for i in sorted(confident, key=lambda i: rows[i].id):
        full = any(have[label] >= settings.per_label for label in own[i])
        if not full and any(have[label] < quota[label] for label in own[i]):
            have.update(own[i])
            lineage = rows[i].lineage | {"score": round(float(scores[i]), 4), "harvest": number}
            label = tuple(k for k in own[i] if k != NO_LABEL)
            taken.append(replace(rows[i], label=label, source="harvested", lineage=lineage))
    return taken, _choice(proportions, found, quota)


def select_rows(
    rows: list[Record],
    p: np.ndarray,
    q: np.ndarray,
    *,
    labels: list[str],
    settings: SelfTraining,
    number: int,
) -> tuple[list[Record], Selection]:
    """The rows taken, in the order of their ids (content hashes, so by chance), and the figures behind the choice.

    `p` and `q` are the calibrated probabilities of the model and of the probe, each of shape (rows, labels). A row's score
    is their geometric mean for its label, and none where they see different labels.
    """
    import numpy as np

    best = p.argmax(axis=1)
    at = np.arange(len(rows))
    scores = np.where(best == q.argmax(axis=1), np.sqrt(p[at, best] * q[at, best]), 0.0)
    proportions = {label: float(share) for label, share in zip(labels, p.mean(axis=0), strict=True)}
    sure = scores >= max(settings.confidence, 1e-9)
    by_label = {
        label: [int(i) for i in np.flatnonzero(sure & (best == k))]
        for k, label in enumerate(labels)
    }
    found = {label: len(own) for label, own in by_label.items()}
    quota = row_quotas(proportions, found, rows=len(rows), settings=settings)
    taken = []
    for label, own in by_label.items():
        own.sort(key=lambda i: rows[i].id)
        taken += [
            replace(
                rows[i],
                label=label,
                source="harvested",
                lineage=rows[i].lineage | {"score": round(float(scores[i]), 4), "harvest": number},
            )
            for i in own[: quota[label]]
        ]
    return taken, _choice(proportions, found, quota)


class SelfTrainingResult(TrainingRows):
    """What one round of self-training added.

    `looked_at` counts the unlabelled rows read, `harvested` the rows added by label, `proportions` the
    estimated shares of the labels, `confident` the rows labelled with confidence, `quota` the most that
    could be added; the last three are empty where no row was read.
    """

    looked_at: int
    harvested: dict[str, int]
    added: int
    rejected: dict[str, int]
    personal_data: dict[str, int]
    proportions: dict[str, float]
    confident: dict[str, int]
    quota: dict[str, int]

    def metrics(self) -> Metrics:
        metrics = {"harvest.looked_at": float(self.looked_at), "harvest.added": float(self.added)}
        return metrics | {
            f"data.harvested.{label}": float(n) for label, n in self.harvested.items()
        }

    def tables(self) -> dict[str, Table]:
        rows: Table = [
            {**record_row(r), "score": r.lineage["score"]}
            for r in self.read()
            if r.source == "harvested"
        ]
        return {"harvested": rows}

    def summary(self) -> str:
        return f"{self.added} of {self.looked_at} unlabelled rows are labelled with confidence and agreement"


def self_train(
    project: Project,
    *,
    training: TrainingRows,
    current: TrainingRows,
    trained: TrainResult,
    splits: SplitsResult,
    number: int,
    workspace: Workspace,
    progress: Progress = silent,
) -> SelfTrainingResult:
    """`kept.jsonl`: the rows of `training` and what round `number` adds; `rejected.jsonl`: what the checks rejected.

    `trained` is the model so far and `current` the rows it was trained on; the labels of earlier
    rounds are assigned anew. Rows that a person decided about are in `training`, or are wanted no more.
    """
    decided = current_decisions(workspace.decisions(project.name))
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> SelfTrainingResult:
        base = training.read()
        own = {r.id for r in base} | decided.keys()
        rows = [r for r in read_records(splits.directory / "unlabelled.jsonl") if r.id not in own]
        rows = sorted(rows, key=lambda r: r.id)[:MOST_LOOKED_AT]
        context = load_context(project, splits, workspace=workspace, real=real_rows(splits))
        taken: list[Record] = []
        choice = Selection(proportions={}, confident={}, quota={})
        rejected: list[Rejected] = []
        if rows:
            dev = read_records(splits.directory / "dev.jsonl")
            p, q = _opinions(
                project, encoder, trained.bundle_directory, current.read(), dev, rows, progress
            )
            take_rows = take_sets if project.multi_label else select_rows
            taken, choice = take_rows(
                rows,
                p,
                q,
                labels=project.label_names,
                settings=project.self_training,
                number=number,
            )
            taken, rejected = reject_rows(taken, base, context)
        write_records(out / "kept.jsonl", [*base, *taken])
        write_records(out / "rejected.jsonl", rejected)
        return SelfTrainingResult(
            looked_at=len(rows),
            harvested=count_by_label(taken),
            added=len(taken),
            rejected=count_by_check(rejected),
            personal_data=dict(context.personal_data.most_common()),
            **choice.model_dump(),
        )

    inputs = {"training": training.digest, "current": current.digest, "bundle": trained.bundle}
    inputs |= {"splits": splits.digest, "encoder": digest_of_path(encoder)}
    if decided:
        inputs["decisions"] = digest_of(sorted(decided))
    checks = {"personal_data", "language", "leak", "short_leak", "near_duplicate"}
    params = project.self_training.model_dump(mode="json", exclude={"rounds"}) | {
        **project.curate.model_dump(mode="json", include=checks),
        "labels": project.label_names,
        "number": number,
        "max_length": project.train.max_length,
    }
    return run_stage(
        SelfTrainingResult,
        "harvest",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def _opinions(
    project: Project,
    encoder: Path,
    bundle: Path,
    learned: list[Record],
    dev: list[Record],
    rows: list[Record],
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities of each row, shape (rows, labels): the model's and the probe's."""
    from tasks.encoder.embed import embed
    from tasks.encoder.linear_probe import fit_self_trained

    length = max(project.train.max_length, min(READ, READ_IN_ALL // max(1, len(rows))))

    def embedded(records: list[Record]) -> np.ndarray:
        return embed(encoder, [r.text for r in records], max_length=length)

    progress(0, 3, "the model")
    p = _by_model(bundle, rows, dev, length)
    progress(1, 3, "the probe")
    x = embedded(rows)
    progress(2, 3, "the probe")
    judge = fit_self_trained(
        embedded(learned),
        [label_of(r) for r in learned],
        x,
        x_dev=embedded(dev),
        y_dev=[label_of(r) for r in dev],
        labels=project.label_names,
    )
    return p, judge(x)


def _by_model(bundle: Path, rows: list[Record], dev: list[Record], length: int) -> np.ndarray:
    """The model's probabilities, shape (rows, labels). It reads up to `length` tokens of a text where that does not raise its log
    loss on dev, else as many as it was trained on."""
    import torch

    from tasks.encoder.embed import has_bf16
    from tasks.encoder.linear_probe import log_loss
    from tasks.model.bundle import Classifier

    model = Classifier.load(bundle, torch_only=True)
    longer = model.with_max_length(length)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.autocast(device, torch.bfloat16, enabled=has_bf16()):
        if dev and longer.max_length > model.max_length:
            y, texts = encode([label_of(r) for r in dev], model.labels), [r.text for r in dev]
            own, more = (
                log_loss(m.probabilities(texts), y, multi_label=m.multi_label)
                for m in (model, longer)
            )
            model = longer if more <= own else model
        return model.probabilities([r.text for r in rows])


def reject_rows(
    taken: list[Record], base: list[Record], context: CurationContext
) -> tuple[list[Record], list[Rejected]]:
    """What is left of the rows taken: those that a check of curation which asks for no label has nothing against, and that
    repeat no training row."""
    rejected: list[Rejected] = []
    for check in CHECKS:
        taken, out = check(taken, context)
        rejected += out
    together, repeats = near([*base, *taken], context)
    fresh = {r.id for r in together}
    return [r for r in taken if r.id in fresh], rejected + [
        r for r in repeats if r.record.source == "harvested"
    ]
