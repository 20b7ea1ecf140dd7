"""The model card of a registered version: what it is for, what it learned from, how good it is, what nobody looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from flows.context import RunContext
from flows.registry.client import Version
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import base_model
from tasks.evaluate.score import ScoreResult
from tasks.project import Project
from tasks.records import count_by_source
from tasks.report.blocks import blocks
from tasks.report.contents import SOURCES, generators_of
from tasks.report.model import RetrainReport

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "mlflow" / "model_card.md.j2"
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~])")
_MOST = 4900  # characters of a version's description that every store of MLflow takes


def write(
    run: RunContext,
    version: Version,
    report: RetrainReport,
    *,
    rows: TrainingRows,
    challenger: ScoreResult,
    prompt: str,
) -> str:
    """The card in Markdown, logged to the run as `model_card.md` and set as the version's description; its origin as tags."""
    base = base_model(
        run.project.train.model, config_dir=run.project.config_dir, cache=run.workspace.cache
    )
    kept = count_by_source(rows.read())
    generators = generators_of(run.project, kept)
    digests = {"training": rows.digest, "dev": run.splits.digest, "test": run.sealed.digest}
    parts = {"robustness": report.robustness, "serving": report.serving}
    context = dict(report) | {
        "base": base.name,
        "licence": base.licence,
        "run": run.tracking.run_id,
        "prompt": prompt,
        "multi_label": run.project.multi_label,
        "labels": run.project.labels,
        "rows": {SOURCES.get(source, source): n for source, n in kept.items()},
        "generators": generators,
        "digests": {name: digest[:12] for name, digest in digests.items()},
        "scores": challenger.calibration,
        "slices": challenger.slices,
        "more_figures": {name: blocks(part.model_dump()) for name, part in parts.items() if part},
    }
    card = render(context)
    run.tracking.client.log_text(run.tracking.run_id, card, "model_card.md")
    short = (
        card if len(card) <= _MOST else card[:_MOST].rsplit("\n", 1)[0] + "\n\n(see model_card.md)"
    )
    run.registry.describe(version, short)
    # the list of versions shows every tag on a line of its own, so that few are better
    lineage = {"data": digests, "prompt": prompt, "generators": generators}
    tags = {
        "reseed.lineage": json.dumps(lineage, sort_keys=True),
        "reseed.base": f"{base.name}, licence: {base.licence}",
    }
    run.registry.record(version, tags)
    run.tracking.client.update_registered_model(version.name, _of_all_versions(run.project))
    return card


def _of_all_versions(project: Project) -> str:
    """What the registry's page of the model says above its versions."""
    labels = ", ".join(escaped(label) for label in project.label_names)
    return (
        f"Gives a text {'any of' if project.multi_label else 'one of'} {len(project.labels)} labels: {labels}.\n\n"
        "The version `@champion` answers, `@previous` was champion before it, `@challenger` was registered last. Each version's "
        "description is its model card. The tags `reseed.history.…` are the promotions, oldest first."
    )


def render(told: dict[str, Any], template: Path = TEMPLATE) -> str:
    """The template filled in; every text that comes from data is escaped for Markdown."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=True
    )
    environment.filters |= {"f3": lambda v: f"{v:.3f}", "md": escaped}
    return environment.from_string(template.read_text(encoding="utf-8")).render(**told)


def escaped(text: Any) -> Any:
    """`text` as Markdown shows it letter by letter, on one line."""
    from markupsafe import Markup

    line = (
        " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
    return Markup(_SPECIAL.sub(r"\\\1", line))  # noqa: S704


def sentence(project: Project, challenger: ScoreResult, rows: TrainingRows) -> str:
    """The registered version in a sentence: what it was trained on and how it scores."""
    f1 = challenger.known.f1_macro
    sources = count_by_source(rows.read())
    trained_on = ", ".join(
        f"{n} {'real' if source == 'seed' else source}" for source, n in sources.items()
    )
    return (
        f"{project.train.model} fine-tuned on {trained_on} rows; macro-F1 {f1.value:.3f} ({f1.ci_low:.3f} to "
        f"{f1.ci_high:.3f}) on {challenger.known.rows} sealed real rows. Labels: {', '.join(project.label_names)}."
    )
