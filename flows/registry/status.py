"""Where the projects stand: champion, previous, last verdicts."""

from __future__ import annotations

import shutil
from typing import Any

import click

from flows.progress import say
from flows.registry import promotion
from flows.registry.client import Registry, Version
from flows.settings import Settings
from flows.tracking.store import connect

LAST = 10


def read_status(settings: Settings, name: str | None) -> dict[str, Any]:
    """One entry a project. Raises UserError for a name that is not registered."""
    registry = Registry(connect(settings), settings)
    if name is not None:
        registry.require_model(name)
    names = registry.model_names() if name is None else [name]
    for n in names:
        for sentence in promotion.reconcile(registry, n):
            say(sentence)
    home = settings.workspace.home
    free = shutil.disk_usage(home if home.exists() else home.parent).free
    return {
        "home": str(home),
        "mlflow": settings.store,
        "free_gib": round(free / 2**30, 1),
        "projects": {n: _project(registry, n) for n in names},
    }


def _project(registry: Registry, name: str) -> dict[str, Any]:
    champion, previous = registry.champion(name), registry.find_alias(name, "previous")
    return {
        "champion": _version(champion),
        "previous": _version(previous),
        "verdicts": [_version(v) for v in registry.versions(name)[:LAST]],
    }


def _version(v: Version | None) -> dict[str, Any] | None:
    if v is None:
        return None
    tags = {
        "verdict": "verdict",
        "reasons": "reasons",
        "judged_at": "judged_at",
        "promoted_at": "promoted_at",
    }
    found: dict[str, Any] = {"version": v.version, "bundle": v.digest[:12]}
    found |= {
        key: v.tags[f"reseed.{tag}"] for key, tag in tags.items() if f"reseed.{tag}" in v.tags
    }
    if "reseed.test.f1_macro" in v.tags:
        found["f1_macro"] = float(v.tags["reseed.test.f1_macro"])
    return found


def show_status(found: dict[str, Any]) -> None:
    click.echo(
        f"workspace {found['home']} ({found['free_gib']} GiB free), MLflow {found['mlflow']}"
    )
    if not found["projects"]:
        click.echo("no project yet: `reseed retrain CONFIG` makes one")
    for name, p in found["projects"].items():
        click.echo(f"\n{name}")
        for role in ("champion", "previous"):
            v = p[role]
            click.echo(
                f"  {role:<9} "
                + (
                    f"version {v['version']}, since {v.get('promoted_at', '?')[:19]}"
                    if v
                    else "none"
                )
            )
        for v in p["verdicts"]:
            f1 = f"F1 {v['f1_macro']:.3f}" if "f1_macro" in v else ""
            when = v.get("judged_at", "")[:19]
            click.echo(
                f"  version {v['version']:<3} {v.get('verdict', 'not judged'):<12} {f1}  {when}  {v.get('reasons', '')}"
            )
