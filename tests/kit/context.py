"""A retrain's context for the tests of flows/: real stages, without Prefect's server, retries or runs in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from flows.context import RunContext
from flows.registry.client import Registry
from flows.settings import Settings
from flows.steps import StageRunner
from flows.tracking.run import Tracking
from tasks import atomic
from tasks.dataset.split import SealedResult, SplitsResult
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.stage import StageResult
from tasks.workspace import Workspace
from tests.kit.stages import sealed_of, splits_of

P = ParamSpec("P")
Result = TypeVar("Result", bound=StageResult)
StandIns = Mapping[Callable[..., Any], Callable[..., Any]]


class BareRunner(StageRunner):
    """Calls the stages themselves, or what stands in for them."""

    def __init__(self, tracking: Tracking | None = None, stand_ins: StandIns | None = None) -> None:
        super().__init__(cast(Tracking, tracking))
        object.__setattr__(self, "stand_ins", stand_ins or {})

    def stage(
        self, function: Callable[P, Result], *, name: str | None = None, headline: bool = False
    ) -> Callable[P, Result]:
        stand_ins: StandIns = self.stand_ins  # type: ignore[attr-defined]
        return cast(Callable[P, Result], stand_ins.get(function, function))


def context_of(
    project: Project,
    home: Path,
    *,
    splits: SplitsResult | None = None,
    sealed: SealedResult | None = None,
    tracking: Tracking | None = None,
    registry: Registry | None = None,
    stand_ins: StandIns | None = None,
) -> RunContext:
    """The context of a first retrain in the workspace `home`; splits that are not given are empty.

    `stand_ins` are functions by the stages that they are called in place of.
    """
    return RunContext(
        project=project,
        config=home / "toy.yaml",
        settings=Settings(Workspace(home), ""),
        generation=0,
        judged_before=False,
        registry=cast(Registry, registry),
        runner=BareRunner(tracking, stand_ins),
        splits=splits or splits_of(home),
        sealed=sealed or sealed_of(home, []),
    )


def bundle_ref(directory: Path) -> BundleRef:
    """The bundle in `directory`, with the digest that its manifest gives."""
    return BundleRef(directory, atomic.read_json(directory / atomic.MANIFEST)["digest"])
