"""The report of a retrain as one HTML file. Texts, labels and reasons come from strangers: jinja2 escapes every one of them."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import Any

from tasks.report.data.page import fill_template


def render(told: dict[str, Any]) -> str:
    """The page of what `tell` gathered. It loads nothing: pictures are within it, and its content security policy forbids the
    rest."""
    return fill_template("tasks.report", f=told)


def is_ours(page: bytes) -> bool:
    """Whether the page begins as ours do, with the policy under which no script runs and nothing is loaded, whatever follows."""
    template = resources.files("tasks.report").joinpath("report.html.j2").read_bytes()
    end = template.index(b"\n", template.index(b"Content-Security-Policy")) + 1
    return page.startswith(template[:end])


def picture(path: Path) -> str | None:
    """A PNG as a data: URI; None where there is none."""
    return (
        f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        if path.exists()
        else None
    )
