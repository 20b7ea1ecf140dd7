"""The loss, the weights of rows, the learning rates and what is frozen: each as its formula says."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.records import Record
from tasks.train.losses import (
    loss_function,
    positive_weights,
    row_weights,
    sigmoid_loss,
    softmax_loss,
)
from tasks.train.optimiser import count_layers, freeze, layer_depth, parameter_groups
from tasks.train.task import TrainingTask
from tests.kit import toy
from tests.kit.training import BATCHES, TRAIN, Tune, chosen, rows, same, weights

LOGITS = st.lists(st.lists(st.floats(-8, 8), min_size=3, max_size=3), min_size=1, max_size=6)


def by_hand(
    logits: list[list[float]], y: list[int], *, smoothing: float, gamma: float
) -> np.ndarray:
    found = []
    for row, true in zip(np.array(logits), y, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        t = np.full(len(row), smoothing / len(row))
        t[true] += 1 - smoothing
        found.append(-(t * (1 - p) ** gamma * np.log(p)).sum())
    return np.array(found)


class TestLoss:
    @settings(deadline=None)
    @given(LOGITS, st.data(), st.floats(0, 0.9), st.sampled_from([0.0, 0.5, 2.0]))
    def test_it_is_the_formula(
        self, logits: Any, data: Any, smoothing: float, gamma: float
    ) -> None:
        import torch

        y = data.draw(st.lists(st.integers(0, 2), min_size=len(logits), max_size=len(logits)))
        w = data.draw(st.lists(st.floats(0.1, 9), min_size=len(logits), max_size=len(logits)))
        got = softmax_loss(
            torch.tensor(logits), torch.tensor(y), torch.tensor(w), smoothing=smoothing, gamma=gamma
        )
        assert np.allclose(
            got.numpy(),
            np.array(w) * by_hand(logits, y, smoothing=smoothing, gamma=gamma),
            atol=2e-4,
        )

    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
    def test_without_focus_it_is_that_of_torch(self, smoothing: float) -> None:
        import torch

        torch.manual_seed(0)
        logits, y = torch.randn(20, 4), torch.randint(0, 4, (20,))
        ours = loss_function(chosen(label_smoothing=smoothing))(logits, y, None)
        theirs = torch.nn.functional.cross_entropy(
            logits, y, label_smoothing=smoothing, reduction="none"
        )
        assert torch.allclose(ours, theirs, atol=1e-6)

    @pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
    def test_its_slope_is_a_number_where_the_model_is_quite_sure(self, gamma: float) -> None:
        import torch

        logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
        softmax_loss(
            logits, torch.tensor([0, 0]), None, smoothing=0.0, gamma=gamma
        ).sum().backward()
        assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())


def binary_by_hand(
    logits: list[list[float]], y: list[list[int]], *, smoothing: float, gamma: float, w: list[float]
) -> Any:
    """Each label as a softmax of two classes, yes and no, which `by_hand` knows."""
    each = []
    for k, weight in enumerate(w):
        two = [[row[k], 0.0] for row in logits]
        p = 1 / (1 + np.exp(-np.array([row[k] for row in logits])))
        t = np.array([row[k] for row in y]) * (1 - smoothing) + smoothing / 2
        plain = by_hand(two, [1 - row[k] for row in y], smoothing=smoothing, gamma=gamma)
        each.append(plain + (weight - 1) * -t * (1 - p) ** gamma * np.log(p))
    return np.mean(each, axis=0)


class TestLossOfLabelSets:
    @settings(deadline=None)
    @given(LOGITS, st.data(), st.floats(0, 0.9), st.sampled_from([0.0, 0.5, 2.0]))
    def test_it_is_the_formula(
        self, logits: Any, data: Any, smoothing: float, gamma: float
    ) -> None:
        import torch

        bits = st.lists(st.integers(0, 1), min_size=3, max_size=3)
        y = data.draw(st.lists(bits, min_size=len(logits), max_size=len(logits)))
        w = data.draw(st.lists(st.floats(0.1, 9), min_size=len(logits), max_size=len(logits)))
        positive = [1.0, 3.0, 0.5]
        how: dict[str, Any] = {"smoothing": smoothing, "gamma": gamma}
        got = sigmoid_loss(
            torch.tensor(logits), torch.tensor(y), torch.tensor(w), positive=positive, **how
        )
        assert np.allclose(
            got.numpy(), np.array(w) * binary_by_hand(logits, y, w=positive, **how), atol=2e-4
        )

    @pytest.mark.parametrize("positive", [None, [1.0, 4.0, 0.5, 2.0]])
    def test_without_focus_it_is_that_of_torch(self, positive: list[float] | None) -> None:
        import torch

        torch.manual_seed(0)
        logits, y = torch.randn(20, 4), torch.randint(0, 2, (20, 4)).float()
        ours = loss_function(chosen(label_smoothing=0.2), positive=positive, multi_label=True)(
            logits, y, None
        )
        weight = None if positive is None else torch.tensor(positive)
        theirs = torch.nn.BCEWithLogitsLoss(pos_weight=weight, reduction="none")(
            logits, y * 0.8 + 0.1
        ).mean(1)
        assert torch.allclose(ours, theirs, atol=1e-6)

    @pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
    def test_its_slope_is_a_number_where_the_model_is_quite_sure(self, gamma: float) -> None:
        import torch

        logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
        sigmoid_loss(
            logits, torch.tensor([[1.0, 0.0]]), None, smoothing=0.0, gamma=gamma
        ).sum().backward()
        assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())

    def test_yes_and_no_weigh_alike_where_it_is_balanced(self) -> None:
        own = [("a",), ("a", "b"), ("a",), ()]
        records = [Record.create(str(i), labels, "seed") for i, labels in enumerate(own)]
        assert positive_weights(
            records, ["a", "b", "c"], settings=chosen(class_weights="balanced")
        ) == [
            1 / 3,
            3.0,
            1.0,
        ]
        assert positive_weights(records, ["a", "b"], settings=chosen(class_weights={"b": 5.0})) == [
            1.0,
            5.0,
        ]
        assert positive_weights(records, ["a", "b"], settings=chosen()) is None
        weighed = chosen(class_weights="balanced", source_weights={"synthetic": 0.5})
        assert row_weights(records, settings=weighed) is None, "the labels weigh in the loss"


class TestRowWeights:
    ROWS = rows(toy.WRITTEN, 4, "synthetic")[2:] + rows(toy.REAL, 2, "seed", seed=3)

    def test_balanced_labels_weigh_alike_in_sum(self) -> None:
        found = row_weights(self.ROWS, settings=chosen(class_weights="balanced"))
        assert found is not None and np.mean(found) == pytest.approx(1)
        sums: Counter[Any] = Counter()
        for r, w in zip(self.ROWS, found, strict=True):
            sums[r.label] += w  # type: ignore[assignment]
        assert len(set(Counter(r.label for r in self.ROWS).values())) > 1
        assert list(sums.values()) == pytest.approx([len(self.ROWS) / 3] * 3)

    def test_labels_and_sources_multiply(self) -> None:
        s = chosen(class_weights={"metal": 4.0}, source_weights={"synthetic": 0.25})
        found = row_weights(self.ROWS, settings=s)
        assert found is not None
        plain = [
            (4 if r.label == "metal" else 1) * (0.25 if r.source == "synthetic" else 1)
            for r in self.ROWS
        ]
        assert found == pytest.approx(np.array(plain) / np.mean(plain))

    def test_all_alike_is_none(self) -> None:
        assert row_weights(self.ROWS, settings=chosen()) is None
        assert (
            row_weights(
                TRAIN, settings=chosen(class_weights="balanced", source_weights={"synthetic": 3.0})
            )
            is None
        )

    @pytest.mark.parametrize(
        "changes",
        [
            {"class_weights": {"metal": 5.0}},
            {"source_weights": {"seed": 5.0}},
            {"focal_gamma": 2.0},
            {"label_smoothing": 0.0},
        ],
    )
    def test_the_first_loss_of_a_training_is_that_of_the_formula(
        self, changes: dict[str, Any], tune: Tune, encoder: Path
    ) -> None:
        """One step over all rows, without dropout: its loss is that of the untrained model."""
        import torch
        from transformers import set_seed

        from tasks.train.load import load_classifier

        train = [replace(r, source="seed") if i % 3 else r for i, r in enumerate(TRAIN)]
        still = {
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "batch_size": len(train),
            "max_steps": 1,
            "logging_steps": 1,
        }
        trained = tune(train=train, **still, **changes)
        asked = chosen(**still, **changes)
        set_seed(0)
        model, tokenizer = load_classifier(TrainingTask([], [], toy.LABELS, asked, encoder))
        batch = tokenizer(
            [r.text for r in train],
            padding=True,
            truncation=True,
            max_length=32,
            return_tensors="pt",
        )
        with torch.no_grad():
            logits = model.eval()(**batch).logits
        y = [list(toy.LABELS).index(str(r.label)) for r in train]
        losses = by_hand(
            logits.tolist(), y, smoothing=asked.label_smoothing, gamma=asked.focal_gamma
        )
        w = row_weights(train, settings=asked)
        (seen,) = (v for _, name, v in trained.history if name == "train.loss")
        assert seen == pytest.approx(
            float(np.mean((1.0 if w is None else w) * np.array(losses))), abs=1e-4
        )


class TestStep:
    def test_a_step_cut_in_two_learns_the_same(self, tune: Tune) -> None:
        """The last step of an epoch has fewer rows, and rows have weights: each must count as in one piece."""
        train = TRAIN[:44]
        given = {
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "logging_steps": 1,
            "epochs": 2,
            "train": train,
        }
        given |= {"class_weights": {"metal": 3.0}}
        one, cut = (
            tune("one", **given),
            tune("cut", batch_size=4, gradient_accumulation_steps=2, **given),
        )
        assert one.steps == cut.steps == 2 * 6
        losses = [[v for _, name, v in t.history if name == "train.loss"] for t in (one, cut)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)

    def test_gradients_are_clipped(self, tune: Tune) -> None:
        norms = [
            v for _, name, v in tune(epochs=1, logging_steps=1).history if name == "train.grad_norm"
        ]
        assert len(norms) == BATCHES and all(n > 0 for n in norms)
        assert not same(
            tune("loose", epochs=1), tune("tight", epochs=1, max_grad_norm=min(norms) / 10)
        )


class TestLayers:
    @pytest.mark.parametrize(
        ("name", "base", "at"),
        [
            ("bert.embeddings.word_embeddings.weight", "bert", 0),
            ("bert.encoder.layer.0.attention.self.query.weight", "bert", 1),
            ("bert.encoder.layer.11.output.dense.bias", "bert", 12),
            ("bert.pooler.dense.weight", "bert", 13),
            ("classifier.weight", "bert", 13),
            ("distilbert.transformer.layer.2.ffn.lin1.weight", "distilbert", 3),
            ("model.embeddings.tok_embeddings.weight", "model", 0),
            ("model.layers.4.mlp.Wi.weight", "model", 5),
            ("model.final_norm.weight", "model", 13),
            ("head.dense.weight", "model", 13),
            ("deberta.encoder.rel_embeddings.weight", "deberta", 0),
        ],
    )
    def test_depth(self, name: str, base: str, at: int) -> None:
        assert layer_depth(name, base=base, layers=12) == at

    @staticmethod
    def model(encoder: Path) -> Any:
        from tasks.train.load import load_classifier

        return load_classifier(TrainingTask([], [], toy.LABELS, chosen(), encoder))[0]

    def test_learning_rates_fall_by_the_factor(self, encoder: Path) -> None:
        model = self.model(encoder)
        assert count_layers(model) == 2
        asked = chosen(layer_decay=0.5, learning_rate=0.08)
        found = parameter_groups(
            model, decayed={n for n, p in model.named_parameters() if p.dim() > 1}, settings=asked
        )
        rate = {id(p): g["lr"] for g in found for p in g["params"]}
        decay = {id(p): g["weight_decay"] for g in found for p in g["params"]}
        assert found[0]["lr"] == 0.08, "the curve that is shown is the head's"
        assert len(rate) == len(list(model.parameters()))
        for name, p in model.named_parameters():
            at = (
                0
                if "embeddings" in name
                else int(name.split("layer.")[1][0]) + 1
                if ".layer." in name
                else 3
            )
            assert rate[id(p)] == pytest.approx(0.08 * 0.5 ** (3 - at)), name
            assert decay[id(p)] == (0.01 if p.dim() > 1 else 0.0), name

    def test_a_training_moves_lower_layers_less(self, tune: Tune, encoder: Path) -> None:
        before = self.model(encoder).state_dict()

        def moved(trained: Any, name: str) -> float:
            return float((weights(trained)[name] - before[name]).abs().max())

        first, last = (f"bert.encoder.layer.{i}.intermediate.dense.weight" for i in (0, 1))
        decayed, plain = tune("decayed", epochs=1, layer_decay=0.1), tune("plain", epochs=1)
        assert moved(decayed, first) < 0.2 * moved(decayed, last)
        assert moved(plain, first) > 0.5 * moved(plain, last)

    @pytest.mark.parametrize(
        ("changes", "frozen"),
        [({"freeze_embeddings": True}, 1), ({"freeze_layers": 1}, 2), ({"freeze_layers": 2}, 3)],
    )
    def test_frozen_layers_do_not_move(
        self, changes: dict[str, Any], frozen: int, tune: Tune, encoder: Path
    ) -> None:
        import torch

        before, after = (
            self.model(encoder).state_dict(),
            weights(tune(epochs=1, layer_decay=0.9, **changes)),
        )
        parts = [
            "bert.embeddings.",
            "bert.encoder.layer.0.",
            "bert.encoder.layer.1.",
            "bert.pooler.",
        ]
        for i, part in enumerate(parts):
            still = [torch.equal(before[n], after[n]) for n in after if n.startswith(part)]
            assert all(still) if i < frozen else not all(still), part

    def test_more_layers_than_there_are(self, encoder: Path) -> None:
        with pytest.raises(
            UserError, match=r"train.freeze_layers is 3, but the encoder has 2 layers"
        ):
            freeze(self.model(encoder), settings=chosen(freeze_layers=3))
