"""Baselines: majority, TF-IDF, word vectors, and an NLI checkpoint."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.errors import UserError
from tasks.evaluate.baselines import simple
from tasks.evaluate.baselines.score import active_baselines, score_baseline
from tasks.evaluate.baselines.word_vectors import (
    average_input_embeddings,
    average_static_embeddings,
)
from tasks.evaluate.baselines.zero_shot import entailment_outputs, zero_shot_probabilities
from tasks.records import Record
from tasks.workspace import Workspace
from tests.evaluate.conftest import Split
from tests.kit import toy
from tests.kit.rows import record, text
from tests.kit.scores import LABELS
from tests.kit.stages import curated_of

# --- majority and TF-IDF


def test_majority() -> None:
    train = [record(text("a", i), label) for i, label in enumerate(["metal", "metal", "fruit"])]
    assert simple.predict_majority(train, ["x", "y"], LABELS) == ["metal", "metal"]
    assert simple.predict_majority([], ["x"], LABELS) == ["fruit"]


def test_tfidf() -> None:
    train = [
        record(f"{word} and {word} number {i}", label)
        for i in range(6)
        for word, label in (("apple", "fruit"), ("iron", "metal"))
    ]
    texts = ["an apple", "the iron", "iron apple iron"]
    assert simple.predict_by_tfidf(train, texts) == ["fruit", "metal", "metal"]
    assert simple.predict_by_tfidf(train[:1], ["x", "y"]) == ["fruit", "fruit"]
    assert simple.predict_by_tfidf([], []) == []


# --- word vectors


def test_input_embeddings_are_means_of_the_encoders_rows(encoder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    word = toy.REAL["fruit"][0]
    texts = [word, f"{word} {word}", "", "the " * 99]
    means = average_input_embeddings(encoder, texts, max_length=8)
    table = AutoModel.from_pretrained(encoder).get_input_embeddings().weight.detach().numpy()
    row = table[AutoTokenizer.from_pretrained(encoder).convert_tokens_to_ids(word)]
    assert means[0] == pytest.approx(row / np.linalg.norm(row), abs=1e-6)
    assert means[1] == pytest.approx(means[0])
    assert not means[2].any() and np.linalg.norm(means[3]) == pytest.approx(1)


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
    means = average_static_embeddings(folder, [a, f"{a} {a} {b} the of", "unheard", ""])
    assert means[0].tolist() == [0, 1, 0, 0] and not means[2:].any()
    assert means[1] == pytest.approx(np.array([0, 2, 1, 0]) / 5**0.5, abs=1e-6)


def test_a_baseline_of_word_vectors_learns(tmp_path: Path, encoder: Path) -> None:
    vectors = partial(average_static_embeddings, static_model(tmp_path / "static", encoder))
    train = written_rows()
    texts = [" ".join(toy.REAL[kind][:4]) for kind in toy.LABELS]
    assert simple.predict_by_vectors(train, texts, vectors) == list(toy.LABELS)
    sets = [replace(r, label=r.labels) for r in train]
    assert simple.predict_by_vectors(sets, texts, vectors) == [(kind,) for kind in toy.LABELS]


def written_rows() -> list[Record]:
    return [
        Record.create(f"{word} the", kind, "synthetic")
        for kind, words in toy.WRITTEN.items()
        for word in words[:5]
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": None, "other": np.eye(2)}, "no tensor `embeddings` but mapping, other"),
        ({"mapping": np.zeros(3, dtype=np.int32)}, "give a folder whose files are of one model"),
    ],
)
def test_another_kind_of_folder_is_an_error(
    tmp_path: Path, encoder: Path, changes: dict[str, Any], message: str
) -> None:
    folder = static_model(tmp_path / "static", encoder, **changes)
    with pytest.raises(UserError, match=message):
        average_static_embeddings(folder, ["x"])


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
def test_zero_shot_is_the_pipeline_of_transformers(
    tmp_path: Path, encoder: Path, multi_label: bool
) -> None:
    from transformers import pipeline

    folder = nli(tmp_path / "nli", encoder, ["CONTRADICTION", "neutral", "Entailment"])
    texts = [r["text"] for r in toy.real_rows(3)] + ["x"]
    probabilities = zero_shot_probabilities(
        toy.LABELS, texts, folder, max_length=64, multi_label=multi_label
    )
    classify = pipeline("zero-shot-classification", model=str(folder), tokenizer=str(folder))
    lines = list(toy.LABELS.values())
    how: dict[str, Any] = {
        "hypothesis_template": "This text is about {}.",
        "multi_label": multi_label,
    }
    for text_, row in zip(texts, probabilities, strict=True):
        answer = classify(text_, lines, **how)
        scores = dict(zip(answer["labels"], answer["scores"], strict=True))
        # bfloat16 where the processor has it
        assert row == pytest.approx([scores[line] for line in lines], abs=0.03)


def test_an_entailment_output_is_needed(tmp_path: Path, encoder: Path) -> None:
    assert entailment_outputs(nli(tmp_path / "two", encoder, ["not_entailment", "entailment"])) == (
        1,
        0,
    )
    with pytest.raises(
        UserError, match=r"no label for entailment \(good, bad\): give an NLI model"
    ):
        entailment_outputs(nli(tmp_path / "other", encoder, ["GOOD", "BAD"]))
    with pytest.raises(UserError, match=r"no config\.json"):
        entailment_outputs(tmp_path)


# --- the stage, and the project file


def test_each_baseline_is_scored_under_its_name(
    split: Split, workspace: Workspace, tmp_path: Path, encoder: Path
) -> None:
    static = static_model(tmp_path / "static", encoder)
    checkpoint = nli(tmp_path / "nli", encoder, ["entailment", "neutral", "contradiction"])
    models = {"static_model": str(static), "zero_shot": str(checkpoint)}
    p, splits, sealed = split(evaluate=models)
    curated = curated_of(workspace.home, written_rows())
    assert active_baselines(p)[3:] == ["static_embeddings", "zero_shot"]
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
    assert active_baselines(p)[3:] == ["input_embeddings"]
    found = score_baseline(
        p, "input_embeddings", curated=curated, splits=splits, sealed=sealed, workspace=workspace
    )
    assert found.known.f1_macro.value > 0.95


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"zero_shot": "nowhere"}, "evaluate.zero_shot: 'nowhere' does not exist"),
        ({"static_model": "nowhere"}, "evaluate.static_model: 'nowhere' does not exist"),
        ({"static_model": "."}, r"has no model\.safetensors: give a model2vec folder"),
        ({"zero_shot": "."}, r"evaluate.zero_shot: .* has no config\.json"),
        ({"llm_rows": 2}, r"evaluate\.llm_rows is 2, fewer than the 3 labels"),
    ],
)
def test_a_mistake_is_reported_before_anything_starts(
    split: Split, evaluate: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        split(evaluate=evaluate)
