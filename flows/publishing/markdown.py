"""Markdown for MLflow's pages, from the templates in mlflow/. Text that comes from data is escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).resolve().parents[2] / "mlflow"
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~])")


def render_markdown(template: str, context: Mapping[str, object]) -> str:
    """The template of this name filled in; a name that the context lacks is an error."""
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=True
    )
    environment.filters |= {"f3": lambda v: f"{v:.3f}", "md": escape_markdown}
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(context)


def escape_markdown(text: object) -> Markup:
    """`text` on one line, such that Markdown shows it letter by letter."""
    line = " ".join(str(text).split())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(character, entity)
    return Markup(_SPECIAL.sub(r"\\\1", line))  # noqa: S704  (escaped above)
