"""No process is left behind: a watcher ends what this process started, should it die without a chance to do so.

Prefect's temporary server is stopped by an exit handler, which `kill -9` does not run; it would stay for ever, one more
after each kill. The watcher reads a pipe that closes when its parent is gone, however it went.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

OWNER = "RESEED_OWNER"  # inherited by every child, and how the watcher knows them
_watchers: list[subprocess.Popen[bytes]] = []


@contextlib.contextmanager
def guard_children() -> Iterator[None]:
    """Children started in the body, and theirs, do not outlive this process."""
    os.environ[OWNER] = token = uuid.uuid4().hex
    null = subprocess.DEVNULL
    watcher = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.process_guard", token],
        stdin=subprocess.PIPE,
        stdout=null,
        stderr=null,
        start_new_session=True,  # a Ctrl-C is not for it
    )
    _watchers.append(watcher)  # its pipe stays open until this process ends, exit handlers and all
    try:
        yield
    finally:
        os.environ.pop(OWNER, None)


def main() -> None:
    """Wait for the end of standard input, then end every process that carries the token."""
    import psutil

    token = sys.argv[1]
    sys.stdin.buffer.read()
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(OWNER) == token:
                process.terminate()
                left.append(process)
    for process in psutil.wait_procs(left, timeout=5)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    main()
