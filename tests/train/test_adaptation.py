"""Adapting a tiny real encoder to text: it learns, says what it measured, goes on after a kill, and sees no held-out row."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tasks import atomic
from tasks.errors import UserError
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import Record, Source
from tasks.train.adaptation.adapt import AdaptResult, adapt, select_texts
from tasks.train.adaptation.masked import load_masked
from tasks.train.resume import Terminated
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.stages import curated_of, splits_of

pytestmark = pytest.mark.slow  # they train or export models


def rows(n: int, source: Source, seed: int, label: bool = True) -> list[Record]:
    rng = random.Random(seed)
    return [
        Record.create(toy.sentence(toy.REAL[k], rng), k if label else None, source)
        for k in toy.LABELS
        for _ in range(n)
    ]


DEV, TEST, TRAINING = rows(6, "dev", 1), rows(6, "test", 2), rows(10, "synthetic", 3)
UNLABELLED = rows(60, "unlabelled", 4, label=False)


class Text:
    """A workspace with splits and curated rows."""

    def __init__(self, home: Path, encoder: Path, unlabelled: list[Record] = UNLABELLED) -> None:
        self.home, self.encoder = home, encoder
        self.splits = splits_of(home, dev=DEV, test=TEST, unlabelled=unlabelled)
        self.curated = curated_of(home, TRAINING)

    def project(self, encoder: Path | None = None, **changes: Any) -> Project:
        quick = {
            "epochs": 4,
            "learning_rate": 3e-3,
            "batch_size": 8,
            "head_steps": 40,
            "held_out": 30,
        }
        train = {"model": str(encoder or self.encoder), "max_length": 32, "precision": "fp32"}
        given = {"name": "toy", "labels": toy.LABELS, "data": {"pool": "rows.csv"}}
        return Project.model_validate({**given, "adapt": {**quick, **changes}, "train": train})

    def adapt(self, home: str = "", progress: Progress = silent, **changes: Any) -> AdaptResult:
        return adapt(
            self.project(**changes),
            curated=self.curated,
            splits=self.splits,
            workspace=Workspace(self.home / home),
            progress=progress,
        )


@pytest.fixture
def text(tmp_path: Path, encoder: Path) -> Text:
    return Text(tmp_path, encoder)


@pytest.fixture(scope="module")
def with_head(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Path:
    """The tiny encoder with a head for masked words of its own."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("masked") / "bert"
    AutoModelForMaskedLM.from_pretrained(encoder).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder


def weights(adapted: AdaptResult) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(adapted.encoder / "model.safetensors"))


def test_the_text_is_learned_and_the_classifier_starts_from_it(text: Text) -> None:
    import numpy as np
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    adapted = text.adapt(head_steps=150)
    words = len(AutoTokenizer.from_pretrained(text.encoder))
    assert adapted.perplexity.after < 0.9 * adapted.perplexity.before < 0.9 * words
    assert (adapted.held_out, adapted.held_out_from, adapted.rows) == (
        30,
        "unlabelled",
        180 - 30 + 30,
    )
    assert adapted.steps == 4 * -(-180 // 8) and adapted.resumed_from == 0 and adapted.leaks == 0
    assert adapted.head == "made" and adapted.head_steps == 150
    assert "no head for masked words" in adapted.summary().splitlines()[1]
    assert {name for _, name, _ in adapted.history()} == {"adapt.loss", "adapt.learning_rate"}

    before = AutoModel.from_pretrained(text.encoder).state_dict()
    net, info = AutoModelForSequenceClassification.from_pretrained(
        adapted.encoder, num_labels=3, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    now = net.bert.state_dict()
    assert all(np.array_equal(now[k], before[k]) for k in now if k.startswith("pooler")), (
        "only a classifier reads it"
    )
    assert not np.allclose(
        now["embeddings.word_embeddings.weight"], before["embeddings.word_embeddings.weight"]
    )
    assert AutoTokenizer.from_pretrained(adapted.encoder).mask_token == "[MASK]"
    assert not list(adapted.encoder.glob("*.bin"))
    assert text.adapt(head_steps=150).published.found


def test_an_encoder_with_a_head_keeps_it(text: Text, with_head: Path) -> None:
    adapted = text.adapt(encoder=with_head, max_steps=12)
    assert (adapted.head, adapted.head_steps, adapted.steps) == ("its own", 0, 12)
    assert len(adapted.summary().splitlines()) == 1
    masked = load_masked(adapted.encoder, text.project())
    assert not masked.new_head
    texts = select_texts(text.project(), text.curated, text.splits)
    assert masked.perplexity(texts.held_out) == pytest.approx(adapted.perplexity.after, rel=1e-4)


class TestPerplexity:
    def test_of_a_model_that_knows_nothing_it_is_the_size_of_the_vocabulary(
        self, text: Text
    ) -> None:
        import torch

        masked = load_masked(text.encoder, text.project())
        with torch.no_grad():
            masked.model.cls.predictions.transform.LayerNorm.weight.zero_()
        found = masked.perplexity([r.text for r in UNLABELLED])
        assert found == pytest.approx(masked.model.config.vocab_size, rel=1e-4)

    def test_the_masks_are_the_same_at_each_call(self, text: Text) -> None:
        masked, texts = load_masked(text.encoder, text.project()), [r.text for r in UNLABELLED]
        first = masked.perplexity(texts)
        assert first == masked.perplexity(texts)
        other = dataclasses.replace(masked, settings=text.project(seed=1).adapt)
        assert first != other.perplexity(texts)


class TestWhatIsRead:
    def test_neither_dev_nor_test_nor_what_repeats_them(
        self, tmp_path: Path, encoder: Path
    ) -> None:
        repeats = [Record.create("Note: " + r.text, None, "unlabelled") for r in (DEV[0], TEST[0])]
        text = Text(tmp_path, encoder, unlabelled=[*UNLABELLED, *repeats])
        texts = select_texts(text.project(), text.curated, text.splits)
        read = {*texts.training, *texts.held_out}
        assert texts.data.leaks == 2 and not {r.text for r in (*DEV, *TEST, *repeats)} & read
        assert not set(texts.training) & set(texts.held_out)
        assert len(texts.training) == texts.data.rows
        assert len(texts.held_out) == texts.data.held_out

    def test_rows_is_a_cap_and_unlabelled_text_goes_first(self, text: Text) -> None:
        texts = select_texts(text.project(max_rows=25), text.curated, text.splits)
        assert len(texts.training) == 25
        assert {*texts.training, *texts.held_out} <= {r.text for r in UNLABELLED}

    def test_without_unlabelled_text_training_text_is_held_out(
        self, tmp_path: Path, encoder: Path
    ) -> None:
        text = Text(tmp_path, encoder, unlabelled=[])
        texts = select_texts(text.project(), text.curated, text.splits)
        assert texts.data.held_out_from == "training"
        assert len(texts.held_out) == 6 and len(texts.training) == 24

    def test_too_little_text_is_said(self, tmp_path: Path, encoder: Path) -> None:
        text = Text(tmp_path, encoder, unlabelled=[])
        text.curated = curated_of(tmp_path, TRAINING[:9])
        with pytest.raises(UserError, match=r"adapt.epochs is 4.*8 texts.*data.unlabelled"):
            text.adapt()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("sealed", [True, False])
def test_a_killed_adaptation_goes_on_and_ends_the_same(
    sealed: bool, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = text.adapt("whole", max_steps=20)
    real, seen = atomic.seal, []

    def seal(directory: Path, about: dict[str, Any] | None = None) -> str:
        if directory.name.startswith("checkpoint-"):
            seen.append(directory)
        if len(seen) == 3 and not sealed:
            raise Stopped
        digest = real(directory, about)
        if len(seen) == 3:
            raise Stopped
        return digest

    with monkeypatch.context() as m:
        m.setattr(atomic, "seal", seal)
        with pytest.raises(Stopped):
            text.adapt("stopped", max_steps=20)
    resumed = text.adapt("stopped", max_steps=20)
    assert resumed.resumed_from == (6 if sealed else 4)
    assert resumed.perplexity == whole.perplexity
    a, b = weights(whole), weights(resumed)
    assert a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


def test_sigterm_leaves_a_checkpoint_of_the_step_in_flight(text: Text) -> None:
    whole, heard = text.adapt("whole", max_steps=20), []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    asked: list[int] = []

    def progress(done: int, total: int, note: str) -> None:
        if total == 20 and done == 7 and not asked:
            asked.append(done)
            signal.raise_signal(signal.SIGTERM)

    try:
        with pytest.raises(Terminated, match="stopped at step 7"):
            text.adapt("stopped", max_steps=20, progress=progress)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1], "passed on"
    resumed = text.adapt("stopped", max_steps=20)
    assert resumed.resumed_from == 7
    a, b = weights(whole), weights(resumed)
    assert all((a[k] == b[k]).all() for k in a)


class TestFailures:
    @staticmethod
    def nothing_kept(text: Text) -> bool:
        return not list((text.home / "stages").glob("adapt/*"))

    @pytest.mark.parametrize("weight", [True, False])
    def test_what_is_no_number_is_said_and_not_kept(
        self, weight: bool, text: Text, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch
        from transformers import Trainer

        real = Trainer.training_step

        def step(self: Any, model: Any, *given: Any, **named: Any) -> Any:
            loss = real(self, model, *given, **named)
            if self.state.global_step == 3:  # as a step too long leaves it
                if not weight:
                    return loss * float("nan")
                next(
                    p
                    for n, p in model.named_parameters()
                    if "pooler" in n or "word_embeddings" in n
                ).data[0] = torch.inf
            return loss

        monkeypatch.setattr(Trainer, "training_step", step)
        with pytest.raises(
            UserError,
            match=r"the adaptation failed: .* not a number at step \d+; lower adapt.learning_rate",
        ):
            text.adapt(max_steps=20)
        assert self.nothing_kept(text)

    def test_too_little_memory(self, text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch
        from transformers import Trainer

        def step(*_: Any, **__: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(Trainer, "training_step", step)
        with pytest.raises(
            UserError, match=r"out of memory with 8 texts per step: lower adapt.batch_size"
        ):
            text.adapt(max_steps=20)
        assert self.nothing_kept(text)

    def test_one_device_is_used_of_several(
        self, text: Text, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import TrainingArguments

        from tasks.train.adaptation.pretrain import training_arguments

        monkeypatch.setattr(
            TrainingArguments, "__post_init__", lambda self: setattr(self, "_n_gpu", 4)
        )
        masked = load_masked(text.encoder, text.project())
        assert training_arguments(masked, work=text.home)._n_gpu == 1


class TestRefusals:
    def test_no_mask_token(self, text: Text, tmp_path: Path) -> None:
        bad = tmp_path / "bad"
        shutil.copytree(text.encoder, bad)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            settings = json.loads((bad / name).read_text())
            settings.pop("mask_token", None)
            (bad / name).write_text(json.dumps(settings))
        tokenizer = json.loads((bad / "tokenizer_config.json").read_text())
        (bad / "tokenizer_config.json").write_text(
            json.dumps({**tokenizer, "tokenizer_class": "PreTrainedTokenizerFast"})
        )
        with pytest.raises(UserError, match=r"has no mask token.*adapt.epochs to 0"):
            text.adapt(encoder=bad)

    def test_no_encoder(self, text: Text, tmp_path: Path) -> None:
        bad = tmp_path / "bad"
        bad.mkdir()
        with pytest.raises(UserError, match=r"bad can't be adapted.*adapt.epochs"):
            text.adapt(encoder=bad)

    def test_weights_that_do_not_fit(self, text: Text, tmp_path: Path) -> None:
        bad = tmp_path / "bad"
        shutil.copytree(text.encoder, bad)
        config = json.loads((bad / "config.json").read_text())
        (bad / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
        with pytest.raises(
            UserError, match=r"bad has weights that do not fit its config.json.*would be random"
        ):
            text.adapt(encoder=bad)
