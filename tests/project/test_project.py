"""The project file: every mistake is one sentence that names the file, the key, the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.errors import UserError
from tasks.project import Project
from tasks.project.reader import load_project

ROOT = Path(__file__).resolve().parents[2]
BASE = "name: toy\nlabels:\n  fruit: what grows\n  metal: what rusts\ndata:\n  pool: rows.csv\n"
LABELS = "name: toy\ndata: {pool: rows.csv}\nlabels:\n"


def load(folder: Path, text: str, *overrides: str) -> Project:
    path = folder / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return load_project(path, overrides)


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as e:
        load(folder, text, *overrides)
    return str(e.value)


def test_the_least_project_has_every_default(tmp_path: Path) -> None:
    p = load(tmp_path, BASE)
    assert p.label_names == ["fruit", "metal"] and p.labels["metal"] == "what rusts"
    assert (p.data.split.dev, p.data.split.test, p.promote.confidence) == (20, 100, 0.95)


@pytest.mark.parametrize(
    ("addition", "said"),
    [
        ("trian: {epochs: 1}", ["'trian'", "{'epochs': 1}", "did you mean 'train'?"]),
        ("train: {epoch: 7}", ["'train.epoch'", "7", "did you mean 'epochs'?"]),
        ("train: {zzzzzzz: 7}", ["'train.zzzzzzz'", "the keys here are", "learning_rate"]),
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
        ("train:", ["train", "None", "leave it out"]),
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
                "generate.budget.usd 1.5",
                "'m' at https://a.example/v1 has no price",
                "give generate.price.input",
            ],
        ),
        (
            "generate: {budget: {usd: 1}, generators: [{name: near}, {name: far, endpoint: 'https://a.example/v1'}]}",
            ["generate.budget.usd 1", "'far' at https://a.example/v1 has no price"],
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_remedy(
    tmp_path: Path, addition: str, said: list[str]
) -> None:
    message = refused(tmp_path, f"{BASE}{addition}\n")
    assert "toy.yaml" in message and "\n" not in message
    assert [s for s in said if s not in message] == []


@pytest.mark.parametrize(
    ("data", "said"),
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
    ],
)
def test_a_wrong_data_section(tmp_path: Path, data: str, said: list[str]) -> None:
    message = refused(tmp_path, f"name: toy\nlabels: {{fruit: a, metal: b}}\ndata: {data}\n")
    assert "toy.yaml" in message
    assert [s for s in said if s not in message] == []


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "latin-1", "cp1252", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    assert load(tmp_path, BASE, f"data.encoding={encoding}").data.encoding == encoding


@pytest.mark.parametrize("description", ["", "''", "' '", "~"])
def test_a_label_needs_a_description(tmp_path: Path, description: str) -> None:
    message = refused(tmp_path, f"{LABELS}  fruit: {description}\n  metal: what rusts\n")
    assert "toy.yaml" in message and "'fruit'" in message and "write one line" in message


def test_one_label_is_no_classifier(tmp_path: Path) -> None:
    message = refused(tmp_path, LABELS + "  fruit: what grows\n")
    assert "toy.yaml" in message and "at least two labels" in message


@pytest.mark.parametrize("label", ["true", "False", "1", "1.5", "1e5", "~", "2024-01-31", "[a, b]"])
def test_a_label_that_yaml_does_not_read_as_text_wants_quotes(tmp_path: Path, label: str) -> None:
    message = refused(tmp_path, f"{LABELS}  fruit: what grows\n  {label}: what rusts\n")
    assert "toy.yaml, line 5" in message and "put it in quotes" in message
    assert (f"'{label}'" if label[0] != "[" else "['a', 'b']") in message


def test_off_no_and_their_like_are_words(tmp_path: Path) -> None:
    found = load(
        tmp_path, LABELS + "  no: refused\n  yes: agreed\n  on: running\n", "evaluate.lift=off"
    )
    assert found.label_names == ["no", "yes", "on"] and found.evaluate.lift == "off"
    assert (
        load(
            tmp_path, LABELS + "  a: b\n  b: c\ncurate: {personal_data: off}\n"
        ).curate.personal_data
        == "off"
    )


def test_a_label_in_quotes_is_text(tmp_path: Path) -> None:
    assert load(
        tmp_path, LABELS + "  'yes': agreed\n  '1': first\n  c#: a language\n"
    ).label_names == [
        "yes",
        "1",
        "c#",
    ]


def test_a_key_that_stands_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    message = refused(tmp_path, LABELS + "  fruit: a\n  metal: b\n  fruit: c\n")
    assert [
        s for s in ("toy.yaml", "line 6", "'fruit'", "line 4", "remove one") if s not in message
    ] == []


@pytest.mark.parametrize(
    ("written", "value"), [("1e-4", 1e-4), ("2E-5", 2e-5), ("1.5e-4", 1.5e-4), ("1", 1.0)]
)
def test_scientific_notation_is_a_number(tmp_path: Path, written: str, value: float) -> None:
    assert (
        load(tmp_path, f"{BASE}train: {{learning_rate: {written}}}\n").train.learning_rate == value
    )
    assert load(tmp_path, BASE, f"train.learning_rate={written}").train.learning_rate == value


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_without_keys(tmp_path: Path, text: str) -> None:
    message = refused(tmp_path, text)
    assert "toy.yaml" in message and "start with `name:`" in message


@pytest.mark.parametrize(
    "text", ["a: [b\n", "a: b: c\n", "name: 2024-99-99\n", "a: \x07\n", "a: !!python/none x\n"]
)
def test_what_is_not_yaml(tmp_path: Path, text: str) -> None:
    message = refused(tmp_path, text)
    assert "toy.yaml is not YAML" in message and "\n" not in message


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml is not there.*reseed init"):
        load_project(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: café".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml can't be read.*0xe9"):
        load_project(tmp_path / "latin.yaml")
    with pytest.raises(UserError, match="can't be read"):
        load_project(tmp_path)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: A b\nlabels: {fruit: a, metal: b}\ntrian: 3\n")
    assert len(message.splitlines()) == 3 and all(
        "toy.yaml" in line for line in message.splitlines()
    )
    assert all(s in message for s in ("'A b'", "'trian'", "'data' is missing"))


@pytest.mark.parametrize("name", ["toy", "bbc-news", "a.b_c-1", "0", "x" * 60])
def test_names(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, BASE.replace("toy", f"'{name}'")).name == name


@pytest.mark.parametrize("name", ["", "Toy", "a b", "../x", "-a", "ü", "x" * 61, "a/b", "a\n"])
def test_names_that_would_not_be_one_everywhere(tmp_path: Path, name: str) -> None:
    assert "a letter or digit first" in refused(
        tmp_path, BASE, f'name="{name}"'.replace("\n", "\\n")
    )


def test_overrides(tmp_path: Path) -> None:
    p = load(
        tmp_path,
        BASE,
        "train.epochs=9",
        "generate.endpoint=http://127.0.0.1:8000/v1",
        "data.split.test=7",
        "labels.stone=ore; sand",
        "generate.styles=[terse, long]",
        "train.epochs=2",
    )
    assert (p.train.epochs, p.data.split.test, p.labels["stone"]) == (2, 7, "ore; sand")
    assert p.generate.endpoint == "http://127.0.0.1:8000/v1" and p.generate.styles == (
        "terse",
        "long",
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs", ["--set train.epochs", "section.key=value"]),
        ("=3", ["--set =3", "section.key=value"]),
        ("name.x=3", ["--set name.x=3", "'name' is a value"]),
        ("train.epoch=3", ["'train.epoch'", "3", "did you mean 'epochs'?"]),
        ("train.epochs=three", ["train.epochs", "'three'", "integer"]),
        ("train.epochs=[", ["train.epochs", "'['", "integer"]),
        ("train.epochs=2024-99-99", ["train.epochs", "'2024-99-99'", "integer"]),
        ("train={epochs: 1, epochs: 2}", ["--set train=", "'epochs' stands twice"]),
        ("labels.fruit=", ["'fruit'", "write one line"]),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, said: list[str]) -> None:
    message = refused(tmp_path, BASE, override)
    assert [s for s in said if s not in message] == []


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
    p = load(tmp_path, f"{BASE}generate: {{budget: {{usd: 1}}, {generate}}}\n")
    assert p.generate.budget.usd == 1


def test_a_project_is_frozen(tmp_path: Path) -> None:
    p = load(tmp_path, BASE)
    with pytest.raises(ValidationError, match="frozen"):
        p.train.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        p.name = "other"  # type: ignore[misc]


def test_relative_paths_start_at_the_folder_of_the_file_whatever_is_changed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = load(tmp_path, BASE)
    assert p.config_dir == tmp_path == p.model_copy(update={"name": "other"}).config_dir
    monkeypatch.chdir(tmp_path)
    relative = load_project(Path("toy.yaml"))
    monkeypatch.chdir("/")
    assert relative.config_dir == tmp_path
    moved = p.in_folder(tmp_path / "elsewhere")
    assert moved.config_dir == tmp_path / "elsewhere" and p.config_dir == tmp_path
    assert moved.digest == p.digest, "where a project lies decides nothing"


def test_the_digest_is_of_the_settings_not_of_how_they_are_written(tmp_path: Path) -> None:
    same = load(tmp_path, f"# a remark\n{BASE}train: {{epochs: 4}}\n")
    assert (
        same.digest == load(tmp_path, BASE).digest != load(tmp_path, BASE, "train.epochs=5").digest
    )


def test_the_shipped_project_loads_and_its_parameters_are_dotted() -> None:
    p = load_project(ROOT / "configs" / "bbc-news.yaml")
    parameters = p.parameters()
    assert p.label_names == ["business", "entertainment", "politics", "sports", "tech"]
    assert parameters["train.learning_rate"] == "0.0001" and parameters["data.split.test"] == "100"
    assert parameters["labels"] == str(p.label_names)
    assert {k for k in parameters if "." not in k} == {"name", "labels", "multi_label"}
    assert all(isinstance(v, str) and not v.startswith("{'") for v in parameters.values())
