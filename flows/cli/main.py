"""The command `reseed`. Exit status: 0 done, 2 a mistake of the user, 1 anything else.

With --json, one JSON object is the last line of stdout, and everything else goes to stderr. The
modules of the commands import what they need when they run, so that quick commands are quick.
"""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from pathlib import Path

import click

from flows.cli import data, registry, retraining, serving
from flows.settings import Settings
from tasks.atomic import CorruptDirectory
from tasks.errors import TransientError, UserError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="reseed", message="%(package)s %(version)s")
def commands() -> None:
    """From label names to a text classifier in production, retrained and promoted."""


for _module in (retraining, data, serving, registry):
    for _command in _module.COMMANDS:
        commands.add_command(_command)


def main() -> None:
    """Run the command and exit with its status."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        commands(standalone_mode=False)
        status = 0
    except click.ClickException as e:
        e.show()
        status = 2
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped; finished work is kept, and the same command continues from there")
        status = 1
    except Exception as e:
        explained = e if isinstance(e, UserError) else _explain(e)
        if explained is None:
            traceback.print_exc()
        _fail(explained or "this is a bug: please report the lines above; finished work is kept")
        status = 2 if isinstance(explained, UserError) else 1
    sys.exit(status)


def _fail(message: object) -> None:
    click.echo(f"reseed: {message}", err=True)


def _explain(error: BaseException) -> UserError | TransientError | None:
    """The error, or one of its causes, as a sentence; None for a bug, which needs its traceback."""
    cause: BaseException | None = error
    while cause is not None:
        if explained := _full_disk(cause) or _unwritable(cause) or _store_fault(cause):
            return explained
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, CorruptDirectory):
        return TransientError(f"{error}: it is not used")
    return error if isinstance(error, TransientError) else None


def _full_disk(error: BaseException) -> TransientError | None:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        place = f" ({error.filename})" if error.filename else ""
        return TransientError(
            f"the disk is full{place}: free some space, or set RESEED_HOME to another disk; "
            "finished stages are kept"
        )
    if "database or disk is full" in str(error):
        return TransientError(
            "the disk is full (the database of MLflow or Prefect): free some space; finished stages "
            "are kept"
        )
    return None


def _unwritable(error: BaseException) -> UserError | None:
    """The workspace is no folder, or may not be written to."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return None
    home, path = Settings.from_environment().workspace.home, Path(error.filename)
    denied = error.errno in {errno.EROFS, errno.EACCES, errno.EPERM} and home in path.parents
    if not denied and path not in {home, *home.parents}:
        return None
    reason = (error.strerror or "unknown error").lower()
    return UserError(
        f"the workspace {home} cannot be written to ({reason}: {path}): set RESEED_HOME to a folder "
        "that you may write to"
    )


def _store_fault(error: BaseException) -> UserError | TransientError | None:
    if "mlflow" not in sys.modules:
        return None
    from flows.tracking.store import describe_fault

    return describe_fault(error, Settings.from_environment())


if __name__ == "__main__":
    main()
