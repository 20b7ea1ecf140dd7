"""What a command prints: one JSON object last on standard output, or something to read."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from flows.settings import quiet_libraries

json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object last on stdout; all else on stderr."
)


@contextlib.contextmanager
def output_for(as_json: bool) -> Iterator[Callable[[dict[str, Any], Callable[[], None]], None]]:
    """`finish(result, show)` for the body: with --json the result is the last line of stdout, otherwise `show()` is.

    Libraries that print, and what they write to file descriptor 1 from C, go to standard error meanwhile.
    """
    quiet_libraries()
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)

    def finish(result: dict[str, Any], show: Callable[[], None]) -> None:
        sys.stdout.flush()
        os.dup2(real, 1)
        if as_json:
            click.echo(json.dumps(result, ensure_ascii=False, default=str))
        else:
            show()
        sys.stdout.flush()
        os.dup2(2, 1)

    try:
        yield finish
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
