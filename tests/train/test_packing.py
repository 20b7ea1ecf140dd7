"""Packed rows train as they do one by one: the same logits, loss and gradients, and nothing seen across documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.train.kernels.attention import DocumentAttention, FastDropout, keep_mask
from tasks.train.kernels.packing import FIRST_POSITION, PackingCollator, can_pack, pack

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_labels": 3,
    "initializer_range": 0.3,  # or the logits hardly know the words
}
LENGTHS = (5, 30, 2, 17)


def bert(**changes: Any) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(max_position_embeddings=64, **{**SMALL, **changes})
    )


def roberta() -> Any:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    return RobertaForSequenceClassification(
        RobertaConfig(max_position_embeddings=64, pad_token_id=1, **SMALL)
    )


def modernbert(pooling: str, **changes: Any) -> Any:
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    special = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "cls_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
    }
    # a token of a sliding layer sees 4 to each side; every second layer sees all
    config = ModernBertConfig(
        local_attention=8,
        global_attn_every_n_layers=2,
        classifier_pooling=pooling,
        **{**SMALL, **special, **changes},
    )
    return ModernBertForSequenceClassification(config)


MODELS: dict[str, Callable[[], Any]] = {
    "bert": bert,
    "roberta": roberta,
    "modernbert, first token": lambda: modernbert("cls"),
    "modernbert, mean": lambda: modernbert("mean"),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    torch.manual_seed(0)
    made = MODELS[request.param]()
    made.set_attn_implementation("sdpa")
    yield made.eval()


def rows(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"input_ids": torch.randint(3, 100, (n,), generator=generator).tolist(), "labels": i % 3}
        for i, n in enumerate(lengths)
    ]


def collator(model: Any, **shapes: Any) -> PackingCollator:
    return PackingCollator(
        FIRST_POSITION[model.config.model_type](model.config), model.config.pad_token_id, **shapes
    )


def one_by_one(model: Any, given: list[dict[str, Any]]) -> tuple[Any, dict[str, Any], float]:
    """Logits, gradients and loss of each row alone, the latter two averaged."""
    logits, total = [], 0.0
    for row in given:
        out = model(
            input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])
        )
        (out.loss / len(given)).backward()
        logits.append(out.logits.detach())
        total += out.loss.item() / len(given)
    return torch.cat(logits), taken(model), total


def taken(model: Any) -> dict[str, Any]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


class TestExact:
    @pytest.mark.parametrize(
        "shapes",
        [{}, {"sizes": (20, 100), "documents": 9, "longest": 40}],
        ids=["as long as its rows", "of one of two sizes"],
    )
    def test_loss_logits_and_gradients_are_those_of_row_by_row(
        self, model: Any, shapes: dict[str, Any]
    ) -> None:
        assert can_pack(model, device="cpu", half=False)
        logits, gradients, loss = one_by_one(model, rows())
        undo = pack(model, alone=True)
        model(
            **collator(model)(rows(seed=1))
        ).loss.backward()  # what the step before leaves in the kept gradients
        model.zero_grad()
        out = model(**collator(model, **shapes)(rows()))
        out.loss.backward()
        packed = taken(model)
        undo()
        assert torch.allclose(out.logits, logits, atol=1e-5) and out.loss.item() == pytest.approx(
            loss, abs=1e-5
        )
        assert packed.keys() == gradients.keys()
        for name, wanted in gradients.items():
            assert torch.allclose(packed[name], wanted, atol=1e-5), name

    def test_gradients_of_several_batches_add_up(self, model: Any) -> None:
        _, gradients, _ = one_by_one(model, rows())
        pack(model, alone=True)
        for part in (rows()[:1], rows()[1:]):
            (model(**collator(model)(part)).loss * len(part) / len(rows())).backward()
        for name, found in taken(model).items():
            assert torch.allclose(found, gradients[name], atol=1e-5), name

    def test_no_document_sees_another(self, model: Any) -> None:
        pack(model)
        first, other = rows(), rows(seed=1)
        with torch.inference_mode():
            alone = model(**collator(model)(first)).logits
            mixed = model(**collator(model)([other[0], first[1], other[2], other[3]])).logits
        assert torch.allclose(alone[1], mixed[1], atol=1e-5) and not torch.allclose(
            alone[0], mixed[0], atol=1e-2
        )

    def test_padded_batches_still_work_and_undo_leaves_no_trace(self, model: Any) -> None:
        ids = torch.tensor(
            [rows()[0]["input_ids"] + [model.config.pad_token_id] * 4, rows((9,))[0]["input_ids"]]
        )
        mask = torch.tensor([[1] * 5 + [0] * 4, [1] * 9])
        before = str(model)
        with torch.inference_mode():
            wanted = model(input_ids=ids, attention_mask=mask).logits
            undo = pack(model, alone=True)
            assert torch.allclose(
                model(input_ids=ids, attention_mask=mask).logits, wanted, atol=1e-6
            )
            undo()
            assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, wanted)
        assert str(model) == before and model.config._attn_implementation == "sdpa"
        assert "reseed" not in model.config.to_json_string()

    def test_gradients_with_dropout_are_those_of_the_same_dropout(self) -> None:
        """The function's own backward, against autograd through plain operations with the same bits."""
        torch.manual_seed(0)
        q, k, v, seen = (
            torch.randn(2, 11, 4, dtype=torch.float64, requires_grad=i < 3) for i in range(4)
        )
        torch.manual_seed(1)
        out = DocumentAttention.apply(q, k, v, [4, 7], 0.5, 3, 0.25)
        found = torch.autograd.grad((out * seen).sum(), (q, k, v))
        torch.manual_seed(1)
        pieces, start = [], 0
        for n in (4, 7):
            a, b, c = (x[:, start : start + n] for x in (q, k, v))
            at = torch.arange(n)
            scores = (0.5 * a @ b.mT).masked_fill((at[:, None] - at).abs() >= 3, -torch.inf)
            weights = scores.softmax(-1)
            pieces.append(weights * keep_mask(weights, 0.25) / 0.75 @ c)
            start += n
        plain = torch.cat(pieces, 1)
        assert torch.allclose(out, plain)
        for got, wanted in zip(
            found, torch.autograd.grad((plain * seen).sum(), (q, k, v)), strict=True
        ):
            assert torch.allclose(got, wanted)


class TestWhere:
    def test_models_that_pack(self) -> None:
        from transformers import DistilBertConfig, DistilBertForSequenceClassification

        small = {"dim": 32, "hidden_dim": 48, "n_layers": 1, "n_heads": 2, "vocab_size": 100}
        other = DistilBertForSequenceClassification(DistilBertConfig(**small))
        assert not can_pack(other, device="cpu", half=False)
        assert can_pack(modernbert("cls"), device="cuda", half=True)
        assert not can_pack(modernbert("cls"), device="cuda", half=False), (
            "varlen attention is for 16 bits"
        )
        assert not can_pack(bert(), device="cuda", half=True), "varlen attention has no dropout"
        assert can_pack(bert(attention_probs_dropout_prob=0.0), device="cuda", half=True)


class TestCollator:
    @given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(0, 90))
    @settings(max_examples=60, deadline=None)
    def test_few_shapes(self, lengths: list[int], spare: int) -> None:
        tokens, documents = sum(lengths) + spare, 30
        sizes = (sum(lengths) - 1, tokens, 500)
        batch = PackingCollator(2, 0, sizes=sizes, documents=documents, longest=40)(
            rows(tuple(lengths))
        )
        ends = batch["cu_seq_lens_q"]
        assert batch["input_ids"].shape == batch["position_ids"].shape == (
            1,
            tokens,
        ) and ends.shape == (documents + 1,)
        assert ends.dtype == torch.int32 and ends[0] == 0 and ends[-1] == tokens
        assert (
            ends.diff().tolist()[: len(lengths)] == lengths
            and ends.diff().max() <= 40
            and ends.diff().min() >= 0
        )
        assert (
            batch["position_ids"].max() < 42
            and (batch["position_ids"][0, ends[:-1][ends.diff() > 0].long()] == 2).all()
        )
        assert batch["attention_mask"].sum(1).tolist() == lengths and len(batch["labels"]) == len(
            lengths
        )

    def test_weights_go_along_and_too_many_tokens_do_not(self) -> None:
        given = [row | {"weight": w} for row, w in zip(rows(), (1.0, 2.0, 0.5, 1.0), strict=True)]
        assert PackingCollator()(given)["weight"].tolist() == [1.0, 2.0, 0.5, 1.0]
        with pytest.raises(ValueError, match=r"54 tokens do not fit into a packed batch of 53"):
            PackingCollator(sizes=(20, 53))(rows())


class TestDropout:
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
    def test_as_many_as_asked_for_and_the_mean_stays(self, p: float) -> None:
        torch.manual_seed(0)
        layer, ones = FastDropout(p), torch.ones(1001, 333)
        out = layer.train()(ones)
        spread = 5 * (p * (1 - p) / ones.numel()) ** 0.5
        assert (out == 0).float().mean().item() == pytest.approx(p, abs=spread + 1 / 65536)
        assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
        assert torch.equal(layer.eval()(ones), ones)

    def test_the_seed_decides_and_neighbours_are_independent(self) -> None:
        draws = []
        for _ in range(2):
            torch.manual_seed(3)
            draws.append(keep_mask(torch.empty(4000, 100), 0.3) == 0)
        assert torch.equal(*draws)
        for step in (1, 2, 3, 4):  # four elements come from one draw
            both = (draws[0][:, step:] & draws[0][:, :-step]).float().mean().item()
            assert both == pytest.approx(0.09, abs=0.003)
