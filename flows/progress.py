"""Progress of long work: bars on a terminal, plain lines elsewhere, and a progress artifact in Prefect."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from tasks.progress import Report

LINE_SECONDS = 10.0  # between two plain lines, and between two updates of Prefect's artifact


def say(text: str) -> None:
    """One line for the person who waits, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextmanager
def watched(title: str) -> Iterator[Report]:
    """A Report for the body."""
    if sys.stderr.isatty():
        with _bar(title) as report:
            yield _also_in_prefect(title, report)
    else:
        yield _also_in_prefect(title, _lines(title))


@contextmanager
def _bar(title: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(title, total=None, note="")

        def report(done: int, total: int, note: str) -> None:
            progress.update(bar, completed=done, total=total, note=note)

        yield report


def _lines(title: str) -> Report:
    began = last = time.monotonic()

    def report(done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_SECONDS or (done == total and now - began > 1):
            last = now
            say(f"{title}: {done}/{total} {note} ({now - began:.0f} s)")

    return report


def _also_in_prefect(title: str, report: Report) -> Report:
    """`report` that keeps a progress artifact of the running task up to date; trouble with the artifact is no trouble."""
    artifact: UUID | None = None
    last = time.monotonic()

    def both(done: int, total: int, note: str) -> None:
        nonlocal artifact, last
        report(done, total, note)
        if time.monotonic() - last < LINE_SECONDS:
            return
        last = time.monotonic()
        share = 100.0 * done / max(total, 1)
        with suppress(Exception):
            from prefect.artifacts import create_progress_artifact, update_progress_artifact

            if artifact is None:
                made: Any = create_progress_artifact(progress=share, description=title)
                artifact = made
            else:
                update_progress_artifact(artifact, progress=share)

    return both
