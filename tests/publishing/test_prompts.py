"""The generation prompt in MLflow's prompt registry: one version a text."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from flows.publishing.prompts import register_prompt
from tasks.project import Project
from tests.kit import toy


def project(prompt: str) -> Project:
    told = {
        "name": "toy",
        "labels": toy.LABELS,
        "data": {"pool": "rows.csv"},
        "generate": {"prompt": prompt},
    }
    return Project.model_validate(told)


def test_a_text_has_one_version_also_where_another_was_deleted(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(store, store)
    one, two = project("Write about {topic}."), project("Write a story about {topic}.")
    assert [register_prompt(client, p) for p in (one, two, one)] == [
        "toy-generate/1",
        "toy-generate/2",
        "toy-generate/1",
    ]
    client.delete_prompt_version("toy-generate", "1")
    assert register_prompt(client, two) == "toy-generate/2", "what stands behind a gap is found"
    assert register_prompt(client, one) == register_prompt(client, one) == "toy-generate/3"
