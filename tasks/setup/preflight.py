"""What is checked before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.errors import UserError
from tasks.evaluate.baselines.word_vectors import check_static
from tasks.evaluate.baselines.zero_shot import sides
from tasks.evaluate.cases import load_cases
from tasks.project import Project
from tasks.references import check_reference, resolve


def check_references(project: Project, path: Path) -> None:
    """Raise UserError, naming file, key, value and remedy, for a local path or package that is not there."""
    d, g = project.data, project.generate
    named = {
        f"data.{name}": getattr(d, name) for name in ("pool", "train", "dev", "test", "unlabelled")
    }
    named |= {"train.model": project.train.model, "generate.questions": g.questions}
    for name, (_, e) in g.endpoints().items():
        if e.endpoint == "local":
            named[f"generate.generators.{name}.model" if g.generators else "generate.model"] = (
                e.model
            )
    looks = {"evaluate.static_model": check_static, "evaluate.zero_shot": sides}
    named |= {"evaluate.zero_shot": project.evaluate.zero_shot}
    static = project.evaluate.static_model
    named |= {"evaluate.static_model": static} if static not in ("encoder", "off") else {}
    for key, reference in named.items():
        if reference:
            try:
                check_reference(reference, config_dir=project.config_dir)
                if key in looks and not reference.startswith(("s3:", "hf:")):
                    looks[key](
                        resolve(
                            reference,
                            config_dir=project.config_dir,
                            cache=project.config_dir,
                            kind="model",
                        )
                    )
            except UserError as e:
                raise UserError(f"{path}: {key}: {e}") from None
    if project.evaluate.cases:
        load_cases(project)


def check_endpoint(project: Project) -> None:
    """Raises UserError when the project needs a key that the environment does not hold."""
    for _, e in project.generate.endpoints().values():
        if e.endpoint.startswith("https://api.openai.com") and not os.environ.get(e.api_key_env):
            raise UserError(
                f"generate.endpoint is {e.endpoint} but the environment has no {e.api_key_env}: export the key"
            )
