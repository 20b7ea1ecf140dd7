"""A person's look at doubtful rows: where they come from, the page, the files, and the pause of a retrain that waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from prefect.input import RunInput

from flows.context import RunContext
from flows.progress import say
from flows.registry.admin import acting_person
from flows.settings import Settings
from tasks.decisions import Decision, Decisions
from tasks.errors import UserError, suggestion
from tasks.figures import Figures
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import Record, iter_records
from tasks.review import table
from tasks.review.queue import count_decided, doubtful_or_decided, rank_doubtful
from tasks.review.ranked_row import RankedRow
from tasks.workspace import RetrainData, Workspace

WAIT_SECONDS = 30 * 24 * 3600  # a suspended flow run fails after them


class ReviewAnswer(RunInput):
    """What a person answers to a suspended retrain."""

    by: str = ""
    go_on_without: bool = False


class ReviewStatus(Figures):
    """Rows in the queue, reviewed and waiting, and how many more `review.required_rows` asks for."""

    project: str
    queue: int
    looked_at: int
    waiting: int
    required: int
    missing: int
    decisions: str


@dataclass(frozen=True)
class ReviewSession:
    """One project's ranked rows and its decisions, as a person sits down to look."""

    project: Project
    ranked: list[RankedRow]
    decided: Decisions
    splits: Path

    @property
    def rows(self) -> dict[str, Record]:
        return {d.id: d.record for d in self.ranked}

    def queue(self) -> list[RankedRow]:
        """The doubtful rows and the decided ones, by rank."""
        return doubtful_or_decided(self.ranked, self.decided.current())

    def status(self) -> ReviewStatus:
        """How far the review is."""
        current = self.decided.current()
        rows = doubtful_or_decided(self.ranked, current)
        seen = count_decided(rows, current)
        required = self.project.review.required_rows
        return ReviewStatus(
            project=self.project.name,
            queue=len(rows),
            looked_at=seen,
            waiting=len(rows) - seen,
            required=required,
            missing=max(0, min(required, len(rows)) - seen),
            decisions=str(self.decided.path),
        )


def open_review(
    settings: Settings,
    given: str,
    *,
    by: str | None = None,
    curated: Path | None = None,
    splits: Path | None = None,
) -> ReviewSession:
    """The review of a project file or of the name of a project that was retrained here.

    Raises UserError when there is no such project, or nothing was curated yet.
    """
    if (curated is None) != (splits is None):
        raise UserError(
            "give --curated and --splits together: the rows of one, and the dev rows that belong to them"
        )
    workspace = settings.workspace
    config = _config(workspace, given)
    project = load_project(config)
    if curated is not None and splits is not None:
        data = RetrainData(config=config, curated=curated, splits=splits)
    else:
        data = require_last_retrain(workspace, project)
    for directory, need in ((data.curated, "kept.jsonl"), (data.splits, "dev.jsonl")):
        if not (directory / need).exists():
            raise UserError(
                f"{directory} has no {need}: give the directories of a curate stage and of its splits"
            )
    decided = Decisions(workspace.decisions(project.name), by=acting_person(by))
    return ReviewSession(project, _rank(project, data, workspace), decided, data.splits)


def require_last_retrain(workspace: Workspace, project: Project) -> RetrainData:
    """The data of the project's last retrain. Raises UserError where there is none."""
    data = workspace.last_retrain(project.name)
    if data is None:
        raise UserError(
            f"nothing of {project.name!r} was curated in {workspace.home} yet: run `reseed retrain` first, or give "
            f"--curated"
        )
    for directory in (data.curated, data.splits):
        if not directory.exists():
            raise UserError(
                f"{directory}, of the last retrain, is gone: run `reseed retrain` again, which rebuilds it"
            )
    return data


def wait_for_review(run: RunContext, data: RetrainData) -> int:
    """How many doubtful rows were reviewed, once they are as many as `review.required_rows` asks for.

    Where fewer are doubtful, all of them are enough. In a run of a deployment the flow is suspended until somebody
    resumes it with a Looked, and again while too few were reviewed; its process ends meanwhile, and the run starts
    again from the beginning, where finished stages are found. Elsewhere it raises UserError. Call it in the flow itself:
    a task cannot suspend.
    """
    from prefect import suspend_flow_run
    from prefect.runtime import deployment

    project, workspace = run.project, run.workspace
    if not project.review.required_rows:
        return 0
    decided = Decisions(workspace.decisions(project.name), by="retrain")
    session = ReviewSession(project, _rank(project, data, workspace), decided, data.splits)
    asked = 0
    while (status := session.status()).missing:
        seen, needed = status.looked_at, status.looked_at + status.missing
        message = f"{needed} rows must be reviewed (review.required_rows), {seen} are: run `reseed review {project.name}`"
        if deployment.id is None:
            raise UserError(f"{message}, then this command again")
        say(f"{message}, then resume this flow run")
        # the key is stable: a pause that was resumed gives its answer at once when the run starts again
        answer = suspend_flow_run(
            wait_for_input=ReviewAnswer.with_initial_data(description=f"{message}, then resume."),
            key=f"review-{asked}",
            timeout=WAIT_SECONDS,
        )
        if answer.go_on_without:
            say(f"{answer.by or 'somebody'} continues with {seen} of {needed} rows reviewed")
            break
        asked += 1
    return status.looked_at


def _rank(project: Project, data: RetrainData, workspace: Workspace) -> list[RankedRow]:
    def progress(done: int, total: int, note: str) -> None:
        if done == 0:
            say("the rows are being ranked, which takes a minute the first time")

    return rank_doubtful(project, data, workspace=workspace, progress=progress).read()


def _config(workspace: Workspace, given: str) -> Path:
    """The project file of a path or of a name."""
    if given.endswith((".yaml", ".yml")) or Path(given).is_file():
        return Path(given)
    known = workspace.retrained_projects()
    data = workspace.last_retrain(given) if given in known else None
    if data is None:
        raise UserError(
            f"no project {given!r} was retrained in {workspace.home}{suggestion(given, known)}: give its project file, "
            f"such as configs/{given}.yaml"
        )
    return data.config


def export_rows(session: ReviewSession, out: Path) -> dict[str, Any]:
    """Write the rows that wait to a CSV or JSONL file."""
    current = session.decided.current()
    rows = [d for d in session.queue() if d.id not in current]
    table.export_queue(out, rows)
    return {**session.status().model_dump(), "exported": len(rows), "out": str(out)}


def import_decisions(session: ReviewSession, source: Path) -> dict[str, Any]:
    """Read the decisions written into an exported file, or into a copy of the list of what to label first."""
    project = session.project
    wanted = table.ids_in_file(source) - session.rows.keys()
    unlabelled = iter_records(session.splits / "unlabelled.jsonl") if wanted else ()
    rows = session.rows | {r.id: r for r in unlabelled if r.id in wanted}
    separator = (project.data.label_separator or "|") if project.multi_label else None
    made: list[Decision] = table.import_decisions(
        source, rows, project.label_names, session.decided, separator=separator
    )
    return {**session.status().model_dump(), "imported": len(made)}


def show_review(result: dict[str, Any]) -> None:
    """The status, and what was done, in two lines."""
    if "exported" in result:
        click.echo(
            f"{result['exported']} rows written to {result['out']}; fill in `decision`, then --import it"
        )
    if "imported" in result:
        click.echo(f"{result['imported']} decisions imported")
    asked = f"; review.required_rows asks for {result['missing']} more" if result["missing"] else ""
    click.echo(
        f"{result['project']}: {result['looked_at']} rows looked at, {result['waiting']} wait{asked}"
    )


def print_address(status: dict[str, Any], address: str) -> None:
    show_review(status)
    click.echo(f"the page is at {address}  (this machine only; Ctrl-C ends it)")
