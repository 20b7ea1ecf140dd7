"""The verbs of the command `reseed` that look at the registry or move its aliases."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from flows.cli.output import json_option, output_for
from flows.settings import Settings


def by_a_person(verb: Callable[..., None]) -> Callable[..., None]:
    """The options of a verb that goes into the history: why, and who."""
    reason = click.option("--reason", required=True, help="Why, for the history.")
    return reason(click.option("--by", help="Who; this machine's user otherwise.")(verb))


@click.command()
@click.argument("name", required=False)
@json_option
def status(name: str | None, as_json: bool) -> None:
    """Show the champion of NAME, the one before it, and the last verdicts; of every project without NAME."""
    from flows.registry import status as status_

    with output_for(as_json) as finish:
        found = status_.read_status(Settings.from_environment(), name)
        finish(found, lambda: status_.show_status(found))


@click.command()
@click.argument("name")
@click.argument("version")
@by_a_person
@json_option
def promote(name: str, version: str, reason: str, by: str | None, as_json: bool) -> None:
    """Make VERSION the champion of NAME by hand; it must load and answer, its verdict is not asked."""
    from flows.registry import admin

    with output_for(as_json) as finish:
        done = admin.promote_by_hand(
            Settings.from_environment(), name, version, reason=reason, by=by
        )
        finish(
            done,
            lambda: admin.show_promotion(
                done, f"{name}: version {done['version']} is the champion"
            ),
        )


@click.command()
@click.argument("name")
@click.argument("version")
@by_a_person
@json_option
def refuse(name: str, version: str, reason: str, by: str | None, as_json: bool) -> None:
    """Write into the history of NAME that VERSION is not to be its champion, and why; no alias moves."""
    from flows.registry import admin

    with output_for(as_json) as finish:
        done = admin.refuse_version(
            Settings.from_environment(), name, version, reason=reason, by=by
        )
        finish(done, lambda: admin.show_refusal(done))


@click.command()
@click.argument("name")
@by_a_person
@json_option
def rollback(name: str, reason: str, by: str | None, as_json: bool) -> None:
    """Make the champion of NAME that was before the champion again."""
    from flows.registry import admin

    with output_for(as_json) as finish:
        done = admin.roll_back(Settings.from_environment(), name, reason=reason, by=by)
        said = f"{name}: version {done['version']} is the champion again, in place of version {done['before']}"
        finish(done, lambda: admin.show_promotion(done, said))


@click.command()
@click.argument("name")
@json_option
def history(name: str, as_json: bool) -> None:
    """Every promotion and refusal of NAME: when, which version, by whom and why; and whether the aliases are as it says."""
    from flows.registry import admin

    with output_for(as_json) as finish:
        found = admin.read_history(Settings.from_environment(), name)
        finish(found, lambda: admin.show_history(found))


@click.command()
@click.argument("name")
@click.argument("version", required=False)
@click.option(
    "--promotion",
    type=click.IntRange(1),
    help="The verdict of this promotion in `reseed history NAME`.",
)
@json_option
def verify(name: str, version: str | None, promotion: int | None, as_json: bool) -> None:
    """Come to the verdict on VERSION of NAME (the champion otherwise) again from its evidence; 1 where it differs, or the evidence is
    not of what the registry says."""
    from flows.registry import verify as verdicts

    with output_for(as_json) as finish:
        found = verdicts.verify_verdict(
            Settings.from_environment(), name, version, promotion=promotion
        )
        finish(found.model_dump(mode="json"), lambda: verdicts.show_verification(found))
    if not found.same or found.disagreements:
        sys.exit(1)


@click.command()
@click.argument("name")
@click.option(
    "--keep",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Newest versions that stay.",
)
@click.option("--yes", is_flag=True, help="Remove them; without it they are only named.")
@json_option
def prune(name: str, keep: int, yes: bool, as_json: bool) -> None:
    """Remove old versions of NAME that were never champion, with their files."""
    from flows.registry import admin

    with output_for(as_json) as finish:
        found = admin.prune(Settings.from_environment(), name, keep=keep, really=yes)
        finish(found, lambda: admin.show_pruned(found))


@click.command()
@click.argument("name")
@click.option("--open", "show", is_flag=True, help="Open it in the browser.")
@json_option
def report(name: str, show: bool, as_json: bool) -> None:
    """Bring the report of the last retrain of NAME, one HTML file, into the workspace, and print its path."""
    from flows.publishing.html import fetch_report
    from flows.publishing.terminal import relative_path

    with output_for(as_json) as finish:
        fetched = fetch_report(Settings.from_environment(), name)
        if show:
            click.launch(fetched.report)
        finish(fetched.model_dump(mode="json"), lambda: click.echo(relative_path(fetched.report)))


COMMANDS = (status, report, promote, refuse, rollback, history, verify, prune)
