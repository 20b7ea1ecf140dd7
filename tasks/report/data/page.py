"""The figures as one HTML page. Texts, labels and reasons are not trusted: jinja2 escapes them."""

from __future__ import annotations

from importlib import resources

from tasks.report.data.figures import DataFigures, TwoSampleTest

# of steps and checks in the page; another one has its name as title
TITLES = {
    "asked": "rows asked for",
    "replies": "replies",
    "texts": "texts in the replies",
    "accepted": "accepted",
    "person": "moved by a person",
    "surplus": "surplus (the quota is full)",
}


def render_data_report(figures: DataFigures) -> str:
    """The page as HTML. It loads and runs nothing, which its content security policy enforces."""
    return fill_template(
        "tasks.report.data", f=figures, conclusion=_conclusion(figures.distance.test)
    )


def fill_template(package: str, **values: object) -> str:
    """The package's report.html.j2 with `values`, every text escaped, and the style sheet."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        title=check_title, n=_number, share=_share, usd=_usd, width=_width, fixed=_fixed
    )
    source = resources.files(package).joinpath("report.html.j2").read_text(encoding="utf-8")
    sheet = resources.files("tasks.report.data").joinpath("style.css").read_text(encoding="utf-8")
    return environment.from_string(source).render(style=Markup(sheet), **values)  # noqa: S704


def check_title(name: str) -> str:
    """The title of a step or check."""
    return TITLES.get(name, name.replace("_", " "))


def _number(value: float | None) -> str:
    """1,234, or a dash for None."""
    return "–" if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _fixed(value: float | None, places: int = 2) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _usd(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 1 or value == 0:
        return f"${value:,.2f}"
    return f"${value:.2g}" if value >= 1e-4 else f"${value:.1e}"


def _width(value: float | None, of: float | None) -> str:
    """A bar's length in per cent, for CSS."""
    return f"{100 * min(1.0, max(0.0, (value or 0) / of)):.1f}%" if of else "0%"


def _conclusion(test: TwoSampleTest | None) -> str:
    """The result of the two-sample test, in a sentence."""
    if test is None:
        return "There are too few rows on one side for a test."
    auc = test.auc
    if test.p > 0.05 and auc < 0.6:
        return "The embeddings of synthetic and real rows are indistinguishable."
    degrees = ((0.65, "slightly"), (0.85, "clearly"), (0.97, "very"))
    degree = next((name for limit, name in degrees if auc < limit), "almost always recognisably")
    return f"Synthetic rows are {degree} different from real ones."
