"""The command `reseed`. Exit status: 0 done, 2 the user's mistake, 1 anything else.

With --json, one JSON object is the last line of standard output and everything else goes to standard error.
"""

from __future__ import annotations

import errno
import json
import logging
import sys
from pathlib import Path

import click

from flows.cli import registry
from flows.cli.output import json_option, output_for
from flows.settings import Settings
from tasks.atomic import CorruptDirectory
from tasks.errors import TransientError, UserError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="reseed", message="%(package)s %(version)s")
def commands() -> None:
    """From label names to a promoted, answering text classifier, and kept good."""


@commands.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key, such as train.epochs=3.",
)
@click.option(
    "--fresh", is_flag=True, help="Make a new challenger instead of finding the one that is done."
)
@json_option
def retrain(config: Path, overrides: tuple[str, ...], fresh: bool, as_json: bool) -> None:
    """Generate, curate, train, evaluate, judge and promote, as the project file CONFIG says."""
    from tasks.project.reader import load_project
    from tasks.setup.preflight import check_references

    check_references(
        load_project(config, overrides), config
    )  # a mistake is said before anything starts
    from flows.cli.process_guard import guard_children

    with output_for(as_json) as finish, guard_children():
        from flows.retrain import retrain as flow

        report = flow(config=str(config), overrides=list(overrides), fresh=fresh)
        from rich.console import Console

        from flows.publishing.terminal import show_report
        from tasks.report.model import RetrainReport

        typed = RetrainReport.model_validate_json(json.dumps(report))
        finish(
            report, lambda: show_report(typed, Console(width=None if sys.stdout.isatty() else 110))
        )


@commands.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option(
    "--plan",
    "only_plan",
    is_flag=True,
    help="Print what it is likely to cost, send nothing, and stop.",
)
@json_option
def generate(config: Path, overrides: tuple[str, ...], only_plan: bool, as_json: bool) -> None:
    """Generate and curate the rows of CONFIG without training on them; `reseed retrain` goes on from there."""
    from tasks.project.reader import load_project
    from tasks.setup.preflight import check_references

    check_references(load_project(config, overrides), config)
    from rich.console import Console

    from flows.cli.process_guard import guard_children

    console = Console(width=None if sys.stdout.isatty() else 110)
    with output_for(as_json) as finish, guard_children():
        from flows import generate as flow

        if only_plan:
            plan = flow.estimate_cost(config, overrides)
            finish(plan.model_dump(mode="json"), lambda: flow.show_plan(plan, console))
        else:
            found = flow.generate(config=str(config), overrides=list(overrides))
            rows = flow.GeneratedReport.model_validate_json(json.dumps(found))
            finish(found, lambda: flow.show_rows(rows, console))


@commands.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key, such as tune.trials=40.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where the settings found are written."
)
@json_option
def tune(config: Path, overrides: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Search for better settings of CONFIG's `train`, on dev alone; they are printed as a piece of a project file."""
    from tasks.project.reader import load_project
    from tasks.setup.preflight import check_references

    check_references(load_project(config, overrides), config)
    from flows.cli.process_guard import guard_children

    with output_for(as_json) as finish, guard_children():
        from flows import tune as flow

        found = flow.tune(
            config=str(config), overrides=list(overrides), out=str(out) if out else None
        )
        from rich.console import Console

        finish(
            found,
            lambda: flow.show_settings(found, Console(width=None if sys.stdout.isatty() else 110)),
        )


@commands.command()
@click.argument("name")
@click.argument("texts", nargs=-1)
@click.option(
    "--in", "source", type=click.Path(path_type=Path), help="A CSV, JSONL or Parquet file of texts."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="A new CSV or JSONL file for the answers."
)
@click.option("--text-column", default="text", show_default=True)
@json_option
def predict(
    name: str,
    texts: tuple[str, ...],
    source: Path | None,
    out: Path | None,
    text_column: str,
    as_json: bool,
) -> None:
    """Ask the champion of NAME about TEXTS, a file (--in), or the lines of standard input."""
    from flows.serving import predict as ask

    with output_for(as_json) as finish:
        given = ask.read_texts(list(texts), source, text_column)
        champion, answers = ask.predict_texts(Settings.from_environment(), name, given)
        if out is not None:
            ask.write_predictions(out, given, answers)
        result = {"model": champion.name, "version": champion.version, "rows": len(answers)}
        if out is None:
            result["predictions"] = [
                {"text": t, **a} for t, a in zip(given.texts, answers, strict=True)
            ]
        else:
            result["out"] = str(out)
        finish(result, lambda: ask.show_predictions(given.texts, answers, out))


@commands.command()
@click.argument("name")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 takes a free one.",
)
@json_option
def serve(name: str, host: str, port: int, as_json: bool) -> None:
    """Serve the champion of NAME over HTTP: POST /predict, GET /health, GET /ready."""
    with output_for(as_json) as finish:
        from flows.serving.api import serve_champion

        serve_champion(Settings.from_environment(), name, host=host, port=port, announce=finish)


@commands.command()
@click.option("--mlflow-port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--prefect-port", default=4200, show_default=True, type=click.IntRange(1, 65535))
@json_option
def ui(mlflow_port: int, prefect_port: int, as_json: bool) -> None:
    """Start the MLflow and Prefect UIs on this machine, print their addresses, and stay until Ctrl-C."""
    from flows.cli import ui as ui_

    with output_for(as_json) as finish:
        ui_.run_servers(
            Settings.from_environment(),
            mlflow_port=mlflow_port,
            prefect_port=prefect_port,
            announce=finish,
        )


@commands.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The project file to write; NAME.yaml beside you otherwise.",
)
@click.option("--text-column", help="Found by its name otherwise, such as text, content or body.")
@click.option(
    "--label-column", help="Found by its name otherwise, such as label, category or tags."
)
@click.option(
    "--multi-label/--one-label",
    "several",
    default=None,
    help="A text may have several labels, or has one.",
)
@click.option(
    "--separator", metavar="CHARACTERS", help="Between the labels of a text, such as ';'."
)
@click.option(
    "--label-columns", metavar="NAME,NAME", help="Columns of 0 and 1, each of which is a label."
)
@json_option
def init(
    data: Path,
    out: Path | None,
    text_column: str | None,
    label_column: str | None,
    several: bool | None,
    separator: str | None,
    label_columns: str | None,
    as_json: bool,
) -> None:
    """Write a project file for the labelled rows in DATA: CSV, JSONL, Parquet, or a folder per label.

    Whether a text has one label or several is seen from the rows, and said.
    """
    from tasks.setup.detect_columns import ColumnHints
    from tasks.setup.init import write_project

    with output_for(as_json) as finish:
        each = tuple(name.strip() for name in (label_columns or "").split(",") if name.strip())
        made = write_project(
            data, out, hints=ColumnHints(text_column, label_column, several, separator, each)
        )
        finish(made.model_dump(), lambda: click.echo(made.message))


@commands.command()
@click.argument("given", metavar="CONFIG_OR_NAME")
@click.option("--by", help="Who decides; the user of this machine otherwise.")
@click.option(
    "--export",
    "out",
    type=click.Path(path_type=Path),
    help="Write the rows that wait to a CSV or JSONL file.",
)
@click.option(
    "--import",
    "source",
    type=click.Path(path_type=Path),
    help="Read the decisions written into that file.",
)
@click.option(
    "--status",
    "only_status",
    is_flag=True,
    help="Say how many rows were looked at and how many wait.",
)
@click.option(
    "--port", default=0, type=click.IntRange(0, 65535), help="Of the page; a free one otherwise."
)
@click.option("--no-open", is_flag=True, help="Print the page's address, and open no browser.")
@click.option(
    "--curated",
    type=click.Path(path_type=Path),
    help="Another curate stage's directory than the last.",
)
@click.option(
    "--splits",
    type=click.Path(path_type=Path),
    help="The splits' directory that belongs to --curated.",
)
@json_option
def review(
    given: str,
    by: str | None,
    out: Path | None,
    source: Path | None,
    only_status: bool,
    port: int,
    no_open: bool,
    curated: Path | None,
    splits: Path | None,
    as_json: bool,
) -> None:
    """Look at the doubtful rows of a project, in the browser or in a spreadsheet, and decide about them."""
    if sum((out is not None, source is not None, only_status)) > 1:
        raise UserError("give one of --export, --import and --status")
    with output_for(as_json) as finish:
        from flows.review import server
        from flows.review import session as review_

        session = review_.open_review(
            Settings.from_environment(), given, by=by, curated=curated, splits=splits
        )
        if out is None and source is None and not only_status:
            server.run(session, port=port, show=not no_open, announce=finish)
            return
        if out is not None:
            result = review_.export_rows(session, out)
        else:
            result = (
                review_.import_decisions(session, source)
                if source is not None
                else session.status().model_dump()
            )
        finish(result, lambda: review_.show_review(result))


@commands.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--explain",
    "row",
    metavar="ROW",
    help="Show the story of one row, named by its id, the start of it, or some of its text.",
)
@click.option(
    "--curated",
    type=click.Path(path_type=Path),
    help="Another curate stage's directory than the last.",
)
@json_option
def curate(config: Path, row: str | None, curated: Path | None, as_json: bool) -> None:
    """Show where the rows of the last retrain of CONFIG went, or the story of one of them."""
    with output_for(as_json) as finish:
        from flows.cli import explain

        settings = Settings.from_environment()
        if row is None:
            found = explain.curation_summary(settings, config, curated)
            finish(found, lambda: explain.print_summary(found, explain.console()))
        else:
            story = explain.row_story(settings, config, row, curated)
            finish(story, lambda: explain.print_story(story, explain.console()))


for _command in registry.COMMANDS:
    commands.add_command(_command)


def _told(error: BaseException) -> UserError | TransientError | None:
    """The sentence for an error whose traceback would help nobody; None for a bug."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in {errno.ENOSPC, errno.EDQUOT}:
            where = f" ({seen.filename})" if seen.filename else ""
            return TransientError(
                f"the disk is full{where}: free some space, or set RESEED_HOME to another disk; finished stages are kept"
            )
        if "database or disk is full" in str(seen):
            return TransientError(
                "the disk is full (MLflow's or Prefect's database): free some space; finished stages are kept"
            )
        if "mlflow" in sys.modules:
            from flows.tracking import store

            if said := store.describe_fault(seen, Settings.from_environment()):
                return said
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, CorruptDirectory):
        return TransientError(f"{error}: it is not used")
    return error if isinstance(error, TransientError) else None


def main() -> None:
    """Run the command and exit with its status."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        commands(standalone_mode=False)
        code = 0
    except UserError as e:
        click.echo(f"reseed: {e}", err=True)
        code = 2
    except click.ClickException as e:
        e.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo(
            "reseed: stopped; what was finished is kept, and the same command goes on from there",
            err=True,
        )
        code = 1
    except Exception as e:
        told = _told(e)
        if told is None:
            import traceback

            traceback.print_exc()
        bug = "this is a bug in reseed; what was finished is kept. Please report the lines above"
        click.echo(f"reseed: {told or bug}", err=True)
        code = 2 if isinstance(told, UserError) else 1
    sys.exit(code)


if __name__ == "__main__":
    main()
