"""The model card of a registered version: what it is for, what it learned from, how good it is, what nobody looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from flows.context import Retrain
from flows.registry.client import Version
from tasks.encoder.base_model import base_model
from tasks.records import count_by_source, read_records
from tasks.report.blocks import blocks
from tasks.report.contents import MORE, SOURCES, generators_of
from tasks.stage import Stage

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "mlflow" / "model_card.md.j2"
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~])")
_MOST = 4900  # characters of a version's description that every store of MLflow takes


def write(r: Retrain, version: Version, report: dict[str, Any], *, rows: Stage, challenger: Stage, prompt: str) -> str:
    """The card in Markdown, logged to the run as `model_card.md` and set as the version's description; its origin as tags."""
    base = base_model(r.project.train.model, beside=r.beside, cache=r.home / "cache")
    kept = count_by_source(read_records(rows.directory / "kept.jsonl"))
    generators = generators_of(r.project, kept)
    digests = {"training": rows.digest, "dev": r.prepared.splits.digest, "test": r.prepared.sealed.digest}
    card = render(
        report
        | {
            "base": base.name,
            "licence": base.licence,
            "run": r.log.run_id,
            "prompt": prompt,
            "multi_label": r.project.multi_label,
            "labels": r.project.labels,
            "rows": {SOURCES.get(source, source): n for source, n in kept.items()},
            "generators": generators,
            "digests": {name: digest[:12] for name, digest in digests.items()},
            "scores": challenger.counts.get("scores"),
            "slices": challenger.counts["slices"],
            "more_figures": {name: blocks(report[name]) for name in MORE if report.get(name)},
        }
    )
    r.log.client.log_text(r.log.run_id, card, "model_card.md")
    r.registry.describe(
        version, card if len(card) <= _MOST else card[:_MOST].rsplit("\n", 1)[0] + "\n\n(see model_card.md)"
    )
    # the list of versions shows every tag on a line of its own, so that few are better
    lineage = {"data": digests, "prompt": prompt, "generators": generators}
    told = {
        "reseed.lineage": json.dumps(lineage, sort_keys=True),
        "reseed.base": f"{base.name}, licence: {base.licence}",
    }
    r.registry.record(version, told)
    r.log.client.update_registered_model(version.name, _of_all_versions(r))
    return card


def _of_all_versions(r: Retrain) -> str:
    """What the registry's page of the model says above its versions."""
    labels = ", ".join(escaped(label) for label in r.project.label_names)
    return (
        f"Gives a text {'any of' if r.project.multi_label else 'one of'} {len(r.project.labels)} labels: {labels}.\n\n"
        "The version `@champion` answers, `@previous` was champion before it, `@challenger` was registered last. Each version's "
        "description is its model card. The tags `reseed.history.…` are the promotions, oldest first."
    )


def render(told: dict[str, Any], template: Path = TEMPLATE) -> str:
    """The template filled in; every text that comes from data is escaped for Markdown."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=True)
    environment.filters |= {"f3": lambda v: f"{v:.3f}", "md": escaped}
    return environment.from_string(template.read_text(encoding="utf-8")).render(**told)


def escaped(text: Any) -> Any:
    """`text` as Markdown shows it letter by letter, on one line."""
    from markupsafe import Markup

    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(_SPECIAL.sub(r"\\\1", line))  # noqa: S704
