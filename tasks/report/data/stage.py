"""The data report of one retrain as a stage: `report.html`, one file that needs no network, `figures.json` and `funnel.png`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import atomic
from tasks.augment.self_training import SelfTrainingResult
from tasks.curate.stage import CurateResult
from tasks.dataset.split import SplitsResult
from tasks.encoder.base_model import resolve_encoder
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import Record
from tasks.references import digest_of_path
from tasks.report.data.cost import cost, drawn
from tasks.report.data.distance import by_id, pairs, telling_words, two_sample
from tasks.report.data.diversity import diversity
from tasks.report.data.funnel import balance, funnel, picture, rejected_by_check
from tasks.report.data.page import render
from tasks.report.data.rows import Gathered, gather, withheld
from tasks.report.data.samples import samples
from tasks.stage import Metrics, StageResult, Table, run_stage
from tasks.synthesise.stage import SynthesiseResult
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

VERSION = 3
MOST_ROWS = 2000  # embedded in all


class DataReportResult(StageResult):
    """Rows asked for, accepted and self-trained; and how well a classifier tells synthetic from real text.

    `auc` and `p` are of the two-sample test, None where there is nothing to compare.
    """

    asked: int
    accepted: int
    harvested: int
    auc: float | None
    p: float | None

    def headline(self) -> Metrics:
        if self.auc is None or self.p is None:
            return {}
        return {"data.two_sample.auc": self.auc, "data.two_sample.p": self.p}

    def tables(self) -> dict[str, Table]:
        figures = atomic.read_json(self.directory / "figures.json")
        return {
            "funnel": [
                {"step": s["step"], "all": s["total"], "lost": s["lost"], **s["rows"]}
                for s in figures["funnel"]
            ],
            "rejected": [
                {"check": r["check"], "all": r["total"], **r["rows"]} for r in figures["rejected"]
            ],
            "accepted": [
                {"label": label, "all": sum(counts.values()), **counts}
                for label, counts in figures["balance"].items()
            ],
        }

    @property
    def page(self) -> Path:
        return self.directory / "report.html"


def data_report(
    project: Project,
    *,
    rounds: list[SynthesiseResult],
    curated: CurateResult,
    self_trained: SelfTrainingResult | None,
    splits: SplitsResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> DataReportResult:
    """`report.html`, `figures.json` and `funnel.png` about the rows that were asked for, came, were rejected, and are trained on.

    The sealed test set is not read. The same inputs give the same bytes.
    """
    encoder = resolve_encoder(project, workspace)
    length = project.train.max_length

    def build(out: Path, scratch: Path) -> DataReportResult:
        from tasks.encoder.embed import embed

        g = gather(rounds=rounds, curated=curated, self_trained=self_trained, splits=splits)
        found = figures(
            g,
            project=project,
            hidden=withheld(g.set_aside, splits.directory, leak=project.curate.leak, personal=True),
            embed=lambda texts: embed(encoder, texts, max_length=length),
            progress=progress,
        )
        found["read"] = inputs
        atomic.write_json(out / "figures.json", found)
        picture(
            found["funnel"],
            f"{project.name}: from what was asked for to what is accepted",
            out / "funnel.png",
        )
        atomic.write_bytes(out / "report.html", render(found).encode())
        test = found["distance"]["test"] or {}
        return DataReportResult(
            asked=found["funnel"][0]["total"],
            accepted=found["cost"]["accepted"],
            harvested=len(g.harvested),
            auc=test.get("auc"),
            p=test.get("p"),
        )

    inputs = {f"round-{i}": r.digest for i, r in enumerate(rounds)}
    inputs |= {
        "curated": curated.digest,
        "splits": splits.digest,
        "encoder": digest_of_path(encoder),
    }
    inputs |= {"self_trained": self_trained.digest} if self_trained else {}
    params = {
        "name": project.name,
        "labels": project.labels,
        "max_length": length,
        "leak": project.curate.leak,
    }
    return run_stage(
        DataReportResult,
        "data_report",
        workspace=workspace,
        version=VERSION,
        params=params,
        inputs=inputs,
        build=build,
    )


def figures(
    g: Gathered,
    *,
    project: Project,
    hidden: Callable[[str, str], bool],
    embed: Callable[[list[str]], np.ndarray],
    progress: Progress = silent,
) -> dict[str, Any]:
    """Everything the page shows, as JSON. `embed(texts)` gives one row a text, each of length 1; `hidden` texts stay so."""
    labels = project.label_names
    progress(0, 4, "counting")
    found: dict[str, Any] = {
        "project": project.name,
        "labels": labels,
        "funnel": funnel(g, labels),
        "rejected": rejected_by_check(g, labels),
        "noted": {"personal_data": g.curated.personal_data, "doubtful": g.curated.doubtful},
        "balance": balance(g, labels),
        "cost": cost(g, labels),
        "drawn": drawn(g),
        "samples": samples(g, labels, hidden=hidden),
    }
    made, real = pairs(g.accepted, g.real, g.unlabelled)
    progress(1, 4, "reading the texts")
    vectors = _vectors([*made, *real, *_sample(g)], embed)
    progress(2, 4, "diversity")
    found["diversity"] = diversity(g, labels, vectors)
    progress(3, 4, "real against synthetic")
    found["distance"] = {
        "labelled": sum(r.label is not None for r in real),
        "test": two_sample(_matrix(made, vectors), _matrix(real, vectors)) if made else None,
        "words": telling_words(made, real),
    }
    progress(4, 4, "done")
    return found


def _sample(g: Gathered) -> list[Record]:
    """The rows whose spread is measured: up to a quarter of what is embedded, of either side."""
    return [*by_id(g.accepted, MOST_ROWS // 4), *by_id(g.real, MOST_ROWS // 4)]


def _vectors(rows: list[Record], embed: Callable[[list[str]], np.ndarray]) -> dict[str, np.ndarray]:
    texts = {r.id: r.text for r in rows}
    return dict(zip(texts, embed(list(texts.values())), strict=True)) if texts else {}


def _matrix(rows: list[Record], vectors: dict[str, np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.stack([vectors[r.id] for r in rows])
