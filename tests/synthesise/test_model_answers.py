"""Two scripted models answer the same questions, and which one answered is the label."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from flows.publishing.terminal import report_rows
from tasks.dataset.split import sealed_test_set, split_dataset
from tasks.errors import TransientError, UserError
from tasks.llm.local import BASE_TEMPLATE, has_chat_template
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import read_records
from tasks.report.cost import GeneratorRows, Tokens
from tasks.report.model import AnswersSummary, RetrainReport
from tasks.setup.preflight import check_references
from tasks.synthesise.model_answers import (
    POOL,
    AnswersResult,
    ask_models,
    percentiles,
    read_questions,
    rows_of_equal_length,
    strip_chat_markup,
    truncate_words,
    with_answers_as_pool,
)
from tasks.workspace import Workspace
from tests.conftest import ROOT, Command, last_json
from tests.kit.scripted import Fault, Server, completion, status

QUESTIONS = [f"What is thing number {i}?" for i in range(20)]
SPLIT = {"dev": 3, "test": 4, "rest": "train"}


def speaks(word: str, n: int, wrap: str = "{}") -> Fault:
    """A model that answers in `n` words of its own, never twice the same."""
    numbers = itertools.count()

    def fault(handler: Any) -> None:
        number = next(numbers)
        handler.send(
            200, completion(wrap.format(" ".join(f"{word}{number}x{i}" for i in range(n))))
        )

    return fault


@pytest.fixture
def models() -> Iterator[dict[str, Server]]:
    with Server() as one, Server() as two:
        one.always, two.always = (
            speaks("one", 30),
            speaks("two", 13, "<|im_start|>assistant\n{}<|im_end|>"),
        )
        yield {"one": one, "two": two}


def settings(models: dict[str, Server], **generate: Any) -> dict[str, Any]:
    generators = [
        {"name": name, "endpoint": server.url, "model": f"m-{name}"}
        for name, server in models.items()
    ]
    return {
        "name": "who",
        "labels": {"one": "the first", "two": "the second"},
        "data": {"split": SPLIT},
        "generate": {
            "mode": "by_model",
            "questions": "questions.txt",
            "answer_words": 12,
            "generators": generators,
            "retries": 0,
            **generate,
        },
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "questions.txt").write_text("\n".join(QUESTIONS) + "\n", encoding="utf-8")
    return tmp_path


def asked(
    folder: Path, models: dict[str, Server], **generate: Any
) -> tuple[Project, AnswersResult]:
    project = Project.model_validate(settings(models, **generate)).in_folder(folder)
    return project, ask_models(project, workspace=Workspace(folder / "home"))


def pool(answers: AnswersResult) -> list[dict[str, str]]:
    return [json.loads(line) for line in answers.pool.read_text(encoding="utf-8").splitlines()]


def test_every_model_gets_every_question_and_all_answers_have_one_length(
    folder: Path, models: dict[str, Server]
) -> None:
    _, answers = asked(folder, models)
    for server in models.values():
        assert sorted(body["messages"][-1]["content"] for body in server.requests) == sorted(
            QUESTIONS
        )
    rows = pool(answers)
    assert [(r["question"], r["label"]) for r in rows] == [
        (q, m) for q in QUESTIONS for m in ("one", "two")
    ]
    assert all(len(r["text"].split()) == 12 and r["text"].startswith(r["label"]) for r in rows)
    assert answers.rows == {"one": 20, "two": 20} and answers.questions == 20
    assert answers.words_before == {"one": [30, 30, 30], "two": [13, 13, 13]}
    assert answers.words_after == {"one": [12, 12, 12], "two": [12, 12, 12]}
    assert answers.spent.requests == answers.requests == 40


def test_what_was_answered_is_not_asked_again(folder: Path, models: dict[str, Server]) -> None:
    _, first = asked(folder, models)
    _, again = asked(folder, models)
    assert again.published.found and again.digest == first.digest
    _, shorter = asked(folder, models, answer_words=6)  # another stage, the same answers
    assert not shorter.published.found and {len(r["text"].split()) for r in pool(shorter)} == {6}
    assert [len(server.requests) for server in models.values()] == [20, 20]


def test_another_sampling_setting_is_another_stage(folder: Path, models: dict[str, Server]) -> None:
    _, first = asked(folder, models)
    for setting in ({"temperature": 0.5}, {"top_p": 0.5}, {"max_tokens": 99}):
        _, other = asked(folder, models, **setting)
        assert other.published.key != first.published.key


def test_both_answers_to_a_question_are_in_one_split(
    folder: Path, models: dict[str, Server]
) -> None:
    project, answers = asked(folder, models)
    project, workspace = with_answers_as_pool(project, answers), Workspace(folder / "home")
    splits = split_dataset(project, workspace=workspace)
    sealed = sealed_test_set(project, workspace=workspace)
    assert sealed.test == {"one": 4, "two": 4}
    assert splits.dev == {"one": 3, "two": 3}
    assert splits.seed == {"one": 13, "two": 13}
    parts = {"test": read_records(sealed.directory / "test.jsonl")}
    parts |= {name: read_records(splits.directory / f"{name}.jsonl") for name in ("dev", "seed")}
    questions = {name: {r.lineage["group"] for r in rows} for name, rows in parts.items()}
    assert sum(map(len, questions.values())) == 20 and set().union(*questions.values()) == set(
        QUESTIONS
    )


def test_a_question_with_one_short_answer_is_left_out_for_all(
    folder: Path, models: dict[str, Server]
) -> None:
    good = speaks("two", 13)
    replies = itertools.chain([speaks("two", 12), speaks("", 0)], itertools.repeat(good))
    models["two"].always = lambda handler: next(replies)(handler)
    _, answers = asked(folder, models)
    assert answers.rows == {"one": 18, "two": 18}
    assert answers.left_out == {"shorter": {"one": 0, "two": 1}, "unanswered": {"one": 0, "two": 1}}


def test_answers_that_are_all_too_short(folder: Path, models: dict[str, Server]) -> None:
    with pytest.raises(
        UserError, match=r"none of the 20 questions .* lower generate\.answer_words"
    ):
        asked(folder, models, answer_words=13)


def test_a_budget_that_is_spent_makes_no_smaller_data_set(
    folder: Path, models: dict[str, Server]
) -> None:
    with pytest.raises(UserError, match=r"generate\.budget\.requests is spent"):
        asked(folder, models, budget={"requests": 25})
    assert not list((folder / "home" / "stages").rglob(POOL))
    _, answers = asked(folder, models, budget={"requests": 40})  # what was bought is kept
    assert answers.rows == {"one": 20, "two": 20}
    assert sum(len(server.requests) for server in models.values()) == 40


def test_a_model_that_is_down(folder: Path, models: dict[str, Server]) -> None:
    models["two"].always = status(503)
    with pytest.raises(TransientError):
        asked(folder, models)
    models["two"].always = speaks("two", 20)
    _, answers = asked(folder, models)
    assert answers.rows == {"one": 20, "two": 20} and len(models["one"].requests) == 20


def test_a_model_that_is_deferred_makes_no_smaller_data_set(
    folder: Path, models: dict[str, Server]
) -> None:
    models["two"].faults = [None] * 5
    models["two"].always = status(429, retry_after="5000")
    with pytest.raises(TransientError, match="asked to wait 5000 s"):
        asked(folder, models)
    assert not list((folder / "home" / "stages").rglob(POOL))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server", "home")
def test_a_retrain_reports_what_the_answers_cost(
    folder: Path, models: dict[str, Server], encoder: Path, reseed: Command
) -> None:
    good, short = speaks("two", 13), speaks("two", 12)
    answers = itertools.chain([short], itertools.repeat(good))
    models["two"].always = lambda handler: next(answers)(handler)
    config = settings(models, price={"input": 1.0, "output": 2.0})
    config |= {"train": {"model": str(encoder), "epochs": 1, "max_length": 32, "precision": "fp32"}}
    config |= {"predict": {"backend": "torch"}, "self_training": {"rounds": 0}}
    config |= {
        "evaluate": {
            "bootstrap_samples": 200,
            "serving_rows": 0,
            "static_model": "off",
            "lift": "off",
        }
    }
    (folder / "who.yaml").write_text(json.dumps(config), encoding="utf-8")
    code, out, err = reseed("retrain", folder / "who.yaml", "--json")
    assert code == 0, err
    report = RetrainReport.from_json(last_json(out))
    per_model = GeneratorRows(requests=20, rows=20, tokens=600, usd=0.001, accepted=19)
    assert report.data.generators == {"one": per_model, "two": per_model}
    assert report.tokens == Tokens(prompt=400, completion=800, total=1200)
    assert (report.cost.tokens, report.cost.usd, report.cost.measured) == (1200, 0.002, True)
    spent = {"requests": 40, "tokens": 1200, "usd": pytest.approx(0.002), "measured": True}
    assert report.cost.spent.model_dump() == spent
    left_out = {"shorter": {"one": 0, "two": 1}, "unanswered": {"one": 0, "two": 0}}
    assert report.data.answers == AnswersSummary(
        questions=20, rows={"one": 19, "two": 19}, left_out=left_out
    )
    assert report.seconds["answers"] > 0
    lines = dict(report_rows(report))
    assert lines["questions asked"] == "20, each to 2 models  (left out: two 1 shorter)"
    assert lines["cost"].startswith("$0.0020 and 1,200 tokens measured")
    client = MlflowClient(report.mlflow_tracking_uri, report.mlflow_tracking_uri)
    run = client.get_run(report.mlflow_run_id)
    assert (run.data.metrics["tokens.total"], run.data.metrics["cost.usd"]) == (1200.0, 0.002)
    (stage,) = client.search_runs([run.info.experiment_id], "tags.`reseed.stage` = 'ask models'")
    assert (
        stage.data.metrics["generate.requests"] == 40
        and stage.data.metrics["generate.shorter.two"] == 1
    )
    page = Path(report.report).read_text(encoding="utf-8")
    assert "Each was asked the same 20 questions" in page and "two 1 shorter" in page


WORDS = st.lists(st.text("ab\u00e9.", min_size=1, max_size=4), max_size=12)


@given(
    answers=st.dictionaries(
        st.sampled_from("xyz"), st.dictionaries(st.sampled_from("12345"), WORDS), min_size=2
    ),
    n=st.integers(1, 8),
    space=st.sampled_from([" ", "\n", "  ", "\t"]),
)
def test_rows_have_one_length_and_one_row_per_model(
    answers: dict[str, dict[str, list[str]]], n: int, space: str
) -> None:
    written = {label: {q: space.join(ws) for q, ws in by.items()} for label, by in answers.items()}
    rows, counts = rows_of_equal_length(written, list("12345"), words=n)
    assert {len(r["text"].split()) for r in rows} <= {n}
    long = [q for q in "12345" if all(len(by.get(q, ())) > n for by in answers.values())]
    assert [(r["question"], r["label"]) for r in rows] == [
        (q, label) for q in long for label in answers
    ]
    assert all(written[r["label"]][r["question"]].startswith(r["text"]) for r in rows)
    assert counts.rows == {label: len(long) for label in sorted(answers)}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<|im_start|>assistant\nHello there.<|im_end|>", "Hello there."),
        ("<bos>Hello <start_of_image>there.<end_of_turn>\n", "Hello there."),
        ("<start_of_turn>model\nHello there.<eos>", "Hello there."),
        ("[INST] Hello there. [/INST]</s>", "Hello there."),
        ("Hello there.\n\nQuestion: And you?\n\nAnswer: I am well.", "Hello there."),
        ("Hello there.\nUser: And you?", "Hello there."),
        ("Question: And you?", ""),
        ("", ""),
        (
            "The Question: is it a < b, or b|a? <b>No</b>.",
            "The Question: is it a < b, or b|a? <b>No</b>.",
        ),
    ],
)
def test_chat_markup_is_removed(answer: str, text: str) -> None:
    assert strip_chat_markup(answer) == text


def test_truncated_words_keep_the_white_space_between_them() -> None:
    assert truncate_words(" a\n\nb  c d", 3) == " a\n\nb  c" and truncate_words("a b c", 3) is None


def test_percentiles() -> None:
    assert (
        percentiles(range(1, 101)) == [11, 51, 91]
        and percentiles([]) == []
        and percentiles([3]) == [3, 3, 3]
    )


def test_questions_from_text_and_tables(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("Why?\n\n  How  so? \nwhy?\n", encoding="utf-8")
    (tmp_path / "q.csv").write_text("text,kind\nWhy?,a\n,b\nHow so?,c\n", encoding="utf-8")
    (tmp_path / "q.jsonl").write_text('{"text": "Why?"}\n{"text": "How so?"}\n', encoding="utf-8")
    for name in ("q.txt", "q.csv", "q.jsonl"):
        assert read_questions(tmp_path / name) == ["Why?", "How so?"]
    assert read_questions(tmp_path / "q.csv", column="kind") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b" \n", "has no questions"), (b"caf\xe9?\n", "cannot be read as questions")],
)
def test_questions_that_cannot_be_read(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "q.txt").write_bytes(data)
    with pytest.raises(UserError, match=message) as e:
        read_questions(tmp_path / "q.txt")
    assert str(tmp_path / "q.txt") in str(e.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("generate.questions", None, "has 2 generators and no questions"),
        ("generate.generators", [{"name": "one"}], "has 1 generators and questions"),
        (
            "generate.generators",
            [{"name": "one"}, {"name": "three"}],
            "the generators 'one', 'three' and the labels",
        ),
        ("data.pool", "rows.csv", "makes its own real text"),
        ("data.split", {"dev": 3, "test": 4}, "set data.split.rest to train"),
        ("generate.mode", "by_label", "give data.pool, or both data.dev and data.test"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, models: dict[str, Server], key: str, value: Any, message: str
) -> None:
    section, name = key.split(".")
    config = settings(models)
    config[section][name] = value
    (tmp_path / "who.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    with pytest.raises(UserError) as e:
        load_project(tmp_path / "who.yaml")
    assert message in str(e.value) and len(str(e.value).splitlines()) == 1


def test_nothing_is_synthesised_for_labels_that_are_models(models: dict[str, Server]) -> None:
    assert Project.model_validate(settings(models)).generate.quota(["one", "two"], {}) == {
        "one": 0,
        "two": 0,
    }


def test_missing_questions_and_weights_are_named(tmp_path: Path, models: dict[str, Server]) -> None:
    config = settings(models)
    (tmp_path / "who.yaml").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=r"generate\.questions: 'questions\.txt' does not exist"):
        check_references(load_project(tmp_path / "who.yaml"), tmp_path / "who.yaml")
    (tmp_path / "questions.txt").write_text("Why?\n")
    config["generate"]["generators"][1] |= {"endpoint": "local", "model": "gone.gguf"}
    (tmp_path / "who.yaml").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"generate\.generators\.two\.model: 'gone\.gguf' does not exist"
    ):
        check_references(load_project(tmp_path / "who.yaml"), tmp_path / "who.yaml")


def test_the_projects_of_the_repository_load() -> None:
    paths = [p for p in (ROOT / "configs").glob("*.yaml") if not p.stem.endswith("-cases")]
    projects = {path.stem: load_project(path) for path in paths}
    assert {"bbc-news", "20-newsgroups", "which-llm"} <= set(projects) and all(
        p.name == n for n, p in projects.items()
    )
    assert len(projects["20-newsgroups"].labels) == 20
    questions = read_questions(ROOT / "configs" / str(projects["which-llm"].generate.questions))
    assert (
        len(questions)
        == len((ROOT / "configs" / "which-llm-questions.txt").read_text().splitlines())
        >= 290
    )


def test_a_model_without_a_chat_template_is_known(tmp_path: Path) -> None:
    for data, has in (
        (b"GGUF\0tokenizer.chat_template\0", True),
        (b"GGUF\0tokenizer.ggml.model\0", False),
    ):
        (tmp_path / "m.gguf").write_bytes(data)
        assert has_chat_template(tmp_path / "m.gguf") is has


def test_how_a_base_model_is_asked() -> None:
    import jinja2

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    # rendered as llama.cpp does it; the template is ours, the messages are values in it
    text = jinja2.Environment(autoescape=False).from_string(BASE_TEMPLATE).render(messages=messages)
    assert text == "Be brief.\n\nQuestion: Why?\n\nAnswer:"
