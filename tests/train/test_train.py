"""Fine-tuning on the tiny encoder: it learns, it calibrates, and a run that was stopped ends as if it had not been."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import atomic
from tasks.errors import UserError
from tasks.model.bundle import Classifier, check_bundle
from tasks.model.inference.backends import Torch
from tasks.records import Record
from tasks.statistics.calibration import Calibration, fit_temperature
from tasks.train.__main__ import main
from tasks.train.resume import latest_checkpoint
from tests.conftest import ROOT
from tests.kit import toy
from tests.kit.training import (
    BATCHES,
    DEV,
    TRAIN,
    Stopped,
    Tune,
    rows,
    same,
    stop_after,
    weights,
    write_data,
)


class TestLearning:
    def test_it_learns_what_carries_over_to_real_words(self, tune: Tune, encoder: Path) -> None:
        trained = tune()
        assert trained.dev_f1_macro > 0.9
        assert (trained.steps, trained.resumed_from, trained.precision) == (3 * BATCHES, 0, "fp32")
        backend = Torch(trained.model, trained.tokenizer)
        said = Classifier(backend, trained.tokenizer, list(toy.LABELS), 32).predict(
            [r.text for r in TRAIN]
        )
        assert sum(p.label == r.label for p, r in zip(said, TRAIN, strict=True)) >= 0.9 * len(TRAIN)

    def test_the_history_has_every_epoch(self, tune: Tune) -> None:
        told = tune().history
        names = {name for _, name, _ in told}
        assert names == {
            "train.loss",
            "train.learning_rate",
            "train.grad_norm",
            "dev.loss",
            "dev.f1_macro",
        }
        assert [step for step, name, _ in told if name == "dev.f1_macro"] == [
            BATCHES,
            2 * BATCHES,
            3 * BATCHES,
        ]
        losses = [value for _, name, value in told if name == "train.loss"]
        assert losses[-1] < losses[0]

    def test_the_seed_decides(self, tune: Tune) -> None:
        first = tune("a")
        assert same(first, tune("b")) and not same(first, tune("c", seeds=(1,)))

    def test_the_best_epoch_is_kept(
        self, tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from safetensors.numpy import load_file

        from tasks.train import fine_tune as module

        scores = iter([0.2, 0.9, 0.4, 0.9])
        monkeypatch.setattr(
            module, "_f1_metric", lambda labels: lambda outcome: {"f1_macro": next(scores)}
        )
        trained = tune()
        kept = {
            n: load_file(tmp_path / "work" / f"checkpoint-{n}" / "model.safetensors")
            for n in (12, 18)
        }
        name = "bert.encoder.layer.0.attention.self.query.weight"
        assert np.array_equal(weights(trained)[name].numpy(), kept[12][name])
        assert not np.array_equal(kept[12][name], kept[18][name])

    def test_it_stops_when_dev_gets_no_better(self, tune: Tune) -> None:
        assert tune("slow", epochs=8, learning_rate=1e-9, patience=2).steps == 3 * BATCHES
        assert tune("longer", epochs=5, learning_rate=1e-9, patience=4).steps == 5 * BATCHES

    def test_long_texts_are_cut_at_max_length(self, tune: Tune) -> None:
        long = [replace(r, text=r.text + " the" * 500) for r in TRAIN]
        assert tune(train=long, epochs=1).tokenizer.model_max_length == 32


class TestRefusals:
    def test_no_rows(self, tune: Tune) -> None:
        with pytest.raises(UserError, match="no row to train on"):
            tune(train=[])

    def test_max_length_beyond_the_encoder(self, tune: Tune) -> None:
        with pytest.raises(UserError, match=r"train.max_length is 129.*128"):
            tune(max_length=129)

    @pytest.mark.parametrize(
        "what",
        [
            "empty",
            "torn config",
            "no weights",
            "torn weights",
            "pickle",
            "custom code",
            "no tokenizer",
        ],
    )
    def test_an_encoder_that_is_no_model(
        self, what: str, tune: Tune, encoder: Path, tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad"
        shutil.copytree(encoder, bad)
        model, config = bad / "model.safetensors", bad / "config.json"
        if what == "empty":
            shutil.rmtree(bad)
            bad.mkdir()
        elif what == "torn config":
            config.write_text(config.read_text()[:40])
        elif what == "no weights":
            model.unlink()
        elif what == "torn weights":
            model.write_bytes(model.read_bytes()[:-1000])
        elif what == "pickle":
            import torch

            torch.save({}, bad / "pytorch_model.bin")
            model.unlink()
        elif what == "custom code":
            code = {
                "auto_map": {"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.M"},
                "model_type": "own",
            }
            config.write_text(json.dumps({**atomic.read_json(config), **code}))
            (bad / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        else:
            for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
                (bad / name).unlink(missing_ok=True)
        with pytest.raises(UserError, match="bad can't be loaded as a classifier"):
            tune(encoder=bad)
        assert not (tmp_path / "ran").exists()

    def test_bf16_where_there_is_none(self, tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
        from tasks.train import arguments as module

        monkeypatch.setattr(module, "has_bf16", lambda: False)
        with pytest.raises(UserError, match=r"train.precision is bf16"):
            tune(precision="bf16")
        assert tune("auto", precision="auto", epochs=1).precision == "fp32"


class TestResuming:
    @pytest.mark.parametrize(
        ("stopped", "sealed", "at"),
        [(1, True, 1), (2, True, 2), (3, True, 3), (2, False, 1), (1, False, 0)],
    )
    def test_it_ends_bit_for_bit_as_an_uninterrupted_run(
        self, stopped: int, sealed: bool, at: int, tune: Tune, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = tune("whole")
        with monkeypatch.context() as m:
            stop_after(m, stopped, sealed=sealed)
            with pytest.raises(Stopped):
                tune("stopped")
        resumed = tune("stopped")
        assert (resumed.resumed_from, resumed.steps) == (at * BATCHES, whole.steps)
        assert same(resumed, whole) and resumed.temperature == whole.temperature
        assert resumed.dev_f1_macro == whole.dev_f1_macro
        # not train.loss: the Trainer averages it since it last logged, or since it resumed
        assert [h for h in resumed.history if h[1] != "train.loss"] == [
            h for h in whole.history if h[1] != "train.loss"
        ]

    def test_patience_is_not_renewed(self, tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as m:
            stop_after(m, 2)
            with pytest.raises(Stopped):
                tune(epochs=8, learning_rate=1e-9, patience=2)
        assert tune(epochs=8, learning_rate=1e-9, patience=2).steps == 3 * BATCHES

    @pytest.fixture
    def stopped(self, tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """The work folder of a run that was stopped after its second checkpoint."""
        with monkeypatch.context() as m:
            stop_after(m, 2)
            with pytest.raises(Stopped):
                tune()
        assert sorted(p.name for p in (tmp_path / "work").glob("checkpoint-*")) == [
            "checkpoint-12",
            "checkpoint-6",
        ]
        return tmp_path / "work"

    @pytest.mark.parametrize(
        "how", ["no manifest", "flipped byte", "cut short", "file missing", "torn manifest"]
    )
    def test_a_torn_checkpoint_is_removed_and_not_resumed_from(
        self, how: str, stopped: Path, tune: Tune
    ) -> None:
        torn = stopped / "checkpoint-12"
        state = torn / "optimizer.pt"
        if how == "no manifest":
            (torn / atomic.MANIFEST).unlink()
        elif how == "flipped byte":
            data = bytearray((torn / "model.safetensors").read_bytes())
            data[-1] ^= 1
            (torn / "model.safetensors").write_bytes(data)
        elif how == "cut short":
            state.write_bytes(state.read_bytes()[:-1])
        elif how == "file missing":
            state.unlink()
        else:
            (torn / atomic.MANIFEST).write_text('{"files": [')
        assert latest_checkpoint(stopped) == stopped / "checkpoint-6"
        assert not torn.exists()
        assert tune().resumed_from == 6

    def test_the_best_weights_are_verified_too(
        self, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The newest checkpoint names an older one as the best, whose weights the run would end with."""
        with monkeypatch.context() as m:
            stop_after(m, 2)
            with pytest.raises(Stopped):
                tune(batch_size=2)
        state = atomic.read_json(tmp_path / "work" / "checkpoint-48" / "trainer_state.json")
        assert state["best_model_checkpoint"].endswith("checkpoint-24")
        best = tmp_path / "work" / "checkpoint-24" / "model.safetensors"
        data = bytearray(best.read_bytes())
        data[-1] ^= 0x40
        best.write_bytes(data)
        resumed = tune(batch_size=2)
        assert resumed.resumed_from == 0 and same(resumed, tune("whole", batch_size=2))

    def test_none_is_none(self, tmp_path: Path) -> None:
        assert latest_checkpoint(tmp_path / "nowhere") is None
        (tmp_path / "checkpoint-3").mkdir()
        assert latest_checkpoint(tmp_path) is None and not (tmp_path / "checkpoint-3").exists()


class TestCalibration:
    @staticmethod
    def loss(logits: np.ndarray, y: np.ndarray, t: float) -> float:
        from scipy.special import log_softmax

        return float(-log_softmax(logits / t, axis=1)[np.arange(len(y)), y].mean())

    @pytest.mark.parametrize("scale", [0.6, 1.0, 3.0, 6.0])
    def test_the_temperature_is_that_of_a_grid_search(self, scale: float) -> None:
        rng = np.random.default_rng(0)
        honest = rng.normal(size=(2000, 4)) * 2
        odds = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
        y = np.array([rng.choice(4, p=p) for p in odds])
        logits = honest * scale  # `scale` times too sure of itself
        grid = np.geomspace(0.5, 8, 2000)
        best = grid[np.argmin([self.loss(logits, y, t) for t in grid])]
        assert fit_temperature(logits, y) == pytest.approx(best, rel=0.01)
        assert fit_temperature(logits, y) == pytest.approx(scale, rel=0.15)

    def test_what_is_always_right_is_as_sure_as_its_rows_allow(self) -> None:
        y = np.arange(12) % 3
        for scale in (0.5, 2, 10):
            right = np.eye(3)[y] * scale
            best = scale / np.log(13 / (1 / 2))  # softmax gives 13/14 there
            assert fit_temperature(right, y) == pytest.approx(best, rel=0.01)

    def test_it_stays_within_its_bounds(self) -> None:
        y = np.arange(12) % 3
        assert fit_temperature(np.eye(3)[y] * 1e-3, y) == pytest.approx(0.05, rel=0.01)
        assert fit_temperature(np.eye(3)[(y + 1) % 3] * 500, y) == pytest.approx(20, rel=0.01)

    def test_folding_divides_the_logits(self, encoder: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3).eval()
        torch.nn.init.normal_(model.classifier.bias)
        ids = torch.arange(10, 40).reshape(3, 10)
        with torch.inference_mode():
            before = model(ids).logits
            assert Calibration(2.5).fold(model)
            after = model(ids).logits
        assert torch.allclose(after, before / 2.5, atol=1e-6) and not torch.allclose(after, before)

    def test_nothing_to_fold_into_changes_nothing(self, encoder: Path) -> None:
        import torch

        model = torch.nn.Sequential(torch.nn.Linear(4, 7))
        model.config = type("Config", (), {"num_labels": 3})()  # type: ignore[assignment]
        before = model[0].weight.clone()
        assert not Calibration(2.0).fold(model) and torch.equal(model[0].weight, before)

    def test_a_trained_model_answers_with_its_temperature(
        self, tune: Tune, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tasks.statistics import calibration as module

        fitted = tune("fitted", epochs=1)
        monkeypatch.setattr(module, "fit_temperature", lambda logits, y: 4.0)
        other = tune("other", epochs=1)
        head = "classifier.weight"
        assert other.temperature == 4.0
        assert np.allclose(
            weights(other)[head].numpy() * 4.0,
            weights(fitted)[head].numpy() * fitted.temperature,
            rtol=1e-5,
        )


# a bare GPU machine: what only flows/ and the other stages need is absent, and `import mlflow` finds our folder
BARE = f"""
import pathlib, sys
from importlib.machinery import PathFinder
ABSENT = {{"prefect", "boto3", "botocore", "openai", "tenacity", "datasketch", "matplotlib", "psycopg", "xllamacpp", "fastapi"}}
class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            return None
        return super().find_spec(name, [{str(ROOT)!r}] if name == "mlflow" else path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
pathlib.Path(__file__).with_name("loaded").touch()
"""


PEAKS = """
import resource, sys
from tasks.train.__main__ import main
for data in sys.argv[1:3]:
    assert main(["--data", data, "--out", data + "-out", *sys.argv[3:]]) == 0
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
class TestCommand:
    """python -m tasks.train"""

    @staticmethod
    def arguments(data: Path, out: Path, encoder: Path, **options: Any) -> list[str]:
        quick = {"epochs": 3, "learning_rate": 3e-3, "max_length": 32, "batch_size": 8, **options}
        given = [f"--{name.replace('_', '-')}={value}" for name, value in quick.items()]
        return ["--data", str(data), "--out", str(out), "--model", str(encoder), *given]

    @pytest.mark.slow
    def test_on_a_bare_machine(self, tmp_path: Path, encoder: Path) -> None:
        bare = tmp_path / "bare"
        bare.mkdir()
        (bare / "sitecustomize.py").write_text(BARE)
        command = [
            sys.executable,
            "-m",
            "tasks.train",
            *self.arguments(write_data(tmp_path / "data"), tmp_path / "out", encoder),
        ]
        environment = {**os.environ, "PYTHONPATH": str(bare)}
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=200,
            env=environment,
            cwd=ROOT,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        assert (bare / "loaded").exists() and ran.stdout == "" and "step 18/18" in ran.stderr
        manifest = atomic.verify(tmp_path / "out")
        assert (
            manifest["figures"]["rows"] == len(TRAIN) and manifest["figures"]["dev_f1_macro"] > 0.9
        )
        assert {p.name for p in tmp_path.iterdir()} == {"bare", "data", "out"}, (
            "scratch files were left beside --out"
        )

        from transformers import pipeline

        folder = tmp_path / "out" / "bundle"
        about = check_bundle(folder, digest=manifest["figures"]["bundle"])
        assert about["labels"] == dict.fromkeys(sorted(toy.LABELS), "")
        texts = [r.text for r in DEV]
        plain = pipeline(
            "text-classification", model=str(folder), tokenizer=str(folder), device="cpu"
        )(texts)
        ours = Classifier.load(folder).predict(texts)
        assert [p["label"] for p in plain] == [p.label for p in ours]
        assert [p["score"] for p in plain] == pytest.approx([p.score for p in ours], abs=1e-5)
        assert sum(p.label == r.label for p, r in zip(ours, DEV, strict=True)) > 0.9 * len(DEV)

    @pytest.mark.slow
    def test_memory_does_not_grow_with_rows(self, tmp_path: Path, encoder: Path) -> None:
        """The peak of one process after a few rows, and after many: all that the command does, and two steps."""
        few, many = 4000, 40_000
        for n in (few, many):
            words = [toy.sentence(toy.WRITTEN[k], random.Random(0), n=60) for k in toy.LABELS]
            rows = (
                Record.create(f"{i} {words[i % 3]}", list(toy.LABELS)[i % 3], "seed")
                for i in range(n)
            )
            write_data(tmp_path / str(n), train=rows)
        quick = [
            "--model",
            str(encoder),
            "--max-steps",
            "2",
            "--max-length",
            "16",
            "--class-weights",
            '{"metal": 2.0}',
        ]
        command = [
            sys.executable,
            "-c",
            PEAKS,
            str(tmp_path / str(few)),
            str(tmp_path / str(many)),
            *quick,
        ]
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=600, cwd=ROOT, check=False
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        peaks = [int(mb) for mb in ran.stdout.split()]
        assert atomic.verify(tmp_path / f"{many}-out")["figures"]["rows"] == many
        assert peaks[1] - peaks[0] < 25, (
            f"{peaks} MB: the texts alone of the other rows are 14 MB, as records 60"
        )

    def two(self, capsys: pytest.CaptureFixture[str], arguments: list[str], *words: str) -> None:
        """Exit status 2 and one sentence that holds `words`."""
        assert main(arguments) == 2
        err = capsys.readouterr().err
        said = [line for line in err.splitlines() if not line.startswith("step ")]
        assert len(said) == 1 and all(w in said[0] for w in words), err

    def test_what_a_user_can_get_wrong(
        self, tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data, out = tmp_path / "data", tmp_path / "new" / "out"
        self.two(
            capsys,
            self.arguments(data, out, encoder),
            str(data / "train.jsonl"),
            "does not exist",
            "dev.jsonl",
        )
        write_data(data)
        self.two(capsys, self.arguments(data, out, tmp_path / "none"), "none", "does not exist")
        self.two(capsys, self.arguments(data, out, encoder, max_length=999), "999", "128")
        self.two(capsys, self.arguments(data, out, encoder, epochs=0), "--epochs", "0")
        self.two(
            capsys,
            self.arguments(data, out, encoder, seeds="[3,1]"),
            "--seeds [3, 1]",
            "'[3]'",
            "--out",
        )
        (data / "dev.jsonl").write_text("")
        self.two(capsys, self.arguments(data, out, encoder), str(data / "dev.jsonl"), "no rows")
        write_data(data, dev=[*DEV, Record.create("a heavy thing", "stone", "dev")])
        self.two(capsys, self.arguments(data, out, encoder), "dev.jsonl", "'stone'", "train.jsonl")
        write_data(
            data,
            train=[r for r in TRAIN if r.label == "metal"],
            dev=[r for r in DEV if r.label == "metal"],
        )
        self.two(capsys, self.arguments(data, out, encoder), "train.jsonl", "two labels")
        (data / "train.jsonl").write_text(json.dumps({"text": "", "label": "metal"}) + "\n")
        self.two(capsys, self.arguments(data, out, encoder), "train.jsonl", "empty text")
        assert not out.exists()
        out.mkdir(parents=True)
        write_data(data)
        self.two(capsys, self.arguments(data, out, encoder), str(out), "exists already")

    def test_a_stopped_run_goes_on_unless_its_data_changed(
        self, tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data, out = write_data(tmp_path / "data"), tmp_path / "out"
        arguments = self.arguments(data, out, encoder)
        with monkeypatch.context() as m:
            stop_after(m, 1)
            with pytest.raises(Stopped):
                main(arguments)
        assert not out.exists()
        assert main(arguments) == 0
        assert atomic.verify(out)["figures"]["resumed_from"] == BATCHES
        shutil.rmtree(out)
        with monkeypatch.context() as m:
            stop_after(m, 1)
            with pytest.raises(Stopped):
                main(arguments)
        write_data(data, train=rows(toy.WRITTEN, 16, "synthetic", seed=5))
        assert main(arguments) == 0
        assert atomic.verify(out)["figures"]["resumed_from"] == 0, (
            "it went on from the weights of other data"
        )
