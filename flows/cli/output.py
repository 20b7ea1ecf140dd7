"""What a command prints: text for a person, or one JSON object as the last line of stdout."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

import click
from pydantic import BaseModel

from flows.settings import quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console

Result = TypeVar("Result", bound=BaseModel)


class Finish(Protocol):
    """Prints a command's result: as JSON, or with the function that shows it."""

    def __call__(self, result: Result, show: Callable[[Result], None]) -> None:
        """Print `result`."""


def prints_result(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the option --json; its parameter `finish` prints the result."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object last on stdout.")
    @functools.wraps(command)
    def run(as_json: bool, **arguments: Any) -> None:
        def finish(result: Result, show: Callable[[Result], None]) -> None:
            with contextlib.redirect_stdout(stdout):
                if as_json:
                    click.echo(json.dumps(result.model_dump(mode="json"), ensure_ascii=False))
                else:
                    show(result)
            stdout.flush()

        quiet_libraries()
        with _stdout_to_stderr() as stdout:
            command(finish=finish, **arguments)

    return run


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[IO[str]]:
    """Send stdout to stderr, also that of libraries in C; a file that writes to the real stdout."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(stdout), "w", encoding=sys.stdout.encoding) as file:
            yield file
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def console() -> Console:
    """A console for tables, 110 columns wide where stdout is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 110, highlight=False)
