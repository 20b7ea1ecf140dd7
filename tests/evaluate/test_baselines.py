"""Baselines that ask for another model: word vectors, an NLI checkpoint as it is, and the LLM that wrote the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.dataset.sealed import count_test_set_uses as uses_of
from tasks.dataset.split import SealedResult, SplitsResult, sealed_test_set, split_dataset
from tasks.errors import TransientError, UserError
from tasks.evaluate.baselines import ask_llm, simple, word_vectors
from tasks.evaluate.baselines.zero_shot import sides, zero_shot
from tasks.evaluate.score import LlmScore, ScoreResult, baselines_of, f1_on_rows, score_baseline
from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import Record
from tasks.setup.preflight import check_references
from tasks.workspace import Workspace
from tests.kit import scripted, toy
from tests.kit.rows import project
from tests.kit.stages import curated_of

# --- word vectors


def test_the_encoders_own_vectors_are_means_of_its_rows(encoder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    word = toy.REAL["fruit"][0]
    found = word_vectors.of_encoder(
        encoder, [word, f"{word} {word}", "", "the " * 99], max_length=8
    )
    table = AutoModel.from_pretrained(encoder).get_input_embeddings().weight.detach().numpy()
    row = table[AutoTokenizer.from_pretrained(encoder).convert_tokens_to_ids(word)]
    assert found[0] == pytest.approx(row / np.linalg.norm(row), abs=1e-6) and found[
        1
    ] == pytest.approx(found[0])
    assert not found[2].any() and np.linalg.norm(found[3]) == pytest.approx(1)


def static_model(folder: Path, encoder: Path, **changes: np.ndarray | None) -> Path:
    """A model2vec folder, as its newer versions write it: fewer vectors than tokens, and a weight a token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    kinds = [
        next((i for i, k in enumerate(toy.LABELS) if w.startswith(k[:2]) and len(w) == 5), 3)
        for w in words
    ]
    tensors = {
        "embeddings": np.eye(4, dtype=np.float16),
        "mapping": np.array(kinds, dtype=np.int32),
        "weights": np.array([0.0 if k == 3 else 2.0 for k in kinds], dtype=np.float32),
    } | changes
    folder.mkdir(parents=True)
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_model2vec_folder_is_read_as_model2vec_reads_it(tmp_path: Path, encoder: Path) -> None:
    folder = static_model(tmp_path / "static", encoder)
    a, b = toy.WRITTEN["fruit"][0], toy.REAL["bird"][1]
    found = word_vectors.of_static(folder, [a, f"{a} {a} {b} the of", "unheard", ""])
    assert found[0].tolist() == [0, 1, 0, 0] and found[1] == pytest.approx(
        np.array([0, 2, 1, 0]) / 5**0.5, abs=1e-6
    )
    assert not found[2:].any()


def test_a_baseline_of_word_vectors_learns(tmp_path: Path, encoder: Path) -> None:
    folder = static_model(tmp_path / "static", encoder)
    train = [
        Record.create(f"{w} the", kind, "synthetic")
        for kind, words in toy.WRITTEN.items()
        for w in words[:5]
    ]
    asked = [" ".join(toy.REAL[kind][:4]) for kind in toy.LABELS]
    assert simple.mean_vectors(train, asked, lambda t: word_vectors.of_static(folder, t)) == list(
        toy.LABELS
    )
    sets = [replace(r, label=r.labels) for r in train]
    found = simple.mean_vectors(sets, asked, lambda t: word_vectors.of_static(folder, t))
    assert found == [(kind,) for kind in toy.LABELS]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embeddings": None, "other": np.eye(2)}, "no tensor `embeddings` but mapping, other"),
        ({"mapping": np.zeros(3, dtype=np.int32)}, "they are not of one model"),
    ],
)
def test_what_is_no_static_model_is_said_in_a_sentence(
    tmp_path: Path, encoder: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        word_vectors.of_static(static_model(tmp_path / "static", encoder, **changes), ["x"])


# --- an NLI checkpoint


def nli(folder: Path, encoder: Path, labels: list[str]) -> Path:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    named = dict(enumerate(labels))
    back = {v: k for k, v in named.items()}
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=len(labels), id2label=named, label2id=back
    )
    with torch.no_grad():
        model.classifier.weight.mul_(5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_says_what_the_pipeline_of_transformers_says(
    tmp_path: Path, encoder: Path, multi_label: bool
) -> None:
    from transformers import pipeline

    folder = nli(tmp_path / "nli", encoder, ["CONTRADICTION", "neutral", "Entailment"])
    texts = [r["text"] for r in toy.real_rows(3)] + ["x"]
    found = zero_shot(toy.LABELS, texts, folder, max_length=64, multi_label=multi_label)
    ask = pipeline("zero-shot-classification", model=str(folder), tokenizer=str(folder))
    lines = list(toy.LABELS.values())
    for text, own in zip(texts, found, strict=True):
        said = ask(
            text, lines, hypothesis_template="This text is about {}.", multi_label=multi_label
        )
        of = dict(zip(said["labels"], said["scores"], strict=True))
        assert own == pytest.approx(
            [of[line] for line in lines], abs=0.03
        )  # bfloat16 where the processor has it


def test_an_entailment_output_is_needed(tmp_path: Path, encoder: Path) -> None:
    assert sides(nli(tmp_path / "two", encoder, ["not_entailment", "entailment"])) == (1, 0)
    with pytest.raises(UserError, match=r"no label of entailment \(good, bad\): give an NLI model"):
        sides(nli(tmp_path / "other", encoder, ["GOOD", "BAD"]))
    with pytest.raises(UserError, match=r"no config\.json"):
        sides(tmp_path)


# --- the stage, and the project file

Make = Callable[..., tuple[Project, SplitsResult, SealedResult]]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def split(tmp_path: Path, workspace: Workspace, llm: Any, encoder: Path) -> Make:
    def make(**sections: Any) -> tuple[Project, SplitsResult, SealedResult]:
        config = toy.project(tmp_path / "p", endpoint=llm.url, encoder=encoder, **sections)
        p = load_project(config)
        check_references(p, config)
        return p, split_dataset(p, workspace=workspace), sealed_test_set(p, workspace=workspace)

    return make


def test_each_baseline_is_scored_under_the_name_of_what_it_is(
    split: Make, workspace: Workspace, tmp_path: Path, encoder: Path
) -> None:
    static = static_model(tmp_path / "static", encoder)
    checkpoint = nli(tmp_path / "nli", encoder, ["entailment", "neutral", "contradiction"])
    wanted = {"static_model": str(static), "zero_shot": str(checkpoint)}
    p, splits, sealed = split(evaluate=wanted)
    train = [
        Record.create(f"{w} the", kind, "synthetic")
        for kind, words in toy.WRITTEN.items()
        for w in words[:5]
    ]
    curated = curated_of(workspace.home, train)
    assert baselines_of(p)[3:] == ["static_embeddings", "zero_shot"]
    scored = {
        name: score_baseline(
            p, name, curated=curated, splits=splits, sealed=sealed, workspace=workspace
        )
        for name in ("static_embeddings", "zero_shot")
    }
    assert scored["static_embeddings"].known.f1_macro.value > 0.95
    calibration = scored["zero_shot"].calibration
    assert calibration and calibration.log_loss >= 0 and scored["zero_shot"].known.rows == 90
    assert (scored["zero_shot"].directory / "mistakes.jsonl").exists()
    p, *_ = split(evaluate={"static_model": "encoder"})
    assert baselines_of(p)[3:] == ["input_embeddings"]
    found = score_baseline(
        p, "input_embeddings", curated=curated, splits=splits, sealed=sealed, workspace=workspace
    )
    assert found.known.f1_macro.value > 0.95


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        ({"zero_shot": "nowhere"}, "evaluate.zero_shot: 'nowhere' does not exist"),
        ({"static_model": "nowhere"}, "evaluate.static_model: 'nowhere' does not exist"),
        ({"static_model": "."}, r"has no model\.safetensors: give a model2vec folder"),
        ({"zero_shot": "."}, r"evaluate.zero_shot: .* has no config\.json"),
        ({"llm_rows": 2}, r"evaluate\.llm_rows is 2, fewer than the 3 labels"),
    ],
)
def test_a_mistake_is_said_before_anything_starts(
    split: Make, evaluate: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        split(evaluate=evaluate)


# --- the LLM that wrote the rows


def knows(h: scripted.Handler) -> None:
    """An LLM that knows the kinds, but talks about one of them."""
    text = h.body["messages"][-1]["content"].split("Text:\n")[1]
    kind = max(toy.LABELS, key=lambda k: text.casefold().count(k[:2] + "r"))
    said = {"metal": "**Metal**.", "fruit": "The label is: fruit", "bird": "I can't say"}[kind]
    h.send(200, scripted.completion(said))


def ask(p: Project, sealed: SealedResult, workspace: Workspace, generation: int = 0) -> ScoreResult:
    return ask_llm.score_llm(p, generation=generation, sealed=sealed, workspace=workspace)


def llm_of(found: ScoreResult) -> LlmScore:
    assert found.llm
    return found.llm


def test_the_llm_is_asked_about_some_rows_and_what_it_says_is_counted(
    split: Make, workspace: Workspace, llm: Any
) -> None:
    p, _, sealed = split(
        evaluate={"llm_rows": 12}, generate={"price": {"input": 1.0, "output": 2.0}}
    )
    llm.always = knows
    found = ask(p, sealed, workspace)
    said = found.read()
    assert (
        found.sample and found.known.rows == len(said) == 12 == len(llm.requests) and llm.peak == 1
    )
    assert {r.predicted for r in said if r.label == "bird"} == {""}
    c = llm_of(found)
    assert c.unparsed == 4 and c.unparsed_share == pytest.approx(1 / 3) and c.measured
    assert found.known.f1_macro.value == pytest.approx(2 / 3)
    assert c.tokens == 360 and c.usd == pytest.approx(12 * (10 * 1 + 20 * 2) / 1e6)
    assert (
        c.latency.p50
        and c.latency.p95
        and 0 < c.latency.p50 <= c.latency.p95
        and c.latency.texts == 12
    )
    body = llm.requests[0]
    assert (
        body["temperature"] == 0.0
        and "- metal: topic one; topic two" in body["messages"][-1]["content"]
    )
    assert f1_on_rows(p, found, {r.id for r in said}).value == found.known.f1_macro.value
    assert ask(p, sealed, workspace).published.found and uses_of(sealed, workspace=workspace) == 1
    assert len(llm.requests) == 12


def test_all_rows_are_no_sample(split: Make, workspace: Workspace, llm: Any) -> None:
    p, _, sealed = split(evaluate={"llm_rows": 500}, data={"split": {"dev": 6, "test": 5}})
    llm.always = knows
    found = ask(p, sealed, workspace)
    assert found.sample is False and found.known.rows == 15


def test_the_budget_ends_it_and_the_rows_answered_are_measured(
    split: Make, workspace: Workspace, llm: Any
) -> None:
    p, _, sealed = split(evaluate={"llm_rows": 12}, generate={"budget": {"requests": 6}})
    llm.always = knows
    found = ask(p, sealed, workspace)
    assert found.known.rows == 6 == len(llm.requests)
    assert "generate.budget.requests" in str(llm_of(found).stopped)
    assert [r.label for r in found.read()] == [*toy.LABELS] * 2
    p, _, sealed = split(evaluate={"llm_rows": 12}, generate={"budget": {"tokens": 1}})
    assert ask(p, sealed, workspace).known.rows == 6, "what was bought costs nothing again"
    p, _, sealed = split(
        evaluate={"llm_rows": 12}, generate={"budget": {"tokens": 1}, "model": "another"}
    )
    nothing = ask(p, sealed, workspace)
    assert nothing.scores is None and llm_of(nothing).stopped


def test_an_endpoint_that_is_down_is_a_passing_fault_and_what_was_bought_is_kept(
    split: Make, workspace: Workspace, llm: Any
) -> None:
    p, _, sealed = split(evaluate={"llm_rows": 6}, generate={"retries": 0})
    llm.faults, llm.always = [knows, knows], scripted.status(500)
    with pytest.raises(TransientError):
        ask(p, sealed, workspace)
    llm.always = knows
    found = ask(p, sealed, workspace)
    assert found.known.rows == 6 and len(llm.requests) == 7 and llm_of(found).latency.texts == 6


ONE = project({"pool": "x"}, labels=("C", "C++", "news", "sports news", "a.b"))
SEVERAL = project(
    {"pool": "x"}, labels=("C", "C++", "news", "sports news", "a.b"), multi_label=True
)


@pytest.mark.parametrize(
    ("answer", "one", "several"),
    [
        ("C", "C", ("C",)),
        (" 'c++'.\n", "C++", ("C++",)),
        ("Sports  News", "sports news", ("sports news",)),
        ("It is sports news, surely", "sports news", ("sports news",)),
        ("news or C", None, ("C", "news")),
        ("newspaper", None, None),
        ("axb", None, None),
        ("a.b!", "a.b", ("a.b",)),
        ("none", None, ()),
        ("", None, None),
        ("<script>", None, None),
    ],
)
def test_what_counts_as_a_label(
    answer: str, one: str | None, several: tuple[str, ...] | None
) -> None:
    assert ask_llm.parse(answer, ONE) == one and ask_llm.parse(answer, SEVERAL) == several


@pytest.mark.parametrize("p", [ONE, SEVERAL])
@pytest.mark.parametrize("text", ["short", "word " * 5000, "語" * 5000, "\ud800" * 3000])
def test_any_text_is_cut_to_what_surely_fits(p: Project, text: str) -> None:
    asked = ask_llm.request(p, text)
    assert asked.max_prompt_tokens + asked.max_tokens <= ask_llm.CONTEXT
    content = asked.messages[0][1]
    assert (
        content.endswith("and nothing else.")
        and content.encode()
        and text[:5].encode("utf-8", "replace").decode() in content
    )
