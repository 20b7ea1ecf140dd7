"""The seed rows that prompts may show: none that repeats dev or test text."""

from __future__ import annotations

from pathlib import Path

from tasks.curate.checks.leak import screen_prompt_seeds
from tasks.curate.context import load_context
from tasks.dataset.split import SplitsResult
from tasks.project import Project
from tasks.records import Record, read_records, write_records
from tasks.stage import StageResult, run_stage
from tasks.workspace import Workspace

VERSION = 1
SEED = "seed.jsonl"


class PromptSeedsResult(StageResult):
    """The seed rows that prompts may show; `hidden` counts those that repeat held-out text."""

    hidden: int

    def read(self) -> list[Record]:
        """The rows."""
        return read_records(self.directory / SEED)


def select_prompt_seeds(
    project: Project, splits: SplitsResult, *, workspace: Workspace
) -> tuple[list[Record], int]:
    """The seed rows that prompts may show, and how many may not be shown."""
    if not project.generate.examples:
        return [], 0

    def build(out: Path, scratch: Path) -> PromptSeedsResult:
        context = load_context(project, splits, workspace=workspace)
        shown, hidden = screen_prompt_seeds(read_records(splits.directory / SEED), context)
        write_records(out / SEED, shown)
        return PromptSeedsResult(hidden=len(hidden))

    # the encoder, which compares short texts, is part of the splits' digest where it is used
    result = run_stage(
        PromptSeedsResult,
        "shown_seeds",
        workspace=workspace,
        version=VERSION,
        params=project.curate.model_dump(mode="json", include={"leak", "short_leak"}),
        inputs={"splits": splits.digest},
        build=build,
    )
    return result.read(), result.hidden
