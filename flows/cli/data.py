"""The commands about a project's rows: init, review and curate."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.output import Finish, console, prints_result
from flows.settings import Settings
from tasks.errors import UserError

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("data", type=FILE)
@click.option("--out", type=FILE, help="The project file; by default NAME.yaml in this folder.")
@click.option("--text-column", help="By default detected, such as text, content or body.")
@click.option("--label-column", help="By default detected, such as label, category or tags.")
@click.option(
    "--multi-label/--one-label",
    "multi_label",
    default=None,
    help="Whether a text can have several labels; detected by default.",
)
@click.option("--separator", metavar="CHARACTERS", help="Between the labels of a text, as in ';'.")
@click.option("--label-columns", metavar="NAME,NAME", help="Columns of 0 and 1, one per label.")
@prints_result
def init(
    data: Path,
    out: Path | None,
    text_column: str | None,
    label_column: str | None,
    multi_label: bool | None,
    separator: str | None,
    label_columns: str | None,
    finish: Finish,
) -> None:
    """Write a project file for the labelled rows in DATA: CSV, JSONL, Parquet, or a folder per label.

    Columns, and whether a text can have several labels, are detected and reported.
    """
    from tasks.setup.detect_columns import ColumnHints
    from tasks.setup.init import write_project

    names = tuple(name.strip() for name in (label_columns or "").split(",") if name.strip())
    hints = ColumnHints(text_column, label_column, multi_label, separator, names)
    result = write_project(data, out, hints=hints)
    finish(result, lambda r: click.echo(r.message))


@click.command()
@click.argument("project", metavar="CONFIG_OR_NAME")
@click.option("--by", help="Name recorded with the decisions; by default the current user.")
@click.option("--export", "out", type=FILE, help="Write the pending rows to a CSV or JSONL file.")
@click.option("--import", "source", type=FILE, help="Read the decisions from such a file.")
@click.option("--status", "only_status", is_flag=True, help="Print how many rows are pending.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="By default a free one.")
@click.option("--no-open", is_flag=True, help="Print the address without opening a browser.")
@click.option("--curated", type=FILE, help="The directory of another curate stage than the last.")
@click.option("--splits", type=FILE, help="The directory of the splits that --curated is of.")
@prints_result
def review(
    project: str,
    by: str | None,
    out: Path | None,
    source: Path | None,
    only_status: bool,
    port: int,
    no_open: bool,
    curated: Path | None,
    splits: Path | None,
    finish: Finish,
) -> None:
    """Decide about the doubtful rows of a project, in the browser or in a spreadsheet."""
    if sum((out is not None, source is not None, only_status)) > 1:
        raise UserError("--export, --import and --status exclude each other: give one of them")
    from flows.review import server
    from flows.review import session as review_session

    session = review_session.open_review(
        Settings.from_environment(), project, by=by, curated=curated, splits=splits
    )
    show = review_session.show_review
    if out is not None:
        finish(review_session.export_rows(session, out), show)
    elif source is not None:
        finish(review_session.import_decisions(session, source), show)
    elif only_status:
        finish(session.status(), show)
    else:
        server.serve_review(
            session, port=port, open_browser=not no_open, ready=lambda page: finish(page, show)
        )


@click.command()
@click.argument("config", type=FILE)
@click.option(
    "--explain",
    "row",
    metavar="ROW",
    help="Show the story of one row: its id, or some of its text.",
)
@click.option("--curated", type=FILE, help="The directory of another curate stage than the last.")
@prints_result
def curate(config: Path, row: str | None, curated: Path | None, finish: Finish) -> None:
    """Show where the rows of the last retrain of CONFIG went, or the story of one of them."""
    from flows.cli import explain

    settings = Settings.from_environment()
    if row is None:
        summary = explain.curation_summary(settings, config, curated)
        finish(summary, lambda s: explain.print_summary(s, console()))
    else:
        story = explain.row_story(settings, config, row, curated)
        finish(story, lambda s: explain.print_story(s, console()))


COMMANDS = (init, review, curate)
