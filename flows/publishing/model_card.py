"""The model card of a registered version: its purpose, training data, scores, and what was not tested."""

from __future__ import annotations

import json

from flows.context import RunContext
from flows.publishing.markdown import escape_markdown, render_markdown
from flows.publishing.report import Retrained
from tasks.dataset.training_rows import TrainingRows
from tasks.encoder.base_model import describe_encoder
from tasks.evaluate.result import ScoreResult
from tasks.project import Project
from tasks.records import count_by_source
from tasks.report.blocks import to_blocks
from tasks.report.contents import SOURCES, generators_of
from tasks.report.model import RetrainReport

CARD = "model_card.md"
DESCRIPTION_LENGTH = 4900  # characters of a version's description that every MLflow store accepts


def publish_model_card(run: RunContext, report: RetrainReport, retrained: Retrained) -> None:
    """Log the card to the run, and set it as the version's description, with its origin as tags."""
    version, rows = retrained.candidate.version, retrained.trained.rows
    base = describe_encoder(
        run.project.train.model, config_dir=run.project.config_dir, cache=run.workspace.cache
    )
    by_source = count_by_source(rows.read())
    generators = generators_of(run.project, by_source)
    digests = {"training": rows.digest, "dev": run.splits.digest, "test": run.sealed.digest}
    measured = {"robustness": report.robustness, "serving": report.serving}
    context = dict(report) | {
        "base": base.name,
        "licence": base.licence,
        "run": run.tracking.run_id,
        "prompt": retrained.prompt,
        "multi_label": run.project.multi_label,
        "labels": run.project.labels,
        "rows": {SOURCES.get(source, source): n for source, n in by_source.items()},
        "generators": generators,
        "digests": {name: digest[:12] for name, digest in digests.items()},
        "scores": retrained.candidate.score.calibration,
        "slices": retrained.candidate.score.slices,
        "more_figures": {
            name: to_blocks(part.model_dump()) for name, part in measured.items() if part
        },
    }
    card = render_markdown("model_card.md.j2", context)
    run.tracking.client.log_text(run.tracking.run_id, card, CARD)
    run.registry.set_description(version, _shortened(card))
    # MLflow's list of versions shows each tag on a line of its own: few are better
    lineage = {"data": digests, "prompt": retrained.prompt, "generators": generators}
    tags = {
        "reseed.lineage": json.dumps(lineage, sort_keys=True),
        "reseed.base": f"{base.name}, licence: {base.licence}",
    }
    run.registry.tag_version(version, tags)
    run.tracking.client.update_registered_model(version.name, _model_description(run.project))


def _shortened(card: str) -> str:
    if len(card) <= DESCRIPTION_LENGTH:
        return card
    return card[:DESCRIPTION_LENGTH].rsplit("\n", 1)[0] + f"\n\n(see {CARD})"


def _model_description(project: Project) -> str:
    """The registry's description of the model, above its versions."""
    labels = ", ".join(escape_markdown(label) for label in project.label_names)
    kind = "any of" if project.multi_label else "one of"
    return (
        f"Gives a text {kind} {len(project.labels)} labels: {labels}.\n\n"
        "`@champion` is the version in production, `@previous` was champion before it, `@challenger` "
        "was registered last. Each version's description is its model card. The tags "
        "`reseed.history.…` are the promotions, oldest first."
    )


def version_description(project: Project, scored: ScoreResult, rows: TrainingRows) -> str:
    """The registered version in a sentence: what it was trained on and how it scores."""
    f1, by_source = scored.known.f1_macro, count_by_source(rows.read())
    trained_on = ", ".join(
        f"{n} {'real' if source == 'seed' else source}" for source, n in by_source.items()
    )
    return (
        f"{project.train.model} fine-tuned on {trained_on} rows; macro-F1 {f1.value:.3f} "
        f"({f1.ci_low:.3f} to {f1.ci_high:.3f}) on {scored.known.rows} sealed real rows. "
        f"Labels: {', '.join(project.label_names)}."
    )
