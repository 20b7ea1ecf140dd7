"""A person's review of doubtful rows: the rows, the files, and a retrain that waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
from prefect.input import RunInput

from flows.context import RunContext
from flows.progress import say
from flows.registry.admin import acting_person
from flows.settings import Settings
from tasks.decisions import Decisions
from tasks.errors import UserError, suggestion
from tasks.figures import Figures
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import Record, iter_records
from tasks.review import table
from tasks.review.queue import count_decided, doubtful_or_decided, rank_doubtful
from tasks.review.ranked_row import RankedRow
from tasks.workspace import RetrainData, Workspace

WAIT_SECONDS = 30 * 24 * 3600  # then a suspended flow run fails


class ReviewAnswer(RunInput):
    """What a person answers to a retrain that waits for the review."""

    by: str = ""
    continue_without: bool = False


class ReviewStatus(Figures):
    """Rows in the queue, reviewed and pending; `missing` rows are still required."""

    project: str
    queue: int
    reviewed: int
    pending: int
    required: int
    missing: int
    decisions: str


class ExportedRows(ReviewStatus):
    """The status, and the file with the pending rows."""

    exported: int
    out: str


class ImportedDecisions(ReviewStatus):
    """The status, and the number of decisions that were read from a file."""

    imported: int


class ReviewPage(ReviewStatus):
    """The status, and the address of the review page."""

    address: str


@dataclass(frozen=True)
class ReviewSession:
    """A project's ranked rows, and the decisions about them."""

    project: Project
    ranked: list[RankedRow]
    decisions: Decisions
    splits: Path

    @property
    def rows(self) -> dict[str, Record]:
        """The ranked rows by id."""
        return {d.id: d.record for d in self.ranked}

    def queue(self) -> list[RankedRow]:
        """The doubtful and the decided rows, by rank."""
        return doubtful_or_decided(self.ranked, self.decisions.current())

    def status(self) -> ReviewStatus:
        """How many rows are reviewed."""
        queue = self.queue()
        reviewed = count_decided(queue, self.decisions.current())
        required = self.project.review.required_rows
        return ReviewStatus(
            project=self.project.name,
            queue=len(queue),
            reviewed=reviewed,
            pending=len(queue) - reviewed,
            required=required,
            missing=max(0, min(required, len(queue)) - reviewed),
            decisions=str(self.decisions.path),
        )


def open_review(
    settings: Settings,
    config_or_name: str,
    *,
    by: str | None = None,
    curated: Path | None = None,
    splits: Path | None = None,
) -> ReviewSession:
    """The review of a project file, or of a project that was retrained here.

    Raises UserError where there is no such project, or nothing is curated yet.
    """
    if (curated is None) != (splits is None):
        raise UserError("--curated and --splits belong together: give both, or neither")
    workspace = settings.workspace
    config = _find_config(workspace, config_or_name)
    project = load_project(config)
    if curated is not None and splits is not None:
        data = RetrainData(config=config, curated=curated, splits=splits)
    else:
        data = require_last_retrain(workspace, project)
    for directory, file in ((data.curated, "kept.jsonl"), (data.splits, "dev.jsonl")):
        if not (directory / file).exists():
            raise UserError(
                f"{directory} has no {file}: give the directories of a curate stage and its splits"
            )
    decisions = Decisions(workspace.decisions(project.name), by=acting_person(by))
    return ReviewSession(project, _rank(project, data, workspace), decisions, data.splits)


def require_last_retrain(workspace: Workspace, project: Project) -> RetrainData:
    """The data of the project's last retrain. Raises UserError where there is none."""
    data = workspace.last_retrain(project.name)
    if data is None:
        raise UserError(
            f"no rows of {project.name!r} are curated in {workspace.home} yet: "
            "run `reseed retrain` first, or give --curated"
        )
    for directory in (data.curated, data.splits):
        if not directory.exists():
            raise UserError(
                f"{directory}, of the last retrain, does not exist any more: run `reseed retrain`, "
                "which rebuilds it"
            )
    return data


def wait_for_review(run: RunContext, data: RetrainData) -> int:
    """The number of reviewed rows, once it reaches `review.required_rows` or all doubtful rows.

    A run of a deployment is suspended until somebody resumes it with a ReviewAnswer, again and
    again while rows are missing; its process ends meanwhile, and the resumed run starts from the
    beginning, where finished stages are not repeated. Without a deployment, raises UserError.
    Call it in the flow: a task cannot suspend.
    """
    from prefect import suspend_flow_run
    from prefect.runtime import deployment

    project, workspace = run.project, run.workspace
    if not project.review.required_rows:
        return 0
    decisions = Decisions(workspace.decisions(project.name), by="retrain")
    session = ReviewSession(project, _rank(project, data, workspace), decisions, data.splits)
    pauses = 0
    while (status := session.status()).missing:
        reviewed, needed = status.reviewed, status.reviewed + status.missing
        message = (
            f"{needed} rows must be reviewed (review.required_rows), {reviewed} are: run "
            f"`reseed review {project.name}`"
        )
        if deployment.id is None:
            raise UserError(f"{message}, then this command again")
        say(f"{message}, then resume this flow run")
        # the key is stable: when the run starts again, a resumed pause returns its answer at once
        answer = suspend_flow_run(
            wait_for_input=ReviewAnswer.with_initial_data(description=f"{message}, then resume."),
            key=f"review-{pauses}",
            timeout=WAIT_SECONDS,
        )
        if answer.continue_without:
            say(f"{answer.by or 'somebody'} continues with {reviewed} of {needed} rows reviewed")
            break
        pauses += 1
    return status.reviewed


def _rank(project: Project, data: RetrainData, workspace: Workspace) -> list[RankedRow]:
    def progress(done: int, total: int, note: str) -> None:
        if done == 0:
            say("ranking the rows, which takes a minute the first time")

    return rank_doubtful(project, data, workspace=workspace, progress=progress).read()


def _find_config(workspace: Workspace, config_or_name: str) -> Path:
    path = Path(config_or_name)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        return path
    known = workspace.retrained_projects()
    data = workspace.last_retrain(config_or_name) if config_or_name in known else None
    if data is None:
        raise UserError(
            f"no project {config_or_name!r} was retrained in {workspace.home}"
            f"{suggestion(config_or_name, known)}: give its project file, such as "
            f"configs/{config_or_name}.yaml"
        )
    return data.config


def export_rows(session: ReviewSession, out: Path) -> ExportedRows:
    """Write the pending rows to a CSV or JSONL file."""
    decided = session.decisions.current()
    rows = [d for d in session.queue() if d.id not in decided]
    table.export_queue(out, rows)
    return ExportedRows(**dict(session.status()), exported=len(rows), out=str(out))


def import_decisions(session: ReviewSession, source: Path) -> ImportedDecisions:
    """Read the decisions from an exported file, or from the list of rows to label first."""
    project = session.project
    unknown = table.ids_in_file(source) - session.rows.keys()
    unlabelled = iter_records(session.splits / "unlabelled.jsonl") if unknown else ()
    rows = session.rows | {r.id: r for r in unlabelled if r.id in unknown}
    separator = (project.data.label_separator or "|") if project.multi_label else None
    decisions = table.import_decisions(
        source, rows, project.label_names, session.decisions, separator=separator
    )
    return ImportedDecisions(**dict(session.status()), imported=len(decisions))


def show_review(status: ReviewStatus) -> None:
    """Print what was exported or imported, the status, and the address of the page."""
    if isinstance(status, ExportedRows):
        click.echo(
            f"{status.exported} rows written to {status.out}; fill in `decision`, then --import it"
        )
    if isinstance(status, ImportedDecisions):
        click.echo(f"{status.imported} decisions imported")
    missing = f"; review.required_rows requires {status.missing} more" if status.missing else ""
    click.echo(
        f"{status.project}: {status.reviewed} rows reviewed, {status.pending} pending{missing}"
    )
    if isinstance(status, ReviewPage):
        click.echo(f"the page is at {status.address}  (this machine only; Ctrl-C ends it)")
