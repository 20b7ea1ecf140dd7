"""The report of a retrain as one HTML file, in which jinja2 escapes every text, label and reason."""

from __future__ import annotations

from importlib import resources

from tasks.report.contents import Contents
from tasks.report.data.page import fill_template


def render(contents: Contents) -> str:
    """The HTML page. It loads nothing: pictures are within it, and its policy forbids the rest."""
    return fill_template("tasks.report", f=contents)


def is_ours(page: bytes) -> bool:
    """True where the page begins with our content security policy, so that no script can run."""
    template = resources.files("tasks.report").joinpath("report.html.j2").read_bytes()
    end = template.index(b"\n", template.index(b"Content-Security-Policy")) + 1
    return page.startswith(template[:end])
