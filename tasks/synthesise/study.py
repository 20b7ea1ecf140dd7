"""What is still hard on dev, so that the next round asks for more of it.

The test set is not used, and no dev text is shown in a prompt: only labels that are confused, and
the subtopics of the project's own descriptions that are nearest to the misclassified rows.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import resolve_encoder
from tasks.figures import Figures
from tasks.labels import label_of, labels_in
from tasks.project import Project
from tasks.records import read_records
from tasks.references import digest_of_path
from tasks.stage import Metrics, StageResult, Table, run_stage
from tasks.synthesise.plan import Focus, split_subtopics
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
MAX_NEAR = 2  # labels that one label is confused with

Confusions = Counter[tuple[str, str]]  # (true, predicted)


class ConfusedPair(Figures):
    """The number of dev rows of one label for which the probe predicts another."""

    true: str
    predicted: str
    rows: int


class StudyResult(StageResult):
    """Macro-F1 of the probe on dev, the missed labels, the confused pairs and the next focus."""

    dev_f1_macro: float
    missed: int
    confused: list[ConfusedPair]
    focus: Focus

    def metrics(self) -> Metrics:
        """Macro-F1 on dev and the number of missed labels."""
        return {"dev.f1_macro": self.dev_f1_macro, "dev.missed": float(self.missed)}

    def tables(self) -> dict[str, Table]:
        """The confused pairs, most frequent first."""
        return {"confused": [pair.model_dump() for pair in self.confused]}


def study(
    project: Project,
    *,
    curated: TrainingRows,
    splits: SplitsResult,
    workspace: Workspace,
    more_topics: dict[str, list[str]] | None = None,
) -> StudyResult:
    """`focus.json` (see plan.Focus), from the errors on dev of a probe on the curated rows.

    In a multi-label project it has only subtopics: where each label is decided by itself, none is
    confused with another.
    """
    encoder = resolve_encoder(project, workspace)
    topics = {
        label: split_subtopics(description) + (more_topics or {}).get(label, [])
        for label, description in project.labels.items()
    }

    def build(out: Path, scratch: Path) -> StudyResult:
        from tasks.encoder.embed import embed
        from tasks.encoder.linear_probe import fit_probe, predict_labels
        from tasks.statistics.metrics import f1_macro

        embed_texts = partial(embed, encoder, max_length=project.train.max_length)
        kept, dev = curated.read(), read_records(splits.directory / "dev.jsonl")
        probe = fit_probe(embed_texts([r.text for r in kept]), [label_of(r) for r in kept])
        x, true = embed_texts([r.text for r in dev]), [label_of(r) for r in dev]
        predicted = predict_labels(probe, x)
        missed = {
            label: [
                i
                for i, r in enumerate(dev)
                if label in r.labels and label not in labels_in([predicted[i]])
            ]
            for label in topics
        }
        confusions: Confusions = Counter()
        if not project.multi_label:
            pairs = zip(map(str, true), map(str, predicted), strict=True)
            confusions.update((t, p) for t, p in pairs if t != p)
        focus = Focus(
            topics={
                label: _nearest(x[missed[label]], names, embed_texts(names))
                for label, names in topics.items()
                if missed[label]
            },
            near={label: near for label in topics if (near := _confused_with(label, confusions))},
        )
        atomic.write_json(out / "focus.json", focus.model_dump())
        return StudyResult(
            dev_f1_macro=f1_macro(true, predicted, project.label_names),
            missed=sum(map(len, missed.values())),
            confused=[
                ConfusedPair(true=t, predicted=p, rows=n) for (t, p), n in confusions.most_common()
            ],
            focus=focus,
        )

    return run_stage(
        StudyResult,
        "study",
        workspace=workspace,
        version=VERSION,
        params={
            "topics": topics,
            "max_length": project.train.max_length,
            "labels": project.label_names,
        },
        inputs={
            "curated": curated.digest,
            "splits": splits.digest,
            "encoder": digest_of_path(encoder),
        },
        build=build,
    )


def _nearest(missed: np.ndarray, topics: list[str], vectors: np.ndarray) -> list[str]:
    """The distinct subtopics that are nearest to a missed row, most frequent first."""
    counts = Counter(int(i) for i in (missed @ vectors.T).argmax(axis=1))
    return [topics[i] for i, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _confused_with(label: str, confusions: Confusions) -> list[str]:
    """The labels that it is confused with most."""
    others: Counter[str] = Counter()
    for (true, predicted), n in confusions.items():
        if label in (true, predicted):
            others[predicted if true == label else true] += n
    ordered = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    return [other for other, _ in ordered[:MAX_NEAR]]
