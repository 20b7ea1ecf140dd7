"""No text's answer depends on the texts beside it, and a batch stays in its budget."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import atomic
from tasks.model.bundle import ABOUT, Classifier
from tasks.model.inference.backends import Torch, token_batches
from tests.kit import toy

BACKENDS = ["torch", "onnx", "onnx-int8"]


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 1000))
def test_each_row_once_in_batches_under_the_budget(lengths: list[int], tokens: int) -> None:
    found = token_batches(lengths, tokens=tokens)
    assert sorted(i for b in found for i in b) == list(range(len(lengths)))
    for b in found:
        assert len(b) == 1 or len(b) * max(lengths[i] for i in b) <= tokens
    longest = [max(lengths[i] for i in b) for b in found]
    assert longest == sorted(longest)


def some_texts(n: int, seed: int) -> list[str]:
    """Of one word to more than the model reads."""
    rng = random.Random(seed)
    words = [w for k in toy.LABELS for w in toy.REAL[k]] + toy.FILLER
    return [" ".join(rng.choices(words, k=rng.choice([1, 3, 8, 20, 60]))) for _ in range(n)]


@pytest.mark.parametrize("name", BACKENDS)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10_000), mates=st.integers(0, 40))
def test_same_text_same_scores_in_any_order_beside_any_texts(
    name: str, backends: dict[str, Classifier], seed: int, mates: int
) -> None:
    own, others = some_texts(4, seed), some_texts(mates, seed + 1)
    alone = np.concatenate([backends[name].probabilities([t]) for t in own])
    mixed = [*own, *others]
    order = list(range(len(mixed)))
    random.Random(seed).shuffle(order)
    together = backends[name].probabilities([mixed[i] for i in order])
    found = np.array([together[order.index(i)] for i in range(len(own))])
    assert np.abs(found - alone).max() < 1e-4


@pytest.mark.parametrize("budget", [1, 64, 100_000])
def test_the_budget_changes_no_answer(
    budget: int, small_bundle: Path, backends: dict[str, Classifier]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    asked = some_texts(20, 5)
    model = AutoModelForSequenceClassification.from_pretrained(small_bundle)
    other = Torch(
        model, AutoTokenizer.from_pretrained(small_bundle), batch_tokens=budget, threads=1
    )
    plain = backends["torch"]
    assert np.allclose(
        plain.with_backend(other).probabilities(asked), plain.probabilities(asked), atol=1e-5
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_rows_sum_to_one_and_nothing_asked_is_nothing_answered(
    name: str, backends: dict[str, Classifier]
) -> None:
    p = backends[name].probabilities([*some_texts(9, 1), ""])
    assert p.shape == (10, len(toy.LABELS)) and p.dtype == np.float32
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)
    assert backends[name].probabilities([]).shape == (0, len(toy.LABELS))


def test_without_onnxruntime_torch_answers_and_says_so_once(
    small_bundle: Path,
    graphs: dict[str, Path],
    tmp_path: Path,
    backends: dict[str, Classifier],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(small_bundle, copy)
    shutil.copy(graphs["onnx"], copy / "model.onnx")
    about = atomic.read_json(copy / ABOUT)
    atomic.write_json(copy / ABOUT, {**about, "inference": {"backend": "onnx"}})
    atomic.seal(copy)
    assert Classifier.load(copy).backend.name == "onnx"
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "onnxruntime", None)
        fallen = Classifier.load(copy)
    said = capsys.readouterr().err.splitlines()
    assert [
        line for line in said if "onnxruntime is not installed" in line
    ] and fallen.backend.name == "torch"
    asked = some_texts(5, 2)
    assert np.allclose(
        fallen.probabilities(asked), backends["onnx"].probabilities(asked), atol=1e-5
    )
