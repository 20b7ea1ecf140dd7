"""Checks of a project before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.errors import UserError
from tasks.evaluate.baselines.word_vectors import check_static_model
from tasks.evaluate.baselines.zero_shot import entailment_outputs
from tasks.evaluate.robustness.cases import load_cases
from tasks.project import Project
from tasks.references import check_reference, resolve

_MODEL_CHECKS = {
    "evaluate.static_model": check_static_model,
    "evaluate.zero_shot": entailment_outputs,
}


def check_references(project: Project, path: Path) -> None:
    """Raise UserError with file, key, value and remedy for a missing local path or package."""
    g, e = project.generate, project.evaluate
    references: dict[str, str | None] = {
        "train.model": project.train.model,
        "generate.questions": g.questions,
        "evaluate.zero_shot": e.zero_shot,
        "evaluate.static_model": e.static_model
        if e.static_model not in ("encoder", "off")
        else None,
    }
    references |= {f"data.{key}": value for key, value in project.data.references().items()}
    for name, (_, endpoint) in g.endpoints().items():
        if endpoint.endpoint == "local":
            key = f"generate.generators.{name}.model" if g.generators else "generate.model"
            references[key] = endpoint.model
    for key, reference in references.items():
        try:
            if reference:
                check_reference(reference, config_dir=project.config_dir)
            if reference and key in _MODEL_CHECKS and not reference.startswith(("s3:", "hf:")):
                folder = project.config_dir
                _MODEL_CHECKS[key](
                    resolve(reference, config_dir=folder, cache=folder, kind="model")
                )
        except UserError as error:
            raise UserError(f"{path}: {key}: {error}") from None
    if e.cases:
        load_cases(project)


def check_endpoint(project: Project) -> None:
    """Raise UserError where the environment lacks an API key that the project needs."""
    for _, e in project.generate.endpoints().values():
        if e.endpoint.startswith("https://api.openai.com") and not os.environ.get(e.api_key_env):
            raise UserError(
                f"generate.endpoint is {e.endpoint}, but the environment has no {e.api_key_env}: "
                "export the key"
            )
