"""The state of the projects: champion, previous champion and last verdicts."""

from __future__ import annotations

import shutil

import click

from flows.progress import say
from flows.registry import promotion
from flows.registry.client import Registry, Version
from flows.settings import Settings
from flows.tracking.store import connect
from tasks.figures import Figures

LAST = 10  # versions of a project that are shown


class VersionStatus(Figures):
    """A version, with what was recorded of its verdict and its promotion."""

    version: str
    bundle: str
    verdict: str | None
    reasons: str | None
    judged_at: str | None
    promoted_at: str | None
    f1_macro: float | None

    @classmethod
    def of(cls, version: Version) -> VersionStatus:
        """The status of a registered version."""
        tags, f1_macro = version.tags, version.tags.get("reseed.test.f1_macro")
        recorded = ("verdict", "reasons", "judged_at", "promoted_at")
        return cls(
            version=version.version,
            bundle=version.digest[:12],
            **{name: tags.get(f"reseed.{name}") for name in recorded},
            f1_macro=None if f1_macro is None else float(f1_macro),
        )


class ProjectStatus(Figures):
    """The champion and the one before it; `verdicts` are the newest versions."""

    champion: VersionStatus | None
    previous: VersionStatus | None
    verdicts: list[VersionStatus]


class Status(Figures):
    """The workspace, the MLflow store, and the projects by name."""

    home: str
    mlflow: str
    free_gib: float
    projects: dict[str, ProjectStatus]


def read_status(settings: Settings, name: str | None) -> Status:
    """The status of one project, or of all. Raises UserError for an unknown name."""
    registry = Registry(connect(settings), settings)
    if name is not None:
        registry.require_model(name)
    names = registry.model_names() if name is None else [name]
    for project in names:
        for sentence in promotion.reconcile(registry, project):
            say(sentence)
    home = settings.workspace.home
    free = shutil.disk_usage(home if home.exists() else home.parent).free
    return Status(
        home=str(home),
        mlflow=settings.store,
        free_gib=round(free / 2**30, 1),
        projects={project: _project(registry, project) for project in names},
    )


def _project(registry: Registry, name: str) -> ProjectStatus:
    champion, previous = registry.champion(name), registry.find_alias(name, "previous")
    return ProjectStatus(
        champion=VersionStatus.of(champion) if champion else None,
        previous=VersionStatus.of(previous) if previous else None,
        verdicts=[VersionStatus.of(v) for v in registry.versions(name)[:LAST]],
    )


def show_status(status: Status) -> None:
    """Print the workspace, and for each project its champions and last verdicts."""
    click.echo(f"workspace {status.home} ({status.free_gib} GiB free), MLflow {status.mlflow}")
    if not status.projects:
        click.echo("no project yet: `reseed retrain CONFIG` makes one")
    for name, project in status.projects.items():
        click.echo(f"\n{name}")
        for role, v in (("champion", project.champion), ("previous", project.previous)):
            since = f"version {v.version}, since {(v.promoted_at or '?')[:19]}" if v else "none"
            click.echo(f"  {role:<9} {since}")
        for v in project.verdicts:
            f1 = "" if v.f1_macro is None else f"F1 {v.f1_macro:.3f}"
            click.echo(
                f"  version {v.version:<3} {v.verdict or 'not judged':<12} {f1}  "
                f"{(v.judged_at or '')[:19]}  {v.reasons or ''}"
            )
