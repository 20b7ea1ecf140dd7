"""The figures as one HTML page. Texts, labels and reasons come from strangers: jinja2 escapes every one of them."""

from __future__ import annotations

from importlib import resources
from typing import Any

# a check is called by this in the page; one that is not here by its own name
TITLES = {
    "asked": "rows asked for",
    "replies": "replies",
    "texts": "texts in the replies",
    "accepted": "accepted",
    "person": "moved by a person",
    "surplus": "surplus (the quota is full)",
}


def render(figures: dict[str, Any]) -> str:
    """The page. Nothing in it loads or runs anything, and its content security policy forbids it besides."""
    return filled("tasks.report.data", f=figures, said=_told(figures["distance"]["test"]))


def filled(package: str, **told: Any) -> str:
    """The package's report.html.j2 filled in, every text of `told` escaped; `style` is the style sheet of all reports."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        title=title, n=_number, share=_share, usd=_usd, width=_width, fixed=_fixed
    )
    source = resources.files(package).joinpath("report.html.j2").read_text(encoding="utf-8")
    sheet = resources.files("tasks.report.data").joinpath("style.css").read_text(encoding="utf-8")
    return environment.from_string(source).render(style=Markup(sheet), **told)  # noqa: S704


def title(name: str) -> str:
    """What a step or check is called."""
    return TITLES.get(name, name.replace("_", " "))


def _number(value: float | None) -> str:
    """1,234; a dash for what is not known."""
    return "–" if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _fixed(value: float | None, places: int = 2) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _usd(value: float | None) -> str:
    if value is None:
        return "–"
    return (
        f"${value:,.2f}"
        if value >= 1 or value == 0
        else f"${value:.2g}"
        if value >= 1e-4
        else f"${value:.1e}"
    )


def _width(value: float | None, of: float | None) -> str:
    """A bar's length in per cent, for CSS."""
    return f"{100 * min(1.0, max(0.0, (value or 0) / of)):.1f}%" if of else "0%"


def _told(test: dict[str, Any] | None) -> str:
    """What the two-sample test says, in a sentence."""
    if test is None:
        return "There are too few rows on one side to tell."
    auc = test["auc"]
    if test["p"] > 0.05 and auc < 0.6:
        return "Nothing in the embeddings tells synthetic rows from real ones."
    how = (
        "slightly"
        if auc < 0.65
        else "clearly"
        if auc < 0.85
        else "very"
        if auc < 0.97
        else "almost perfectly"
    )
    kind = {
        "slightly": "slightly different from",
        "clearly": "clearly different from",
        "very": "very different from",
    }
    return f"Synthetic rows are {kind.get(how, 'told almost perfectly from')} real ones."
