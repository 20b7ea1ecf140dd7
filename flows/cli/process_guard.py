"""Let no child process outlive this one, even after `kill -9`.

Prefect stops its temporary server in an exit handler, which a kill does not run. So a watcher process
reads a pipe that closes when its parent ends, and then ends the processes that the parent started.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

OWNER = "RESEED_OWNER"  # every child inherits it, and the watcher finds them by it
_watchers: list[subprocess.Popen[bytes]] = []


@contextlib.contextmanager
def guard_children() -> Iterator[None]:
    """Processes that are started in the body, and their children, end with this process."""
    os.environ[OWNER] = token = uuid.uuid4().hex
    watcher = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.process_guard", token],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # it gets no Ctrl-C
    )
    _watchers.append(watcher)  # keeps the pipe open until after the exit handlers
    try:
        yield
    finally:
        os.environ.pop(OWNER, None)


def main() -> None:
    """Wait for the end of standard input, then end every process that has the token."""
    import psutil

    token = sys.argv[1]
    sys.stdin.buffer.read()
    ending = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(OWNER) == token:
                process.terminate()
                ending.append(process)
    for process in psutil.wait_procs(ending, timeout=5)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    main()
