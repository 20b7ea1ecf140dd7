"""The data report: what was asked, what came, what was set aside and why, and how near it is to real text."""

from tasks.data_report.run import data_report

__all__ = ["data_report"]
