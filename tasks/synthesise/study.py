"""What the dev set says is still hard, so that the next round asks for more of it. The test set is never looked at.

No dev text goes into a prompt: what is passed on are labels that are mistaken for each other, and the subtopics of the
project's own descriptions that lie nearest to the missed rows.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

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

VERSION = 1
MOST_NEAR = 2  # labels that one label is confused with


class ConfusedPair(Figures):
    """Dev rows of one label that the probe took for another."""

    true: str
    predicted: str
    rows: int


class StudyResult(StageResult):
    """Macro-F1 of the probe on dev, how many labels it missed, the confused pairs, and the focus of the next round."""

    dev_f1_macro: float
    missed: int
    confused: list[ConfusedPair]
    focus: Focus

    def metrics(self) -> Metrics:
        return {"dev.f1_macro": self.dev_f1_macro, "dev.missed": float(self.missed)}

    def tables(self) -> dict[str, Table]:
        return {"confused": [pair.model_dump() for pair in self.confused]}


def study(
    project: Project,
    *,
    curated: TrainingRows,
    splits: SplitsResult,
    workspace: Workspace,
    more_topics: dict[str, list[str]] | None = None,
) -> StudyResult:
    """`focus.json` (see plan.Focus) from a linear probe on the kept rows, asked about the dev rows. Of label sets it has the
    subtopics alone: labels are not mistaken for each other where each is decided by itself."""
    encoder = resolve_encoder(project, workspace)
    topics = {
        label: split_subtopics(line) + (more_topics or {}).get(label, [])
        for label, line in project.labels.items()
    }

    def build(out: Path, scratch: Path) -> StudyResult:
        from tasks.encoder.embed import embed
        from tasks.encoder.linear_probe import fit_probe
        from tasks.statistics.metrics import f1_macro

        kept = curated.read()
        dev = read_records(splits.directory / "dev.jsonl")
        length = project.train.max_length
        probe = fit_probe(
            embed(encoder, [r.text for r in kept], max_length=length), [label_of(r) for r in kept]
        )
        x = embed(encoder, [r.text for r in dev], max_length=length)
        predicted = [p if isinstance(p, tuple) else str(p) for p in probe.predict(x)]
        true = [label_of(r) for r in dev]
        # of label sets: the labels of a row that it was not given, each on its own
        missed = {
            label: [
                i
                for i, r in enumerate(dev)
                if label in r.labels and label not in labels_in([predicted[i]])
            ]
            for label in topics
        }
        confused = Counter((str(t), str(p)) for t, p in zip(true, predicted, strict=True) if t != p)
        if project.multi_label:
            confused = Counter()
        focus = Focus(
            topics={
                label: _nearest(x[missed[label]], own, embed(encoder, own, max_length=length))
                for label, own in topics.items()
                if missed[label]
            },
            near={
                label: _confused_with(label, confused)
                for label in topics
                if _confused_with(label, confused)
            },
        )
        atomic.write_json(out / "focus.json", focus.model_dump())
        f1 = f1_macro(true, predicted, project.label_names)
        pairs = [ConfusedPair(true=t, predicted=p, rows=n) for (t, p), n in confused.most_common()]
        return StudyResult(
            dev_f1_macro=f1, missed=sum(map(len, missed.values())), confused=pairs, focus=focus
        )

    inputs = {
        "curated": curated.digest,
        "splits": splits.digest,
        "encoder": digest_of_path(encoder),
    }
    params = {
        "topics": topics,
        "max_length": project.train.max_length,
        "labels": project.label_names,
    }
    return run_stage(
        StudyResult,
        "study",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def _nearest(missed: Any, topics: list[str], vectors: Any) -> list[str]:
    """The subtopic nearest to each missed row, most frequent first, each once."""
    found = Counter(int(i) for i in (missed @ vectors.T).argmax(axis=1))
    return [topics[i] for i, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))]


def _confused_with(label: str, confused: Counter[tuple[str, str]]) -> list[str]:
    both: Counter[str] = Counter()
    for (true, predicted), n in confused.items():
        if label in (true, predicted):
            both[predicted if true == label else true] += n
    return [
        other for other, _ in sorted(both.items(), key=lambda item: (-item[1], item[0]))[:MOST_NEAR]
    ]
