"""Progress of long work: a bar on a terminal, lines elsewhere, and an artifact in Prefect."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from tasks.progress import Progress

LINE_SECONDS = 10.0  # between two lines, and between two updates of Prefect's artifact


def say(text: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """A Progress for the body, shown under `title`."""
    if sys.stderr.isatty():
        with _bar(title) as progress:
            yield _also_in_prefect(title, progress)
    else:
        yield _also_in_prefect(title, _lines(title))


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description:<11}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[note]}"),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as display:
        bar = display.add_task(title, total=None, note="")

        def progress(done: int, total: int, note: str) -> None:
            display.update(bar, completed=done, total=total, note=note)

        yield progress


def _lines(title: str) -> Progress:
    began = last = time.monotonic()

    def progress(done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_SECONDS or (done == total and now - began > 1):
            last = now
            say(f"{title}: {done}/{total} {note} ({now - began:.0f} s)")

    return progress


def _also_in_prefect(title: str, progress: Progress) -> Progress:
    """`progress` that also updates a progress artifact of the running task, as far as it can."""
    artifact: UUID | None = None
    last = time.monotonic()

    def progress_in_both(done: int, total: int, note: str) -> None:
        nonlocal artifact, last
        progress(done, total, note)
        if time.monotonic() - last < LINE_SECONDS:
            return
        last = time.monotonic()
        percent = 100.0 * done / max(total, 1)
        with suppress(Exception):
            from prefect.artifacts import create_progress_artifact, update_progress_artifact

            if artifact is None:
                created: Any = create_progress_artifact(progress=percent, description=title)
                artifact = created
            else:
                update_progress_artifact(artifact, progress=percent)

    return progress_in_both
