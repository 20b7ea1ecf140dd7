"""A stage: a function that reads directories, writes one directory, and returns a typed result.

The directory is named by a key, the SHA-256 of what went into it, so that a stage which was done
before is found again. The result's figures are in the directory's manifest; they are parsed into
the stage's own class whenever they are read, and a directory whose figures do not fit that class is
rebuilt.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import PrivateAttr, ValidationError

from tasks import atomic
from tasks.atomic import CorruptDirectory, digest_of
from tasks.figures import Figures
from tasks.progress import Points
from tasks.workspace import Workspace

Metrics = dict[str, float]
Table = list[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Published:
    """A stage's directory: its key, the digest of its files, and how long it took to build.

    `found` is true where an earlier run had built it.
    """

    name: str
    directory: Path
    key: str
    digest: str
    seconds: float
    found: bool


class StageResult(Figures):
    """What a stage returns: its figures as fields, and the directory that it published.

    MLflow, the terminal and the reports read the methods below, which each stage overrides.
    """

    _published: Published | None = PrivateAttr(default=None)

    @property
    def published(self) -> Published:
        """The directory, its key and how it came to be."""
        assert self._published is not None, f"{type(self).__name__} is not published yet"
        return self._published

    @property
    def directory(self) -> Path:
        """The directory that holds the result's files."""
        return self.published.directory

    @property
    def digest(self) -> str:
        """The digest of the directory's files."""
        return self.published.digest

    def at(self, published: Published) -> Self:
        """This result with the directory that it was published in."""
        copy = self.model_copy()
        copy._published = published
        return copy

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The result in `directory`, whose files are verified first.

        Raises CorruptDirectory when a file differs from the manifest, or the figures do not fit.
        """
        manifest = atomic.verify(directory)
        try:
            figures = cls.from_json(manifest["figures"])
            name, key, seconds = (manifest[k] for k in ("stage", "key", "seconds"))
        except (KeyError, ValidationError) as e:
            why = " ".join(str(e).split())[:300]
            raise CorruptDirectory(f"{directory} holds no {cls.__name__}: {why}") from None
        return figures.at(Published(name, directory, key, manifest["digest"], seconds, found=True))

    def metrics(self) -> Metrics:
        """Figures for the stage's run in MLflow."""
        return {}

    def headline(self) -> Metrics:
        """The figures by which whole retrains are compared, for the retrain's own run in MLflow."""
        return {}

    def history(self) -> Points:
        """The points of curves, as (step, name, value)."""
        return []

    def params(self) -> dict[str, str]:
        """Parameters for the stage's run in MLflow."""
        return {}

    def tables(self) -> dict[str, Table]:
        """Tables for the stage's run in MLflow, by name."""
        return {}

    def artifacts(self) -> list[Path]:
        """Files for the stage's run in MLflow."""
        return []

    def dataset(self) -> tuple[str, Path] | None:
        """The name and file of the rows that this stage wrote, for the datasets in MLflow."""
        return None

    def summary(self) -> str:
        """The result in one line for the terminal; empty where the figures say it all."""
        return ""


Result = TypeVar("Result", bound=StageResult)


def run_stage(
    result: type[Result],
    name: str,
    *,
    workspace: Workspace,
    version: int,
    params: Mapping[str, object],
    inputs: Mapping[str, str],
    build: Callable[[Path, Path], Result],
) -> Result:
    """The result of the stage `name`, found in the workspace or built.

    The key is the SHA-256 of name, version, params and inputs (the digests of what is read).
    `build(out, scratch)` writes into `out` and returns the result; `scratch` is a directory that
    survives a kill and is removed once `out` is published.
    """
    key = digest_of({"stage": name, "version": version, "params": params, "inputs": inputs})[:32]
    target = workspace.stage(name, key)
    if target.exists():
        with suppress(CorruptDirectory):
            return result.load(target)
        target.rename(target.with_name(f"{key}.corrupt-{time.time_ns()}"))
    scratch = workspace.scratch(name, key)
    scratch.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {"stage": name, "key": key, "params": params, "inputs": inputs}
    began = time.monotonic()
    with atomic.publish(target, manifest) as out:
        manifest["figures"] = build(out, scratch).model_dump(mode="json")
        manifest["seconds"] = round(time.monotonic() - began, 3)
    shutil.rmtree(scratch, ignore_errors=True)
    built = result.load(target)
    return built.at(
        Published(name, target, key, built.digest, built.published.seconds, found=False)
    )
