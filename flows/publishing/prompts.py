"""The generation prompt as versioned text in MLflow's prompt registry."""

from __future__ import annotations

import re
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.project import Project

_FIELD = re.compile(r"\{(\w+)\}")


def register_prompt(client: MlflowClient, project: Project) -> str:
    """`NAME/VERSION` of the project's prompt: the registered version with the same text, or a new one."""
    name, text = f"{project.name}-generate", prompt_template(project)
    latest = client.load_prompt(f"prompts:/{name}@latest", allow_missing=True)
    # read one by one: MLflow cannot search prompts by text
    for version in range(1, latest.version + 1 if latest else 1):
        with suppress(MlflowException):  # a version may have been deleted
            if client.get_prompt_version(name, str(version)).template == text:
                return f"{name}/{version}"
    new = client.register_prompt(name=name, template=text, commit_message="from the project file")
    return f"{name}/{new.version}"


def prompt_template(project: Project) -> str:
    """The project's prompt with MLflow's double braces around its fields."""
    return _FIELD.sub(r"{{\1}}", project.generate.prompt)
