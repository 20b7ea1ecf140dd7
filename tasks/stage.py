"""A stage: one directory, found under its key or built."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.atomic import CorruptDirectory, digest_of, published, verify


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage gives back: where its directory is, what it holds and what it took. Serialises to JSON."""

    name: str
    path: str
    key: str
    digest: str
    counts: dict[str, Any]
    seconds: float
    found: bool = False

    @property
    def directory(self) -> Path:
        return Path(self.path)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def stage(
    home: Path,
    name: str,
    *,
    version: int,
    params: dict[str, Any],
    inputs: dict[str, str],
    build: Callable[[Path, Path], dict[str, Any]],
) -> Stage:
    """The stage's directory, found or built.

    The key is the SHA-256 of (name, version, params, digests read). `build(out, work)` writes into `out` and returns
    its counts; `work` is a scratch directory under the same key that survives a kill and goes once `out` is published.
    """
    key = digest_of({"stage": name, "version": version, "params": params, "inputs": inputs})[:32]
    target = home / "stages" / name / key
    if target.exists():
        try:
            m = verify(target)
            return Stage(name, str(target), key, m["digest"], m["counts"], m["seconds"], found=True)
        except CorruptDirectory:
            target.rename(target.with_name(f"{key}.corrupt-{time.time_ns()}"))
    work = home / "work" / name / key
    work.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"stage": name, "key": key, "params": params, "inputs": inputs}
    began = time.monotonic()
    with published(target, about) as out:
        about["counts"] = build(out, work)
        about["seconds"] = round(time.monotonic() - began, 3)
    shutil.rmtree(work, ignore_errors=True)
    m = verify(target)
    return Stage(name, str(target), key, m["digest"], m["counts"], m["seconds"])
