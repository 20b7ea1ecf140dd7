"""A retrain that was promoted, made once: tests that begin where it ended restore it in seconds."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DATABASE = "mlflow.db"


@dataclass(frozen=True)
class Promoted:
    """A workspace after its first retrain, and a copy of it. The paths in MLflow's store are absolute, so it keeps its place."""

    home: Path
    copy: Path
    report: dict[str, Any]

    @property
    def config(self) -> Path:
        return self.home / "project" / "toy.yaml"

    def restore(self, *, endpoint: str) -> None:
        """Everything as it was after the retrain, but for the LLM's address."""
        for path in self.home.iterdir():
            if path.name != DATABASE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        _copy_files(self.copy, self.home)
        _copy_database(self.copy / DATABASE, self.home / DATABASE)
        config = yaml.safe_load(self.config.read_text())
        config["generate"]["endpoint"] = endpoint
        self.config.write_text(yaml.safe_dump(config, sort_keys=False))


def keep_copy(home: Path, copy: Path) -> None:
    """Copy a workspace, from which `Promoted.restore` brings it back."""
    copy.mkdir()
    _copy_files(home, copy)
    _copy_database(home / DATABASE, copy / DATABASE)


def _copy_files(source: Path, target: Path) -> None:
    without = shutil.ignore_patterns(f"{DATABASE}*")
    shutil.copytree(source, target, ignore=without, dirs_exist_ok=True)


def _copy_database(source: Path, target: Path) -> None:
    """By SQLite itself, since MLflow keeps its connections open."""
    with closing(sqlite3.connect(source)) as a, closing(sqlite3.connect(target)) as b:
        a.backup(b)
