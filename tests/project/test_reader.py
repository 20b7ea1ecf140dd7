"""A mistake in a project file is one sentence with the file, the key, the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.project.reader import load_project
from tests.kit.rows import PROJECT_YAML, load_yaml

LABELS = "name: toy\ndata: {pool: rows.csv}\nlabels:\n"


def error_of(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as e:
        load_yaml(folder, text, *overrides)
    return str(e.value)


def missing(parts: list[str], message: str) -> list[str]:
    return [part for part in parts if part not in message]


@pytest.mark.parametrize(
    ("addition", "parts"),
    [
        ("trian: {epochs: 1}", ["'trian'", "{'epochs': 1}", "did you mean 'train'?"]),
        ("train: {epoch: 7}", ["'train.epoch'", "7", "did you mean 'epochs'?"]),
        ("train: {zzzzzzz: 7}", ["'train.zzzzzzz'", "use one of", "learning_rate"]),
        ("train: {epochs: three}", ["train.epochs", "'three'", "integer"]),
        ("train: {epochs: 3.5}", ["train.epochs", "3.5", "integer"]),
        ("train: {epochs: true}", ["train.epochs", "True", "integer"]),
        (
            "train: {freeze_embeddings: yes}",
            ["train.freeze_embeddings", "'yes'", "write true or false"],
        ),
        ("train: {epochs: '3'}", ["train.epochs", "'3'", "integer"]),
        ("train: {epochs: 0}", ["train.epochs", "0", "greater than or equal to 1"]),
        ("train: {learning_rate: .inf}", ["train.learning_rate", "inf", "finite"]),
        ("train: {seeds: [1, true]}", ["train.seeds.1", "True", "integer"]),
        ("train:", ["train", "None", "remove it"]),
        ("promote: {confidence: 1.0}", ["promote.confidence", "1.0", "less than 1"]),
        ("promote: {confidence: 0.4}", ["promote.confidence", "0.4", "0.5"]),
        ("curate: {leak: 1.5}", ["curate.leak", "1.5", "less than or equal to 1"]),
        (
            "generate: {endpoint: api.openai.com}",
            ["generate.endpoint", "'api.openai.com'", "https://"],
        ),
        ("generate: {prompt: hello}", ["generate.prompt", "'hello'", "{topic}"]),
        ("generate: {prompt: '{topic} {who}'}", ["generate.prompt", "'who'", "text_kind"]),
        ("generate: {styles: []}", ["generate.styles", "[]", "at least one"]),
        ("generate: {styles: terse}", ["generate.styles", "'terse'", "write a list"]),
        (
            "generate: {budget: {usd: 1.5}, endpoint: 'https://a.example/v1', model: m}",
            [
                "generate.budget.usd is 1.5",
                "'m' at https://a.example/v1 has no price",
                "give generate.price.input",
            ],
        ),
        (
            "generate: {budget: {usd: 1}, generators: "
            "[{name: near}, {name: far, endpoint: 'https://a.example/v1'}]}",
            ["generate.budget.usd is 1", "'far' at https://a.example/v1 has no price"],
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_remedy(
    tmp_path: Path, addition: str, parts: list[str]
) -> None:
    message = error_of(tmp_path, f"{PROJECT_YAML}{addition}\n")
    assert missing(["toy.yaml: ", *parts], message) == [] and "\n" not in message


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ("{pool: a.csv, dev: b.csv}", ["data", "not both"]),
        ("{dev: b.csv}", ["data", "both data.dev and data.test"]),
        (
            "{pool: a.csv, split: {rest: keep}}",
            ["data.split.rest", "'keep'", "'unlabelled', 'train' or 'drop'"],
        ),
        ("{pool: a.csv, split: {tset: 3}}", ["'data.split.tset'", "3", "did you mean 'test'?"]),
        ("{pool: a.csv, encoding: utf-9}", ["data.encoding", "'utf-9'", "latin-1"]),
        ("{pool: a.csv, encoding: base64}", ["data.encoding", "'base64'", "latin-1"]),
        ("[a.csv]", ["data", "['a.csv']", "keys and values"]),
        (
            "{pool: a.csv, keep_columns: [text]}",
            ["keep_columns", "'text'", "the text or the label"],
        ),
        ("{pool: a.csv, keep_columns: [label]}", ["keep_columns", "'label'", "remove it"]),
        ("{pool: a.csv, keep_columns: [a, a]}", ["names a column twice", "a, a", "remove one"]),
    ],
)
def test_a_wrong_data_section(tmp_path: Path, data: str, parts: list[str]) -> None:
    text = f"name: toy\nlabels: {{fruit: a, metal: b}}\ndata: {data}\n"
    assert missing(["toy.yaml: ", *parts], error_of(tmp_path, text)) == []


@pytest.mark.parametrize("description", ["", "''", "' '", "~"])
def test_a_label_needs_a_description(tmp_path: Path, description: str) -> None:
    message = error_of(tmp_path, f"{LABELS}  fruit: {description}\n  metal: what rusts\n")
    assert missing(["toy.yaml", "'fruit'", "write one line"], message) == []


def test_one_label_is_no_classifier(tmp_path: Path) -> None:
    message = error_of(tmp_path, LABELS + "  fruit: what grows\n")
    assert missing(["toy.yaml", "at least two labels"], message) == []


@pytest.mark.parametrize("label", ["true", "False", "1", "1.5", "1e5", "~", "2024-01-31", "[a, b]"])
def test_a_label_that_yaml_does_not_read_as_text_needs_quotes(tmp_path: Path, label: str) -> None:
    message = error_of(tmp_path, f"{LABELS}  fruit: what grows\n  {label}: what rusts\n")
    key = f"'{label}'" if label[0] != "[" else "['a', 'b']"
    assert missing(["toy.yaml, line 5", key, "put it in quotes"], message) == []


def test_off_and_no_are_words(tmp_path: Path) -> None:
    text = LABELS + "  no: refused\n  yes: agreed\n  on: running\ncurate: {personal_data: off}\n"
    project = load_yaml(tmp_path, text, "evaluate.lift=off")
    assert project.label_names == ["no", "yes", "on"]
    assert project.evaluate.lift == project.curate.personal_data == "off"


def test_a_label_in_quotes_is_text(tmp_path: Path) -> None:
    text = LABELS + "  'yes': agreed\n  '1': first\n  c#: a language\n"
    assert load_yaml(tmp_path, text).label_names == ["yes", "1", "c#"]


def test_a_repeated_key_is_named_with_both_lines(tmp_path: Path) -> None:
    message = error_of(tmp_path, LABELS + "  fruit: a\n  metal: b\n  fruit: c\n")
    assert missing(["toy.yaml, line 6", "'fruit'", "line 4", "remove one"], message) == []


@pytest.mark.parametrize(
    ("written", "value"), [("1e-4", 1e-4), ("2E-5", 2e-5), ("1.5e-4", 1.5e-4), ("1", 1.0)]
)
def test_scientific_notation_is_a_number(tmp_path: Path, written: str, value: float) -> None:
    in_file = load_yaml(tmp_path, f"{PROJECT_YAML}train: {{learning_rate: {written}}}\n")
    override = load_yaml(tmp_path, PROJECT_YAML, f"train.learning_rate={written}")
    assert in_file.train.learning_rate == override.train.learning_rate == value


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_without_keys(tmp_path: Path, text: str) -> None:
    assert missing(["toy.yaml", "start with `name:`"], error_of(tmp_path, text)) == []


@pytest.mark.parametrize(
    "text", ["a: [b\n", "a: b: c\n", "name: 2024-99-99\n", "a: \x07\n", "a: !!python/none x\n"]
)
def test_what_is_not_yaml(tmp_path: Path, text: str) -> None:
    message = error_of(tmp_path, text)
    assert "toy.yaml is not YAML" in message and "\n" not in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist.*reseed init"):
        load_project(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: café".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml cannot be read.*0xe9"):
        load_project(tmp_path / "latin.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_project(tmp_path)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    message = error_of(tmp_path, "name: A b\nlabels: {fruit: a, metal: b}\ntrian: 3\n")
    lines = message.splitlines()
    assert len(lines) == 3 and all("toy.yaml" in line for line in lines)
    assert missing(["'A b'", "'trian'", "'data' is missing"], message) == []


@pytest.mark.parametrize("name", ["", "Toy", "a b", "../x", "-a", "ü", "x" * 61, "a/b", "a\n"])
def test_names_that_are_not_valid_everywhere(tmp_path: Path, name: str) -> None:
    override = f'name="{name}"'.replace("\n", "\\n")
    assert "a letter or digit first" in error_of(tmp_path, PROJECT_YAML, override)


def test_overrides(tmp_path: Path) -> None:
    project = load_yaml(
        tmp_path,
        PROJECT_YAML,
        "train.epochs=9",
        "generate.endpoint=http://127.0.0.1:8000/v1",
        "data.split.test=7",
        "labels.stone=ore; sand",
        "generate.styles=[terse, long]",
        "train.epochs=2",
    )
    assert (project.train.epochs, project.data.split.test) == (2, 7)
    assert project.labels["stone"] == "ore; sand"
    assert project.generate.endpoint == "http://127.0.0.1:8000/v1"
    assert project.generate.styles == ("terse", "long")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epochs", ["--set train.epochs", "section.key=value"]),
        ("=3", ["--set =3", "section.key=value"]),
        ("name.x=3", ["--set name.x=3", "'name' is a value", "write name=VALUE"]),
        ("train.epoch=3", ["'train.epoch'", "3", "did you mean 'epochs'?"]),
        ("train.epochs=three", ["train.epochs", "'three'", "integer"]),
        ("train.epochs=[", ["train.epochs", "'['", "integer"]),
        ("train.epochs=2024-99-99", ["train.epochs", "'2024-99-99'", "integer"]),
        ("train={epochs: 1, epochs: 2}", ["--set train=", "'epochs' is repeated"]),
        ("labels.fruit=", ["'fruit'", "write one line"]),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, parts: list[str]) -> None:
    assert missing(parts, error_of(tmp_path, PROJECT_YAML, override)) == []
