"""Tiny random models of each family, from configs alone: they train, are saved, and answer; what can't is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.model.bundle import Classifier, save_bundle
from tasks.train.load import load_classifier
from tasks.train.optimiser import count_layers
from tasks.train.task import TrainingTask
from tests.kit import toy
from tests.kit.training import DEV, Tune, chosen

pytestmark = pytest.mark.slow  # they train or export models

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("Bert", SIZE),
    "MiniLM": ("Bert", {**SIZE, "hidden_size": 12, "num_hidden_layers": 3}),
    "RoBERTa": ("Roberta", {**SIZE, "type_vocab_size": 1, "max_position_embeddings": 66}),
    "DistilBERT": ("DistilBert", {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}),
    "DeBERTa-v3": (
        "DebertaV2",
        {
            **SIZE,
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        }
        | {"pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0},
    ),
    "ModernBERT": ("ModernBert", {**SIZE, "global_attn_every_n_layers": 2, "local_attention": 8}),
}


def tokenizer(folder: Path, kind: str, **options: Any) -> int:
    """Writes a word-level tokenizer of the toy task's words; the number of its words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [w for table in (toy.WRITTEN, toy.REAL) for ws in table.values() for w in ws]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {w: i for i, w in enumerate([*special, ".", *toy.FILLER, *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_input_names=inputs,
        **{**names, "mask_token": "[MASK]", **options},
    ).save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture
def family(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, **options: Any) -> Path:
        import torch
        import transformers

        kind, size = FAMILIES[name]
        folder = tmp_path / name
        words = tokenizer(folder, kind, **options)
        torch.manual_seed(0)
        ids = {
            "pad_token_id": 0,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
        }
        config = getattr(transformers, f"{kind}Config")(vocab_size=words, **ids, **size)
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_family_trains_and_answers(
    name: str, family: Callable[..., Path], tune: Tune, tmp_path: Path, encoder: Path
) -> None:
    import torch

    trained = tune(
        encoder=family(name), epochs=1, layer_decay=0.8, freeze_layers=1, classifier_dropout=0.2
    )
    assert count_layers(trained.model) == (3 if name == "MiniLM" else 2)
    still = [n for n, p in trained.model.named_parameters() if not p.requires_grad]
    assert any("embeddings" in n for n in still) and any(".0." in n for n in still)
    assert not any(".1." in n or "classifier" in n for n in still)
    assert (
        0.2 in [m.p for m in trained.model.modules() if isinstance(m, torch.nn.Dropout)]
        or name == "ModernBERT"
    )
    about = {"labels": toy.LABELS, "max_length": 32}
    save_bundle(trained.model, trained.tokenizer, tmp_path / "bundle", about=about)
    said = Classifier.load(tmp_path / "bundle").predict([r.text for r in DEV])
    assert len(said) == len(DEV) and all(set(p.scores) == set(toy.LABELS) for p in said)


class TestRefusals:
    @staticmethod
    def refused(folder: Path, *words: str, **changes: Any) -> None:
        with pytest.raises(UserError) as e:
            load_classifier(TrainingTask([], [], toy.LABELS, chosen(**changes), folder))
        assert all(w in str(e.value) for w in words) and "\n" not in str(e.value), str(e.value)

    @staticmethod
    def reconfigured(folder: Path, **changes: Any) -> Path:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return folder

    def test_a_type_without_a_classification_head(self, family: Callable[..., Path]) -> None:
        folder = self.reconfigured(family("BERT"), model_type="clip")
        self.refused(
            folder, "can't be loaded as a classifier", "no classification head for its type 'clip'"
        )

    def test_a_type_that_is_not_known(self, family: Callable[..., Path]) -> None:
        folder = self.reconfigured(family("BERT"), model_type="newbert")
        self.refused(folder, "does not know its type 'newbert'")

    def test_code_of_its_own_is_not_run(self, family: Callable[..., Path], tmp_path: Path) -> None:
        folder = family("BERT")
        names = {"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.M"}
        (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        self.refused(
            self.reconfigured(folder, auto_map=names, model_type="own"),
            "'own'",
            "auto_map",
            "never run",
        )
        bert = self.reconfigured(folder, model_type="bert")  # a class of transformers
        model, _ = load_classifier(TrainingTask([], [], toy.LABELS, chosen(), bert))
        assert type(model).__module__.startswith("transformers.") and not hasattr(
            model.config, "auto_map"
        )
        assert not (tmp_path / "ran").exists()

    def test_a_tokenizer_that_cannot_pad(self, family: Callable[..., Path]) -> None:
        self.refused(family("BERT", pad_token=None), "no padding token")

    def test_a_dropout_that_the_family_has_not(self, tmp_path: Path) -> None:
        from transformers import GPT2Config

        GPT2Config().save_pretrained(tmp_path)
        self.refused(
            tmp_path,
            "train.dropout is 0.1, but a gpt2 model has no such setting: leave it out",
            dropout=0.1,
        )

    def test_roberta_has_fewer_positions_than_it_says(self, family: Callable[..., Path]) -> None:
        """Its positions count from the padding's number on, and this tokenizer does not know."""
        load_classifier(TrainingTask([], [], toy.LABELS, chosen(max_length=65), family("RoBERTa")))
        self.refused(
            family("RoBERTa"), "train.max_length is 66", "at most 65 tokens", max_length=66
        )


def rewritten(folder: Path, change: Callable[[str], str]) -> Path:
    """The checkpoint with its weights under other names."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file(
        {change(k): v for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


class TestWeights:
    """What is trained is what the checkpoint holds, never random weights in its place."""

    @pytest.mark.parametrize("name", list(FAMILIES))
    def test_those_of_another_shape_or_name_are_refused(
        self, name: str, family: Callable[..., Path]
    ) -> None:
        refused, folder = TestRefusals.refused, family(name)
        config = (folder / "config.json").read_text()
        TestRefusals.reconfigured(folder, intermediate_size=40, hidden_dim=40)
        refused(folder, "train.model", "do not fit its config.json", "would be random", "layer")
        (folder / "config.json").write_text(config)
        TestRefusals.reconfigured(folder, num_hidden_layers=5, n_layers=5, layer_types=None)
        refused(folder, "do not fit its config.json", ".3." if name == "MiniLM" else ".2.")
        (folder / "config.json").write_text(config)
        rewritten(folder, "another.{}".format)
        refused(folder, "do not fit its config.json", "embeddings")

    @pytest.mark.parametrize("name", list(FAMILIES))
    @pytest.mark.parametrize("head", ["MaskedLM", "SequenceClassification"])
    def test_another_head_is_no_fault(
        self, name: str, head: str, family: Callable[..., Path]
    ) -> None:
        import torch
        import transformers

        folder = family(name)
        made = getattr(transformers, f"AutoModelFor{head}").from_pretrained(folder, num_labels=5)
        made.save_pretrained(folder)
        model, _ = load_classifier(TrainingTask([], [], toy.LABELS, chosen(), folder))
        own, kept = model.base_model.state_dict(), made.base_model.state_dict()
        assert all(
            torch.equal(own[k], v) for k, v in kept.items()
        ) and model.config.num_labels == len(toy.LABELS)

    def test_names_of_old_are_known(self, family: Callable[..., Path]) -> None:
        def old(name: str) -> str:
            return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )

        load_classifier(TrainingTask([], [], toy.LABELS, chosen(), rewritten(family("BERT"), old)))


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_family_answers_alike_through_its_graph(
    name: str, family: Callable[..., Path], tmp_path: Path
) -> None:
    """Attention that is more than a softmax of products must stay what it is when plain attention becomes one operator."""
    import onnxruntime
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tasks.model.inference.export import export_graphs

    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(family(name), num_labels=3).eval()
    for p in model.parameters():  # as initialised all weights are so small that attention is even
        p.data *= 5
    whole = tmp_path / "whole"
    model.save_pretrained(whole)
    AutoTokenizer.from_pretrained(tmp_path / name).save_pretrained(whole)
    out = tmp_path / "graphs"
    out.mkdir()
    session = onnxruntime.InferenceSession(
        export_graphs(whole, out, kinds=["onnx"])["onnx"], providers=["CPUExecutionProvider"]
    )
    for length in (3, 12, 40):
        ids = torch.randint(5, 40, (1, length))
        feed = {
            i.name: (ids if i.name == "input_ids" else torch.zeros_like(ids)).numpy()
            for i in session.get_inputs()
        }
        with torch.inference_mode():
            wanted = model(input_ids=ids).logits.numpy()
        assert abs(session.run(["logits"], feed)[0] - wanted).max() < 1e-4 * max(
            1, abs(wanted).max()
        )
