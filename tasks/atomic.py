"""Write files and directories atomically, and verify them when they are read.

A directory is written next to its target and fsynced, its `manifest.json` (path, size and SHA-256
of every file) last, and is then renamed. So it exists under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.errors import UserError

MANIFEST = "manifest.json"


class CorruptDirectory(RuntimeError):
    """A published directory whose files no longer match its manifest."""


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _files_below(directory: Path) -> list[Path]:
    return sorted(
        p
        for p in directory.rglob("*")
        if p.is_file() and p.relative_to(directory).as_posix() != MANIFEST
    )


def list_files(directory: Path) -> list[dict[str, Any]]:
    """Path, size and SHA-256 of every file below `directory` but its manifest, sorted by path."""
    return [
        {
            "path": p.relative_to(directory).as_posix(),
            "size": p.stat().st_size,
            "sha256": sha256_file(p),
        }
        for p in _files_below(directory)
    ]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        with temporary.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, completely or not at all."""
    write_bytes(
        path, (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
    )


def read_json(path: Path) -> Any:
    """The JSON value in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        if f.seek(0, os.SEEK_END) and f.seek(-1, os.SEEK_END) >= 0 and f.read(1) != b"\n":
            f.write(b"\n")  # the last line was cut off by a kill
        f.write((json.dumps(value, ensure_ascii=False) + "\n").encode())
        f.flush()
        os.fsync(f.fileno())


def read_lines(path: Path) -> list[Any]:
    """The values in a file of JSON lines; a line that was cut off by a kill is skipped."""
    if not path.exists():
        return []
    values = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
            values.append(json.loads(line))
    return values


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write one JSON value per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as f:
        f.writelines(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def seal(directory: Path, about: dict[str, Any] | None = None) -> str:
    """Fsync all files below `directory`, then write its manifest. Returns their digest."""
    for p in _files_below(directory):
        _fsync(p)
    files = list_files(directory)
    digest = digest_of(files)
    write_json(
        directory / MANIFEST, {"version": 1, "digest": digest, "files": files, **(about or {})}
    )
    return digest


def verify(directory: Path) -> dict[str, Any]:
    """The manifest of `directory`, whose files were compared with it.

    Raises CorruptDirectory with the first file that differs, is missing, or is not in the manifest.
    """
    try:
        manifest: dict[str, Any] = read_json(directory / MANIFEST)
        files = manifest["files"]
        listed = {str(f["path"]) for f in files if f["size"] is not None and f["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise CorruptDirectory(f"{directory} has no readable {MANIFEST}: {e}") from None
    present = {p.relative_to(directory).as_posix() for p in _files_below(directory)}
    if present != listed:
        first = sorted(present ^ listed)[0]
        raise CorruptDirectory(
            f"{directory}: {first} is {'not in the manifest' if first in present else 'missing'}"
        )
    for f in files:
        path = directory / f["path"]
        if (
            path.is_symlink()
            or path.stat().st_size != f["size"]
            or sha256_file(path) != f["sha256"]
        ):
            raise CorruptDirectory(f"{path} differs from its manifest")
    if manifest.get("digest") != digest_of(files):
        raise CorruptDirectory(f"{directory}: the manifest's digest differs from its files")
    return manifest


@contextlib.contextmanager
def publish(target: Path, about: dict[str, Any]) -> Iterator[Path]:
    """A directory to write into. On exit it is sealed and renamed to `target`; on failure, removed.

    `about` becomes part of the manifest on exit, so the body may add to it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        seal(temporary, about)
        try:
            temporary.rename(target)
        except OSError:
            if not target.exists():
                raise
            verify(target)  # another process published the same key, so the same content
            shutil.rmtree(temporary)
        _fsync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _remove_abandoned(target: Path) -> None:
    """Remove the directories that killed writers of `target` left."""
    for directory in target.parent.glob(f".{target.name}.*.tmp"):
        pid = directory.name.rsplit(".", 2)[1]
        if pid == str(os.getpid()) or not (pid.isdigit() and Path(f"/proc/{pid}").exists()):
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def exclusive_lock(lock: Path, what: str) -> Iterator[None]:
    """Hold the exclusive lock `lock`. The kernel releases it when the process ends or is killed.

    Raises UserError with the holder's process id where another process has it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            holder = f.read().strip() or "unknown"
            raise UserError(
                f"{what} is already running (process {holder}, lock {lock}): wait for it to end, "
                "or stop it"
            ) from None
        f.truncate(0)
        f.write(str(os.getpid()))
        f.flush()
        yield


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON value with sorted keys and without spaces."""
    text = json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
