"""The generation prompt as versioned text in MLflow's prompt registry."""

from __future__ import annotations

import re
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from flows.context import RunContext
from tasks.project import Project

_FIELD = re.compile(r"\{(\w+)\}")


def template(project: Project) -> str:
    """The project's prompt with MLflow's double braces round its fields."""
    return _FIELD.sub(r"{{\1}}", project.generate.prompt)


def register(client: MlflowClient, project: Project) -> str:
    """`NAME/VERSION` of the project's prompt: the registered version with the same text, or a new one."""
    name, text = f"{project.name}-generate", template(project)
    latest = client.load_prompt(f"prompts:/{name}@latest", allow_missing=True)
    for version in range(
        1, latest.version + 1 if latest else 1
    ):  # read one by one: the store gives no search by text
        with suppress(MlflowException):  # a version may have been deleted
            if client.get_prompt_version(name, str(version)).template == text:
                return f"{name}/{version}"
    made = client.register_prompt(name=name, template=text, commit_message="from the project file")
    return f"{name}/{made.version}"


def record(run: RunContext) -> str:
    """The prompt's version, noted on the run."""
    version = register(run.tracking.client, run.project)
    run.tracking.tag(prompt=version)
    return version
