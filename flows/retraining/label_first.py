"""After an inconclusive verdict: which unlabelled texts a person should label first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows import steps
from flows.context import Retrain
from flows.registry.client import Version
from flows.tracking import stage_runs
from tasks.atomic import CorruptDirectory
from tasks.evaluate.label_first import FILE
from tasks.stage import Stage


def label_first(r: Retrain, version: Version, bundle: Path) -> dict[str, Any] | None:
    """Where the list is, its rows, and how many of them the champion answers differently; None without unlabelled text.

    `bundle` holds the challenger, registered as `version`. A champion that can't be verified is not asked.
    """
    champion = r.registry.standing(r.project.name)
    other = None
    if champion is not None:
        try:
            other = (r.registry.fetch(champion), champion.digest)
        except CorruptDirectory:
            other = None
    stage: Stage | None = steps.label_first(
        r.project, (bundle, version.digest), other, splits=r.prepared.splits, home=r.home
    )
    if stage is None:
        return None
    stage_runs.label_first(r.log, r.timed(stage, title="label first"))
    return {"path": str(stage.directory / FILE), **stage.counts}


def line(found: dict[str, Any], project: str) -> str:
    """What the report says of it."""
    differ = f", {found['differ']} of them answered differently by the champion" if found["differ"] else ""
    return (
        f"{found['rows']} unlabelled rows{differ}: write labels into `decision` in a copy of {found['path']}, then `reseed "
        f"review {project} --import COPY`; the next retrain learns from them"
    )
