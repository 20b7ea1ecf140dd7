"""A project: its defaults, its folder, its digest and its parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.project.reader import load_project
from tests.kit.rows import PROJECT_YAML, load_yaml

ROOT = Path(__file__).resolve().parents[2]


def test_the_smallest_project_has_every_default(tmp_path: Path) -> None:
    p = load_yaml(tmp_path, PROJECT_YAML)
    assert p.label_names == ["fruit", "metal"] and p.labels["metal"] == "what rusts"
    assert (p.data.split.dev, p.data.split.test, p.promote.confidence) == (20, 100, 0.95)


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "latin-1", "cp1252", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    project = load_yaml(tmp_path, PROJECT_YAML, f"data.encoding={encoding}")
    assert project.data.encoding == encoding


@pytest.mark.parametrize("name", ["toy", "bbc-news", "a.b_c-1", "0", "x" * 60])
def test_names(tmp_path: Path, name: str) -> None:
    assert load_yaml(tmp_path, PROJECT_YAML.replace("toy", f"'{name}'")).name == name


@pytest.mark.parametrize(
    "generate",
    [
        "",
        "endpoint: 'https://a.example/v1', price: {output: 0.6}",
        "endpoint: 'https://a.example/v1', price: {input: 0, output: 0}",
        "generators: [{name: far, endpoint: 'https://a.example/v1', price: {input: 0.15}}]",
    ],
    ids=["local", "price", "free", "its own price"],
)
def test_a_limit_in_dollars_that_can_be_kept(tmp_path: Path, generate: str) -> None:
    p = load_yaml(tmp_path, f"{PROJECT_YAML}generate: {{budget: {{usd: 1}}, {generate}}}\n")
    assert p.generate.budget.usd == 1


def test_a_project_is_frozen(tmp_path: Path) -> None:
    p = load_yaml(tmp_path, PROJECT_YAML)
    with pytest.raises(ValidationError, match="frozen"):
        p.train.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        p.name = "other"  # type: ignore[misc]


def test_relative_paths_start_at_the_folder_of_the_file_whatever_is_changed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = load_yaml(tmp_path, PROJECT_YAML)
    assert p.config_dir == tmp_path == p.model_copy(update={"name": "other"}).config_dir
    monkeypatch.chdir(tmp_path)
    relative = load_project(Path("toy.yaml"))
    monkeypatch.chdir("/")
    assert relative.config_dir == tmp_path
    moved = p.in_folder(tmp_path / "elsewhere")
    assert moved.config_dir == tmp_path / "elsewhere" and p.config_dir == tmp_path
    assert moved.digest == p.digest, "the digest does not depend on the folder"


def test_the_digest_is_of_the_settings_not_of_how_they_are_written(tmp_path: Path) -> None:
    plain = load_yaml(tmp_path, PROJECT_YAML)
    explicit = load_yaml(tmp_path, f"# a remark\n{PROJECT_YAML}train: {{epochs: 4}}\n")
    changed = load_yaml(tmp_path, PROJECT_YAML, "train.epochs=5")
    assert explicit.digest == plain.digest != changed.digest


def test_the_shipped_project_loads_and_its_parameters_are_dotted() -> None:
    p = load_project(ROOT / "configs" / "bbc-news.yaml")
    parameters = p.parameters()
    assert p.label_names == ["business", "entertainment", "politics", "sports", "tech"]
    assert parameters["train.learning_rate"] == "0.0001" and parameters["data.split.test"] == "100"
    assert parameters["labels"] == str(p.label_names)
    assert {k for k in parameters if "." not in k} == {"name", "labels", "multi_label"}
    assert all(isinstance(v, str) and not v.startswith("{'") for v in parameters.values())
