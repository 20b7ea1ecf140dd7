"""A toy project with split data, for the stages that score."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest

from tasks.dataset.split import SealedResult, SplitsResult, sealed_test_set, split_dataset
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.setup.preflight import check_references
from tasks.workspace import Workspace
from tests.kit import toy


class Split(Protocol):
    def __call__(self, **sections: Any) -> tuple[Project, SplitsResult, SealedResult]: ...


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def split(tmp_path: Path, workspace: Workspace, llm: Any, encoder: Path) -> Split:
    """A function that checks and splits the toy project with these sections."""

    def make(**sections: Any) -> tuple[Project, SplitsResult, SealedResult]:
        config = toy.project(tmp_path / "p", endpoint=llm.url, encoder=encoder, **sections)
        p = load_project(config)
        check_references(p, config)
        return p, split_dataset(p, workspace=workspace), sealed_test_set(p, workspace=workspace)

    return make
