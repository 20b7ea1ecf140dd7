"""Self-training: add unlabelled text to the training rows, with the labels that are predicted.

A row is added where the model and a linear probe on frozen embeddings agree on its label and are
both confident (Yarowsky 1995; agreement of two views as in co-training, Blum and Mitchell 1998).
Both are calibrated on dev, and the probe has learned from the unlabelled text too. Which of the
confident rows are added: row_selection.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.atomic import digest_of
from tasks.augment.row_selection import Selection, select_multi_label_rows, select_rows
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
from tasks.labels import encode, label_of
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import (
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
CHECKS = (personal_data, language, leak, short_leak)  # of curation, in its order; then `near`
MAX_LENGTH = 512  # tokens that are read of each text, also where training truncates it earlier,
MAX_TOKENS = 1_280_000  # while all texts together stay below this
MAX_ROWS = 50_000  # unlabelled rows that are read, the first by content hash


class SelfTrainingResult(TrainingRows):
    """What one round of self-training added.

    `looked_at` counts the unlabelled rows that were read, `harvested` the rows added by label. By
    label too: `proportions`, the estimated shares of the labels; `confident`, the rows labelled
    with confidence; `quota`, the most that could be added. These three are empty where no row was
    read.
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
        """The number of rows that were read and added, and the added ones by label."""
        metrics = {
            "self_training.looked_at": float(self.looked_at),
            "self_training.added": float(self.added),
        }
        by_label = {f"data.harvested.{label}": float(n) for label, n in self.harvested.items()}
        return metrics | by_label

    def tables(self) -> dict[str, Table]:
        """The added rows with their scores."""
        added = [r for r in self.read() if r.source == "harvested"]
        return {"harvested": [{**record_row(r), "score": r.lineage["score"]} for r in added]}

    def summary(self) -> str:
        """How many of the unlabelled rows were added."""
        return (
            f"{self.added} of {self.looked_at} unlabelled rows are added: model and probe agree on "
            f"their label with confidence"
        )


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
    """`kept.jsonl`: the rows of `training` and those of round `number`; `rejected.jsonl`.

    `trained` is the current model and `current` the rows it was trained on; the labels of earlier
    rounds are assigned anew. Rows that a person decided about are not read: they are in `training`
    or discarded.
    """
    decided = current_decisions(workspace.decisions(project.name))
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> SelfTrainingResult:
        base = training.read()
        rows = _unlabelled_rows(splits, excluded={r.id for r in base} | decided.keys())
        context = load_context(project, splits, workspace=workspace, real=real_rows(splits))
        added: list[Record] = []
        rejected: list[Rejected] = []
        selection = Selection(proportions={}, confident={}, quota={})
        if rows:
            dev = read_records(splits.directory / "dev.jsonl")
            probabilities = _predict(
                project,
                encoder,
                trained.bundle_directory,
                training=current.read(),
                dev=dev,
                rows=rows,
                progress=progress,
            )
            selected, selection = _select(project, rows, *probabilities, number=number)
            added, rejected = reject_rows(selected, base, context)
        write_records(out / "kept.jsonl", [*base, *added])
        write_records(out / "rejected.jsonl", rejected)
        return SelfTrainingResult(
            looked_at=len(rows),
            harvested=count_by_label(added),
            added=len(added),
            rejected=count_by_check(rejected),
            personal_data=dict(context.personal_data.most_common()),
            **selection.model_dump(),
        )

    inputs = {"training": training.digest, "current": current.digest, "bundle": trained.bundle}
    inputs |= {"splits": splits.digest, "encoder": digest_of_path(encoder)}
    if decided:
        inputs["decisions"] = digest_of(sorted(decided))
    return run_stage(
        SelfTrainingResult,
        "self_training",
        workspace=workspace,
        version=VERSION,
        params=_params(project, number),
        inputs=inputs,
        build=build,
    )


def _params(project: Project, number: int) -> dict[str, object]:
    checks = {"personal_data", "language", "leak", "short_leak", "near_duplicate"}
    return project.self_training.model_dump(mode="json", exclude={"rounds"}) | {
        **project.curate.model_dump(mode="json", include=checks),
        "labels": project.label_names,
        "number": number,
        "max_length": project.train.max_length,
    }


def _unlabelled_rows(splits: SplitsResult, *, excluded: set[str]) -> list[Record]:
    unlabelled = read_records(splits.directory / "unlabelled.jsonl")
    rows = (r for r in unlabelled if r.id not in excluded)
    return sorted(rows, key=lambda r: r.id)[:MAX_ROWS]


def _select(
    project: Project, rows: list[Record], p: np.ndarray, q: np.ndarray, *, number: int
) -> tuple[list[Record], Selection]:
    """The rows that model and probe label alike; `p` and `q` have shape (rows, labels)."""
    select = select_multi_label_rows if project.multi_label else select_rows
    settings = project.self_training
    return select(rows, p, q, labels=project.label_names, settings=settings, number=number)


def _predict(
    project: Project,
    encoder: Path,
    bundle: Path,
    *,
    training: list[Record],
    dev: list[Record],
    rows: list[Record],
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities of the model and of the probe, each of shape (rows, labels)."""
    from tasks.encoder.embed import embed
    from tasks.encoder.linear_probe import fit_self_trained

    max_length = max(project.train.max_length, min(MAX_LENGTH, MAX_TOKENS // max(1, len(rows))))

    def embed_rows(records: list[Record]) -> np.ndarray:
        return embed(encoder, [r.text for r in records], max_length=max_length)

    progress(0, 3, "the model")
    p = _predict_with_model(bundle, rows, dev=dev, max_length=max_length)
    progress(1, 3, "the probe")
    x = embed_rows(rows)
    progress(2, 3, "the probe")
    probe = fit_self_trained(
        embed_rows(training),
        [label_of(r) for r in training],
        x,
        x_dev=embed_rows(dev),
        y_dev=[label_of(r) for r in dev],
        labels=project.label_names,
    )
    return p, probe(x)


def _predict_with_model(
    bundle: Path, rows: list[Record], *, dev: list[Record], max_length: int
) -> np.ndarray:
    """The model's probabilities, shape (rows, labels).

    It reads up to `max_length` tokens of each text where that does not raise its log loss on dev,
    else as many as it was trained on.
    """
    import torch

    from tasks.encoder.embed import has_bf16
    from tasks.encoder.linear_probe import log_loss
    from tasks.model.bundle import Classifier

    model = Classifier.load(bundle, torch_only=True)
    longer = model.with_max_length(max_length)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.autocast(device, torch.bfloat16, enabled=has_bf16()):
        if dev and longer.max_length > model.max_length:
            y, texts = encode([label_of(r) for r in dev], model.labels), [r.text for r in dev]
            loss, longer_loss = (
                log_loss(m.probabilities(texts), y, multi_label=m.multi_label)
                for m in (model, longer)
            )
            model = longer if longer_loss <= loss else model
        return model.probabilities([r.text for r in rows])


def reject_rows(
    rows: list[Record], base: list[Record], context: CurationContext
) -> tuple[list[Record], list[Rejected]]:
    """The rows that pass the checks and repeat no row of `base`, and the rejected ones."""
    rejected: list[Rejected] = []
    for check in CHECKS:
        rows, failed = check(rows, context)
        rejected += failed
    distinct, repeated = near([*base, *rows], context)
    kept = {r.id for r in distinct}
    rejected += [r for r in repeated if r.record.source == "harvested"]
    return [r for r in rows if r.id in kept], rejected
