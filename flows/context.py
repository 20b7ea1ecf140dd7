"""The context of one retrain: its project, its stores, its splits, and how it runs a stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from flows.registry.client import Registry
from flows.settings import Settings
from flows.steps import StageRunner
from flows.tracking.run import Tracking
from tasks.dataset.split import SealedResult, SplitsResult
from tasks.project import Project
from tasks.stage import StageResult
from tasks.synthesise.model_answers import AnswersResult
from tasks.workspace import Workspace

P = ParamSpec("P")
T = TypeVar("T")
Result = TypeVar("Result", bound=StageResult)


@dataclass(frozen=True, slots=True)
class RunContext:
    """One retrain.

    `generation` is the number of the challenger, `judged_before` whether an earlier flow run judged it.
    `answers` are the texts of the models, for a detector of which model wrote a text; otherwise None.
    """

    project: Project
    config: Path
    settings: Settings
    generation: int
    judged_before: bool
    registry: Registry
    runner: StageRunner
    splits: SplitsResult
    sealed: SealedResult
    answers: AnswersResult | None = None

    @property
    def workspace(self) -> Workspace:
        """Where the files of this machine's retrains are."""
        return self.settings.workspace

    @property
    def tracking(self) -> Tracking:
        """The retrain's run in MLflow."""
        return self.runner.tracking

    def stage(
        self, function: Callable[P, Result], *, name: str | None = None, headline: bool = False
    ) -> Callable[P, Result]:
        """See StageRunner.stage."""
        return self.runner.stage(function, name=name, headline=headline)

    def store(self, function: Callable[P, T], *, name: str | None = None) -> Callable[P, T]:
        """See StageRunner.store."""
        return self.runner.store(function, name=name)
