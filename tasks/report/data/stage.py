"""The data report of one retrain as a stage: `report.html` (one file), `figures.json`, `funnel.png`."""

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
from tasks.report.data.cost import acceptance_by_attribute, cost_figures
from tasks.report.data.distance import (
    distinguishing_words,
    matched_rows,
    sample_by_id,
    two_sample_test,
)
from tasks.report.data.diversity import diversity_figures
from tasks.report.data.funnel import draw_funnel, funnel_steps, rejected_by_check, rows_by_source
from tasks.report.data.page import render_data_report
from tasks.report.data.rows import RetrainRows, gather_rows, hidden_texts
from tasks.report.data.samples import sample_rows
from tasks.stage import Metrics, StageResult, Table, run_stage
from tasks.synthesise.stage import SynthesiseResult
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

VERSION = 4
MOST_ROWS = 2000  # embedded in all


class DataReportResult(StageResult):
    """Rows asked for, accepted and self-trained; and how well a classifier separates synthetic from real text.

    `auc` and `p` are of the two-sample test, None where there is nothing to compare.
    """

    asked: int
    accepted: int
    harvested: int
    auc: float | None
    p: float | None

    def headline(self) -> Metrics:
        """The AUC and the p value, where there are any."""
        if self.auc is None or self.p is None:
            return {}
        return {"data.two_sample.auc": self.auc, "data.two_sample.p": self.p}

    def tables(self) -> dict[str, Table]:
        """The funnel, the rejected rows by check, and the accepted rows by source."""
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
        """The report as one HTML file."""
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
    """A report about the rows that were requested, received and rejected, and those trained on.

    The sealed test set is not read. The same inputs give the same bytes.
    """
    encoder = resolve_encoder(project, workspace)
    length = project.train.max_length

    def build(out: Path, scratch: Path) -> DataReportResult:
        from tasks.encoder.embed import embed

        g = gather_rows(rounds=rounds, curated=curated, self_trained=self_trained, splits=splits)
        found = data_figures(
            g,
            project=project,
            hidden=hidden_texts(
                g.rejected, splits.directory, leak=project.curate.leak, personal=True
            ),
            embed=lambda texts: embed(encoder, texts, max_length=length),
            progress=progress,
        )
        found["read"] = inputs
        atomic.write_json(out / "figures.json", found)
        draw_funnel(
            found["funnel"],
            f"{project.name}: from what was asked for to what is accepted",
            out / "funnel.png",
        )
        atomic.write_bytes(out / "report.html", render_data_report(found).encode())
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


def data_figures(
    g: RetrainRows,
    *,
    project: Project,
    hidden: Callable[[str, str], bool],
    embed: Callable[[list[str]], np.ndarray],
    progress: Progress = silent,
) -> dict[str, Any]:
    """Everything the page shows, as JSON, without the `hidden` texts.

    `embed(texts)` gives one row per text, each of length 1.
    """
    labels = project.label_names
    progress(0, 4, "counting rows")
    found: dict[str, Any] = {
        "project": project.name,
        "labels": labels,
        "funnel": funnel_steps(g, labels),
        "rejected": rejected_by_check(g, labels),
        "noted": {"personal_data": g.curated.personal_data, "doubtful": g.curated.doubtful},
        "balance": rows_by_source(g, labels),
        "cost": cost_figures(g, labels),
        "drawn": acceptance_by_attribute(g),
        "samples": sample_rows(g, labels, hidden=hidden),
    }
    made, real = matched_rows(g.accepted, g.real, g.unlabelled)
    progress(1, 4, "embedding the texts")
    vectors = _vectors([*made, *real, *_sample(g)], embed)
    progress(2, 4, "diversity")
    found["diversity"] = diversity_figures(g, labels, vectors)
    progress(3, 4, "comparing synthetic rows with real ones")
    found["distance"] = {
        "labelled": sum(r.label is not None for r in real),
        "test": two_sample_test(_matrix(made, vectors), _matrix(real, vectors)) if made else None,
        "words": distinguishing_words(made, real),
    }
    progress(4, 4, "done")
    return found


def _sample(g: RetrainRows) -> list[Record]:
    """The rows whose spread is measured: up to a quarter of what is embedded, of either side."""
    return [*sample_by_id(g.accepted, MOST_ROWS // 4), *sample_by_id(g.real, MOST_ROWS // 4)]


def _vectors(rows: list[Record], embed: Callable[[list[str]], np.ndarray]) -> dict[str, np.ndarray]:
    texts = {r.id: r.text for r in rows}
    return dict(zip(texts, embed(list(texts.values())), strict=True)) if texts else {}


def _matrix(rows: list[Record], vectors: dict[str, np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.stack([vectors[r.id] for r in rows])
