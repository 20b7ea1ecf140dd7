"""A person's look at doubtful rows: where they come from, the page, the files, and the pause of a retrain that waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from prefect.input import RunInput

from flows.progress import say
from flows.registry.admin import person
from flows.settings import Settings
from tasks import atomic
from tasks.decisions import Decision, Decisions, decisions_file
from tasks.errors import UserError, suggestion
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import Record, iter_records
from tasks.references import resolve
from tasks.review import table
from tasks.review.queue import Doubt, looked_at, ranked_stage, read_ranked, waiting

WAIT_SECONDS = 30 * 24 * 3600  # a suspended flow run fails after them


class Looked(RunInput):
    """What a person answers to a suspended retrain."""

    by: str = ""
    go_on_without: bool = False


@dataclass(frozen=True)
class Sitting:
    """One project's ranked rows and its decisions, as a person sits down to look."""

    project: Project
    ranked: list[Doubt]
    decided: Decisions
    splits: Path

    @property
    def rows(self) -> dict[str, Record]:
        return {d.id: d.record for d in self.ranked}

    def queue(self) -> list[Doubt]:
        """The doubtful rows and the decided ones, by rank."""
        return waiting(self.ranked, self.decided.current())

    def status(self) -> dict[str, Any]:
        """How far the person is: rows in the queue, looked at, waiting, and what the project asks for."""
        current = self.decided.current()
        rows = waiting(self.ranked, current)
        seen = looked_at(current, rows)
        required = self.project.review.required
        return {
            "project": self.project.name,
            "queue": len(rows),
            "looked_at": seen,
            "waiting": len(rows) - seen,
            "required": required,
            "missing": max(0, min(required, len(rows)) - seen),
            "decisions": str(self.decided.path),
        }


def _place(home: Path, name: str) -> Path:
    """Where a retrain notes its project file and the directories that it curated and split."""
    return home / "projects" / f"{name}.review.json"


def sit_down(
    settings: Settings, given: str, *, by: str | None = None, curated: Path | None = None, splits: Path | None = None
) -> Sitting:
    """The sitting for a project file or the name of a project that was retrained here, with what its last retrain harvested.

    Raises UserError when there is no such project, or nothing was curated yet.
    """
    if (curated is None) != (splits is None):
        raise UserError("give --curated and --splits together: the rows of one, and the dev rows that belong to them")
    config = _config(settings.home, given)
    project = load_project(config)
    harvested = None
    if curated is None or splits is None:
        curated, splits, harvested = _last(settings.home, project)
    for directory, need in ((curated, "kept.jsonl"), (splits, "dev.jsonl")):
        if not (directory / need).exists():
            raise UserError(f"{directory} has no {need}: give the directories of a curate stage and of its splits")
    beside = config.absolute().parent
    ranked = _rank(project, curated=curated, splits=splits, harvested=harvested, beside=beside, home=settings.home)
    return Sitting(project, ranked, Decisions(decisions_file(settings.home, project.name), by=person(by)), splits)


def wait_for_review(project: Project, *, curated: Path, splits: Path, config: Path, home: Path) -> int:
    """How many doubtful rows of `curated` were looked at, once they are as many as `review.required` asks for.

    Where fewer are doubtful, all of them are enough. In a run of a deployment the flow is suspended until somebody
    resumes it with a Looked, and again while too few were looked at; its process ends meanwhile, and the run starts
    anew from the beginning, where finished stages are found. Elsewhere it raises UserError. Call it in the flow itself:
    a task can't suspend.
    """
    from prefect import suspend_flow_run
    from prefect.runtime import deployment

    if not project.review.required:
        return 0
    ranked = _rank(project, curated=curated, splits=splits, beside=config.absolute().parent, home=home)
    sitting = Sitting(project, ranked, Decisions(decisions_file(home, project.name), by="retrain"), splits)
    asked = 0
    while (status := sitting.status())["missing"]:
        seen, needed = status["looked_at"], status["looked_at"] + status["missing"]
        said = f"{needed} rows must be looked at (review.required), {seen} are: run `reseed review {project.name}`"
        if deployment.id is None:
            raise UserError(f"{said}, then this command again")
        say(f"{said}, then resume this flow run")
        # the key is stable: a pause that was resumed gives its answer at once when the run starts anew
        answer = suspend_flow_run(
            wait_for_input=Looked.with_initial_data(description=f"{said}, then resume."),
            key=f"review-{asked}",
            timeout=WAIT_SECONDS,
        )
        if answer.go_on_without:
            say(f"{answer.by or 'somebody'} goes on with {seen} of {needed} rows looked at")
            break
        asked += 1
    return int(status["looked_at"])


def _rank(
    project: Project, *, curated: Path, splits: Path, harvested: Path | None = None, beside: Path, home: Path
) -> list[Doubt]:
    encoder = resolve(project.train.model, beside=beside, cache=home / "cache", kind="model")
    stage = ranked_stage(
        project,
        curated=curated,
        splits=splits,
        harvested=harvested,
        encoder=encoder,
        home=home,
        report=_tell,
    )
    return read_ranked(stage)


def _tell(done: int, total: int, note: str) -> None:
    if done == 0:
        say("the rows are being ranked, which takes a minute the first time")


def _config(home: Path, given: str) -> Path:
    """The project file of a path or of a name."""
    if given.endswith((".yaml", ".yml")) or Path(given).is_file():
        return Path(given)
    known = sorted(p.name.removesuffix(".review.json") for p in (home / "projects").glob("*.review.json"))
    if given not in known:
        raise UserError(
            f"no project {given!r} was retrained in {home}{suggestion(given, known)}: give its project file, such as "
            f"configs/{given}.yaml"
        )
    return Path(atomic.read_json(_place(home, given))["config"])


def _last(home: Path, project: Project) -> tuple[Path, Path, Path | None]:
    """The curated rows, the splits and the harvested rows, where there are any, of the project's last retrain.

    Without a note of it, the newest that fit, and nothing harvested.
    """
    place = _place(home, project.name)
    if place.exists():
        noted = atomic.read_json(place)
        curated, splits, harvested = (Path(noted.get(k) or "-") for k in ("curated", "splits", "harvested"))
        if curated.exists() and splits.exists():
            return curated, splits, harvested if harvested.exists() else None
    stages = home / "stages"
    of = {m["digest"]: p for p, m in _manifests(stages / "splits") if m["params"]["labels"] == project.label_names}
    for path, manifest in _manifests(stages / "curate"):
        if manifest["inputs"]["splits"] in of:
            return path, of[manifest["inputs"]["splits"]], None
    raise UserError(
        f"nothing of {project.name!r} was curated in {home} yet: run `reseed retrain` first, or give --curated and --splits"
    )


def _manifests(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The whole directories of a kind of stage with their manifests, the newest first."""
    found = [p for p in folder.glob("[!.]*") if p.suffix == "" and (p / atomic.MANIFEST).exists()]
    return [
        (p, atomic.read_json(p / atomic.MANIFEST)) for p in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)
    ]


def run(sitting: Sitting, *, port: int, show: bool, announce: Callable[..., None]) -> None:
    """Serve the page on loopback until Ctrl-C, and open it in the browser where `show`."""
    from flows.review.server import serve

    def said(address: str) -> None:
        status = sitting.status()
        announce({**status, "address": address}, lambda: _print_address(status, address))

    serve(sitting, port=port, show=show, ready=said)


def export(sitting: Sitting, out: Path) -> dict[str, Any]:
    """Write the rows that wait to a CSV or JSONL file."""
    current = sitting.decided.current()
    rows = [d for d in sitting.queue() if d.id not in current]
    table.write(out, rows)
    return {**sitting.status(), "exported": len(rows), "out": str(out)}


def take(sitting: Sitting, source: Path) -> dict[str, Any]:
    """Read the decisions written into an exported file, or into a copy of the list of what to label first."""
    project = sitting.project
    wanted = table.ids(source) - sitting.rows.keys()
    unlabelled = iter_records(sitting.splits / "unlabelled.jsonl") if wanted else ()
    rows = sitting.rows | {r.id: r for r in unlabelled if r.id in wanted}
    separator = (project.data.label_separator or "|") if project.multi_label else None
    made: list[Decision] = table.take(source, rows, project.label_names, sitting.decided, separator=separator)
    return {**sitting.status(), "imported": len(made)}


def show(result: dict[str, Any]) -> None:
    """The status, and what was done, in two lines."""
    if "exported" in result:
        click.echo(f"{result['exported']} rows written to {result['out']}; fill in `decision`, then --import it")
    if "imported" in result:
        click.echo(f"{result['imported']} decisions imported")
    asked = f"; review.required asks for {result['missing']} more" if result["missing"] else ""
    click.echo(f"{result['project']}: {result['looked_at']} rows looked at, {result['waiting']} wait{asked}")


def _print_address(status: dict[str, Any], address: str) -> None:
    show(status)
    click.echo(f"the page is at {address}  (this machine only; Ctrl-C ends it)")
