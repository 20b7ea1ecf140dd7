"""The data report of a retrain as a stage: `report.html`, `figures.json` and `funnel.png`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tasks import atomic
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
from tasks.report.data.figures import DataFigures, Distance, NotedRows
from tasks.report.data.funnel import draw_funnel, funnel_steps, rejected_by_check, rows_by_source
from tasks.report.data.page import render_data_report
from tasks.report.data.rows import RetrainRows, RetrainStages, gather_rows, hidden_texts
from tasks.report.data.samples import sample_rows
from tasks.stage import Metrics, StageResult, Table, run_stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

VERSION = 4
MOST_ROWS = 2000  # embedded in all


class DataReportResult(StageResult):
    """Rows asked for, accepted and self-trained, and the result of the two-sample test.

    `auc` and `p` say how well a classifier separates synthetic from real text; None where there is
    nothing to compare.
    """

    asked: int
    accepted: int
    harvested: int
    auc: float | None
    p: float | None

    @classmethod
    def of(cls, figures: DataFigures) -> Self:
        """The main figures of a report."""
        test = figures.distance.test
        return cls(
            asked=figures.funnel[0].total,
            accepted=figures.cost.accepted,
            harvested=sum(counts.harvested for counts in figures.balance.values()),
            auc=test.auc if test else None,
            p=test.p if test else None,
        )

    def headline(self) -> Metrics:
        """The AUC and the p value, where there are any."""
        if self.auc is None or self.p is None:
            return {}
        return {"data.two_sample.auc": self.auc, "data.two_sample.p": self.p}

    def tables(self) -> dict[str, Table]:
        """The funnel, the rejected rows by check, and the accepted rows by source."""
        written = (self.directory / "figures.json").read_bytes()
        figures = DataFigures.model_validate_json(written)
        return {
            "funnel": [
                {"step": s.step, "all": s.total, "lost": s.lost, **s.rows} for s in figures.funnel
            ],
            "rejected": [{"check": r.check, "all": r.total, **r.rows} for r in figures.rejected],
            "accepted": [
                {"label": label, "all": counts.total, **counts.model_dump()}
                for label, counts in figures.balance.items()
            ],
        }

    @property
    def page(self) -> Path:
        """The report as one HTML file."""
        return self.directory / "report.html"


def data_report(
    project: Project,
    stages: RetrainStages,
    *,
    workspace: Workspace,
    progress: Progress = silent,
) -> DataReportResult:
    """A report about the rows that were requested, received and rejected, and those trained on.

    The sealed test set is not read. The same inputs give the same bytes.
    """
    encoder = resolve_encoder(project, workspace)
    inputs = _digests(stages, encoder)
    return run_stage(
        DataReportResult,
        "data_report",
        workspace=workspace,
        version=VERSION,
        params=_params(project),
        inputs=inputs,
        build=lambda out, scratch: _build(out, project, stages, encoder, inputs, progress),
    )


def _params(project: Project) -> dict[str, object]:
    return {
        "name": project.name,
        "labels": project.labels,
        "max_length": project.train.max_length,
        "leak": project.curate.leak,
    }


def _digests(stages: RetrainStages, encoder: Path) -> dict[str, str]:
    rounds = {f"round-{i}": r.digest for i, r in enumerate(stages.rounds)}
    read = {"curated": stages.curated.digest, "splits": stages.splits.digest}
    trained = {"self_trained": stages.self_trained.digest} if stages.self_trained else {}
    return {**rounds, **read, "encoder": digest_of_path(encoder), **trained}


def _build(
    out: Path,
    project: Project,
    stages: RetrainStages,
    encoder: Path,
    read: dict[str, str],
    progress: Progress,
) -> DataReportResult:
    from tasks.encoder.embed import embed

    g = gather_rows(stages)
    leak, splits = project.curate.leak, stages.splits.directory
    figures = data_figures(
        g,
        project=project,
        read=read,
        hidden=hidden_texts(g.rejected, splits, leak=leak, personal=True),
        embed=lambda texts: embed(encoder, texts, max_length=project.train.max_length),
        progress=progress,
    )
    _write(out, figures)
    return DataReportResult.of(figures)


def _write(out: Path, figures: DataFigures) -> None:
    atomic.write_json(out / "figures.json", figures.model_dump(mode="json"))
    title = f"{figures.project}: from what was asked for to what is accepted"
    draw_funnel(figures.funnel, title, out / "funnel.png")
    atomic.write_bytes(out / "report.html", render_data_report(figures).encode())


def data_figures(
    g: RetrainRows,
    *,
    project: Project,
    read: dict[str, str],
    hidden: Callable[[str, str], bool],
    embed: Callable[[list[str]], np.ndarray],
    progress: Progress = silent,
) -> DataFigures:
    """Everything the page shows, without the `hidden` texts.

    `embed(texts)` gives one row per text, each of length 1; `read` has the digest of each input.
    """
    labels = project.label_names
    made, real = matched_rows(g.accepted, g.real, g.unlabelled)
    progress(0, 4, "embedding the texts")
    vectors = _vectors([*made, *real, *_sample(g)], embed)
    progress(1, 4, "diversity")
    diversity = diversity_figures(g, labels, vectors)
    progress(2, 4, "comparing synthetic rows with real ones")
    distance = _distance(made, real, vectors)
    progress(3, 4, "counting rows")
    return DataFigures(
        project=project.name,
        labels=labels,
        funnel=funnel_steps(g, labels),
        rejected=rejected_by_check(g, labels),
        noted=NotedRows(personal_data=g.curated.personal_data, doubtful=g.curated.doubtful),
        balance=rows_by_source(g, labels),
        cost=cost_figures(g, labels),
        drawn=acceptance_by_attribute(g),
        samples=sample_rows(g, labels, hidden=hidden),
        diversity=diversity,
        distance=distance,
        read=read,
    )


def _distance(made: list[Record], real: list[Record], vectors: dict[str, np.ndarray]) -> Distance:
    return Distance(
        labelled=sum(r.label is not None for r in real),
        test=two_sample_test(_matrix(made, vectors), _matrix(real, vectors)) if made else None,
        words=distinguishing_words(made, real),
    )


def _sample(g: RetrainRows) -> list[Record]:
    """The rows whose spread is measured: up to a quarter of what is embedded, of either side."""
    return [*sample_by_id(g.accepted, MOST_ROWS // 4), *sample_by_id(g.real, MOST_ROWS // 4)]


def _vectors(rows: list[Record], embed: Callable[[list[str]], np.ndarray]) -> dict[str, np.ndarray]:
    texts = {r.id: r.text for r in rows}
    return dict(zip(texts, embed(list(texts.values())), strict=True)) if texts else {}


def _matrix(rows: list[Record], vectors: dict[str, np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.stack([vectors[r.id] for r in rows])
