"""The documentation says what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tasks.project import Data, Project, Section, Train
from tests.conftest import ROOT

KEYS = (ROOT / "docs" / "project-file.md").read_text()
TRAINING = (ROOT / "docs" / "training.md").read_text()
README = (ROOT / "README.md").read_text()


def settings(model: Any = Project, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from settings(kind, f"{prefix}{name}.")
        elif prefix:
            yield prefix + name, field


@pytest.mark.parametrize(
    ("key", "field"), list(settings()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_key_is_documented_with_its_default(key: str, field: Any) -> None:
    row = next((line for line in KEYS.splitlines() if line.startswith(f"| `{key}` |")), None)
    assert row, f"docs/project-file.md has no row for {key}"
    default = row.split("|")[2].strip().strip("`")
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    assert yaml.safe_load(default) == value or default == str(value), (
        f"{key}: the default is {value!r}"
    )
    assert field.description in row


@pytest.mark.parametrize("key", Train.model_fields)
def test_every_key_of_the_training_is_explained(key: str) -> None:
    assert re.search(rf"`{key}\b", TRAINING), f"docs/training.md says nothing of train.{key}"


def test_no_key_is_documented_that_does_not_exist() -> None:
    known = {key for key, _ in settings()}
    assert set(re.findall(r"^\| `([a-z0-9_.]+)` \|", KEYS, re.M)) == known
    assert "data" in Project.model_fields and Data is not None


def test_every_verb_of_the_readme_exists_and_every_verb_takes_json() -> None:
    from flows.cli.main import commands

    for verb in set(re.findall(r"reseed ([a-z]+) ", README)) - {"is"}:
        if verb in {"has"}:
            continue
        assert verb in commands.commands, verb
    for verb in commands.commands:
        assert "--json" in CliRunner().invoke(commands, [verb, "--help"]).output


def test_the_readme_names_real_make_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z]+)", README)) <= targets | {"and"}
