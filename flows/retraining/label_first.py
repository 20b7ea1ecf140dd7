"""List the unlabelled texts that a person should label first after an inconclusive verdict."""

from __future__ import annotations

from flows.context import RunContext
from flows.registry.client import Version
from tasks.atomic import CorruptDirectory
from tasks.evaluate.label_first import label_first
from tasks.model.bundle import BundleRef
from tasks.report.model import LabelFirst


def list_texts_to_label(
    run: RunContext, challenger: BundleRef, champion: Version | None
) -> LabelFirst | None:
    """The list, or None without unlabelled text. A champion whose files fail verification is left out."""
    if not run.splits.unlabelled:
        return None
    other = None
    if champion is not None:
        try:
            other = BundleRef(run.registry.fetch(champion), champion.digest)
        except CorruptDirectory:
            other = None
    step = run.stage(label_first)
    found = step(run.project, challenger, other, splits=run.splits, workspace=run.workspace)
    return LabelFirst(
        path=str(found.list_file), rows=found.rows, read=found.read, differ=found.differ
    )
