"""What the data report leaves in MLflow: the page as an artifact of the retrain's run, its tables and the funnel as a picture."""

from __future__ import annotations

from typing import Any

from flows.tracking.run import TABLE_ROWS, Tracking
from tasks import atomic
from tasks.report.data.stage import DataReportResult

PAGE = "data_report.html"


def log(tracking: Tracking, report: DataReportResult) -> None:
    """`data_report.html`, `funnel.png` and the tables `data_report/{funnel,rejected,accepted}.json` on the parent run, once a
    retrain."""
    if any(a.path == PAGE for a in tracking.client.list_artifacts(tracking.run_id)):
        return  # a table that is logged again would hold every row twice
    figures = atomic.read_json(report.directory / "figures.json")
    for name, rows in tables(figures).items():
        _table(tracking, name, rows)
    tracking.client.log_artifact(tracking.run_id, str(report.directory / "funnel.png"))
    # last, as it says that the others are there
    tracking.client.log_text(tracking.run_id, report.page.read_text(encoding="utf-8"), PAGE)


def tables(figures: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The report's figures as flat rows: `funnel`, `rejected` (check by label) and `accepted` (label by source)."""
    return {
        "funnel": [
            {"step": s["step"], "all": s["total"], "lost": s["lost"], **s["rows"]}
            for s in figures["funnel"]
        ],
        "rejected": [
            {"check": r["check"], "all": r["total"], **r["rows"]} for r in figures["rejected"]
        ],
        "accepted": [
            {"label": k, "all": sum(v.values()), **v} for k, v in figures["balance"].items()
        ],
    }


def _table(tracking: Tracking, name: str, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    path = f"data_report/{name}.json"
    if rows and not any(
        a.path == path for a in tracking.client.list_artifacts(tracking.run_id, "data_report")
    ):
        tracking.client.log_table(tracking.run_id, pd.DataFrame(rows[:TABLE_ROWS]), path)
