"""Publish the report of a retrain: the HTML page, MLflow's pages, and the model card."""

from __future__ import annotations

from flows.context import RunContext
from flows.publishing.html import publish_html
from flows.publishing.model_card import publish_model_card
from flows.publishing.report import Retrained
from flows.publishing.run_page import describe_run, has_verdict
from tasks.report.model import RetrainReport


def publish_report(run: RunContext, report: RetrainReport, retrained: Retrained) -> None:
    """Write every page of the report, unless an earlier run of this retrain did."""
    if has_verdict(run, report):
        return
    publish_html(run, report, retrained)
    describe_run(run, report, retrained.trained.rows)
    publish_model_card(run, report, retrained)
