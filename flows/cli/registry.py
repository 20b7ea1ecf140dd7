"""The commands that read the registry or move its aliases."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from flows.cli.output import Finish, prints_result
from flows.settings import Settings


def person_options(command: Callable[..., None]) -> Callable[..., None]:
    """--reason and --by, for the history."""
    reason = click.option("--reason", required=True, help="Why, for the history.")
    by_help = "Name recorded in the history; by default the current user."
    return reason(click.option("--by", help=by_help)(command))


@click.command()
@click.argument("name", required=False)
@prints_result
def status(name: str | None, finish: Finish) -> None:
    """Show the champion, the previous one and the last verdicts, of NAME or of every project."""
    from flows.registry.status import read_status, show_status

    finish(read_status(Settings.from_environment(), name), show_status)


@click.command()
@click.argument("name")
@click.argument("version")
@person_options
@prints_result
def promote(name: str, version: str, reason: str, by: str | None, finish: Finish) -> None:
    """Make VERSION the champion of NAME, whatever its verdict; it must load and answer."""
    from flows.registry import admin

    settings = Settings.from_environment()
    report = admin.promote_by_hand(settings, name, version, reason=reason, by=by)
    finish(report, admin.show_promotion)


@click.command()
@click.argument("name")
@click.argument("version")
@person_options
@prints_result
def refuse(name: str, version: str, reason: str, by: str | None, finish: Finish) -> None:
    """Record that VERSION is not to be the champion of NAME; no alias moves."""
    from flows.registry import admin

    settings = Settings.from_environment()
    report = admin.refuse_version(settings, name, version, reason=reason, by=by)
    finish(report, admin.show_refusal)


@click.command()
@click.argument("name")
@person_options
@prints_result
def rollback(name: str, reason: str, by: str | None, finish: Finish) -> None:
    """Make the previous champion of NAME the champion again."""
    from flows.registry import admin

    report = admin.roll_back(Settings.from_environment(), name, reason=reason, by=by)
    finish(report, admin.show_promotion)


@click.command()
@click.argument("name")
@prints_result
def history(name: str, finish: Finish) -> None:
    """Show who promoted or refused which version of NAME, when and why, and any contradiction."""
    from flows.registry import admin

    finish(admin.read_history(Settings.from_environment(), name), admin.show_history)


@click.command()
@click.argument("name")
@click.argument("version", required=False)
@click.option(
    "--promotion",
    type=click.IntRange(1),
    help="Verify the verdict behind this promotion (a number in `reseed history NAME`).",
)
@prints_result
def verify(name: str, version: str | None, promotion: int | None, finish: Finish) -> None:
    """Reproduce the verdict on VERSION of NAME (by default the champion) from its evidence.

    The exit status is 1 where it differs, or the registry disagrees with the evidence.
    """
    from flows.registry.verify import show_verification, verify_verdict

    settings = Settings.from_environment()
    result = verify_verdict(settings, name, version, promotion=promotion)
    finish(result, show_verification)
    if not result.passed:
        sys.exit(1)


@click.command()
@click.argument("name")
@click.option(
    "--keep",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="How many of the newest versions to keep.",
)
@click.option("--yes", is_flag=True, help="Remove the versions instead of listing them.")
@prints_result
def prune(name: str, keep: int, yes: bool, finish: Finish) -> None:
    """Remove old versions of NAME that were never champion, with their files."""
    from flows.registry import pruning

    report = pruning.prune(Settings.from_environment(), name, keep=keep, really=yes)
    finish(report, pruning.show_prune)


@click.command()
@click.argument("name")
@click.option("--open", "open_it", is_flag=True, help="Open it in the browser.")
@prints_result
def report(name: str, open_it: bool, finish: Finish) -> None:
    """Fetch the HTML report of the last retrain of NAME into the workspace, and print its path."""
    from flows.publishing.html import fetch_report
    from flows.publishing.terminal import relative_path

    fetched = fetch_report(Settings.from_environment(), name)
    if open_it:
        click.launch(fetched.report)
    finish(fetched, lambda f: click.echo(relative_path(f.report)))


COMMANDS = (status, report, promote, refuse, rollback, history, verify, prune)
