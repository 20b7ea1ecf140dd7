"""The commands that generate rows, train and judge: retrain, generate and tune."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from flows.cli.output import Finish, console, prints_result


def project_options(command: Callable[..., None]) -> Callable[..., None]:
    """CONFIG and --set."""
    config = click.argument("config", type=click.Path(path_type=Path))
    help_text = "Override a key of CONFIG, such as train.epochs=3."
    return config(
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=help_text)(
            command
        )
    )


@click.command()
@project_options
@click.option(
    "--fresh",
    is_flag=True,
    help="Start a new challenger with other seeds; one without a verdict yet is continued instead.",
)
@prints_result
def retrain(config: Path, overrides: tuple[str, ...], fresh: bool, finish: Finish) -> None:
    """Generate, curate, train, evaluate, judge and promote, as the project file CONFIG says."""
    with _flow_arguments(config, overrides) as arguments:
        from flows.publishing.terminal import show_report
        from flows.retrain import retrain as flow
        from tasks.report.model import RetrainReport

        report = RetrainReport.from_json(flow(**arguments, fresh=fresh))
        finish(report, lambda r: show_report(r, console()))


@click.command()
@project_options
@click.option("--plan", "only_plan", is_flag=True, help="Print the estimated cost; send nothing.")
@prints_result
def generate(config: Path, overrides: tuple[str, ...], only_plan: bool, finish: Finish) -> None:
    """Generate and curate the rows of CONFIG without training; `reseed retrain` continues."""
    with _flow_arguments(config, overrides) as arguments:
        from flows import generate as flow

        if only_plan:
            finish(flow.estimate_cost(config, overrides), lambda p: flow.show_plan(p, console()))
        else:
            rows = flow.GeneratedReport.from_json(flow.generate(**arguments))
            finish(rows, lambda r: flow.show_rows(r, console()))


@click.command()
@project_options
@click.option("--out", type=click.Path(path_type=Path), help="The file for the best settings.")
@prints_result
def tune(config: Path, overrides: tuple[str, ...], out: Path | None, finish: Finish) -> None:
    """Search for better `train` settings of CONFIG on the dev rows, and print them as YAML."""
    with _flow_arguments(config, overrides) as arguments:
        from flows import tune as flow

        result = flow.tune(**arguments, out=str(out) if out else None)
        finish(flow.TuneReport.from_json(result), lambda r: flow.show_settings(r, console()))


@contextlib.contextmanager
def _flow_arguments(config: Path, overrides: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The arguments of a flow, once the project file was checked; processes that the flow starts end
    with this one."""
    from flows.cli.process_guard import guard_children
    from tasks.project.reader import load_project
    from tasks.setup.preflight import check_references

    check_references(load_project(config, overrides), config)
    with guard_children():
        yield {"config": str(config), "overrides": list(overrides)}


COMMANDS = (retrain, generate, tune)
