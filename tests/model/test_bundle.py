"""The model directory: what was saved is what answers, and whatever was tampered with is refused before it is loaded."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.model import bundle, predict
from tasks.model.bundle import Classifier, UnsafeBundle, check_bundle
from tests.conftest import ROOT
from tests.kit import toy

ABOUT = {"labels": toy.LABELS, "max_length": 32, "base_model": "tiny"}


@pytest.fixture(scope="module")
def saved(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A bundle and its digest."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    names = dict(enumerate(toy.LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, num_labels=3, id2label=names
    )
    directory = tmp_path_factory.mktemp("bundle") / "bundle"
    return directory, bundle.save_bundle(
        model, AutoTokenizer.from_pretrained(encoder), directory, about=ABOUT
    )


@pytest.fixture
def copy(saved: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


@pytest.fixture(scope="module")
def classifier(saved: tuple[Path, str]) -> Classifier:
    return Classifier.load(saved[0], digest=saved[1])


def texts(n: int = 12, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [
        toy.sentence(toy.REAL[rng.choice(list(toy.LABELS))], rng, rng.randrange(1, 60))
        for _ in range(n)
    ]


class TestSaved:
    def test_what_was_said_of_it_comes_back(self, saved: tuple[Path, str]) -> None:
        directory, digest = saved
        assert check_bundle(directory) == check_bundle(directory, digest=digest) == ABOUT
        present = {p.name for p in directory.iterdir()}
        assert {
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "reseed.json",
            "manifest.json",
        } <= present
        assert {p.suffix for p in directory.iterdir()} <= bundle.ALLOWED

    def test_labels_keep_their_order(self, classifier: Classifier) -> None:
        assert classifier.labels == list(toy.LABELS)

    def test_the_weights_answer_as_before_saving(
        self, classifier: Classifier, saved: tuple[Path, str]
    ) -> None:
        from transformers import pipeline

        plain = pipeline(
            "text-classification",
            model=str(saved[0]),
            tokenizer=str(saved[0]),
            device="cpu",
            top_k=None,
        )
        for told, ours in zip(
            plain(texts(), truncation=True, max_length=32), classifier.predict(texts()), strict=True
        ):
            assert {t["label"]: t["score"] for t in told} == pytest.approx(ours.scores, abs=1e-5)

    def test_the_digest_is_that_of_the_content(self, saved: tuple[Path, str], copy: Path) -> None:
        assert check_bundle(copy, digest=saved[1]) == ABOUT
        atomic.write_json(copy / bundle.ABOUT, {**ABOUT, "max_length": 16})
        assert atomic.seal(copy) != saved[1]


class TestAnswers:
    def test_same_text_same_scores_whatever_stands_beside_it(self, classifier: Classifier) -> None:
        asked = texts()
        alone = [classifier.predict([t])[0] for t in asked]
        together = classifier.predict(asked)
        among_long = classifier.predict([*texts(40, seed=1), *asked, "the " * 400])[40:-1]
        for one, other, third in zip(alone, together, among_long, strict=True):
            assert one.label == other.label == third.label
            assert one.scores == pytest.approx(other.scores, abs=1e-5)
            assert one.scores == pytest.approx(third.scores, abs=1e-5)

    def test_the_order_is_that_of_the_texts_and_rows_sum_to_one(
        self, classifier: Classifier
    ) -> None:
        asked = texts(70, seed=2)
        p = classifier.probabilities(asked)
        assert p.shape == (70, 3) and p.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
        assert p[::-1] == pytest.approx(classifier.probabilities(asked[::-1]), abs=1e-5)
        assert len({tuple(row.round(4)) for row in p}) > 60, "the texts get scores of their own"

    def test_the_label_is_the_most_probable(self, classifier: Classifier) -> None:
        for p in classifier.predict(texts()):
            assert (
                p.label == max(p.scores, key=lambda k: p.scores[k]) and p.score == p.scores[p.label]
            )
            assert list(p.scores) == list(toy.LABELS)

    def test_it_reads_max_length_tokens_and_no_more(self, classifier: Classifier) -> None:
        a, b, c = classifier.predict(
            ["the " * 40, "the " * 40 + toy.REAL["metal"][0], toy.REAL["metal"][0] + " the" * 40]
        )
        assert a.scores == b.scores != c.scores
        longer = classifier.with_max_length(50)
        a, b = longer.predict(["the " * 40, "the " * 40 + toy.REAL["metal"][0]])
        assert a.scores != b.scores and longer.max_length == 50
        assert classifier.with_max_length(10**6).max_length == 128, (
            "what its encoder has positions for"
        )

    @pytest.mark.parametrize("odd", ["", " \n", "\x00", "👩‍🔬" * 50, "中文", "x" * 20_000])
    def test_any_text_gets_a_label(self, odd: str, classifier: Classifier) -> None:
        (p,) = classifier.predict([odd])
        assert p.label in toy.LABELS and sum(p.scores.values()) == pytest.approx(1, abs=1e-5)

    def test_no_text_no_answer(self, classifier: Classifier) -> None:
        assert classifier.predict([]) == [] and classifier.probabilities([]).shape == (0, 3)


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def ask_for_code(path: Path) -> None:
    told = atomic.read_json(path)
    path.write_text(json.dumps({**told, "auto_map": {"AutoModel": "evil.Model"}}))


def say(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**atomic.read_json(path), **settings}))


def link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def link_folder(path: Path) -> None:
    (path.parent.parent / "folder").mkdir()
    path.symlink_to(path.parent.parent / "folder")


TAMPER: dict[str, Callable[[Path], Any]] = {
    "flipped byte in the weights": lambda d: flip(d / "model.safetensors"),
    "flipped byte in the config": lambda d: flip(d / "config.json", 3),
    "flipped byte in the tokenizer": lambda d: flip(d / "tokenizer.json"),
    "cut weights": lambda d: cut(d / "model.safetensors"),
    "cut reseed.json": lambda d: cut(d / "reseed.json"),
    "no weights": lambda d: (d / "model.safetensors").unlink(),
    "no manifest": lambda d: (d / "manifest.json").unlink(),
    "manifest is no JSON": lambda d: (d / "manifest.json").write_text("{"),
    "manifest is a list": lambda d: (d / "manifest.json").write_text("[]"),
    "manifest lists numbers": lambda d: (d / "manifest.json").write_text('{"files": [1]}'),
    "manifest lists no sizes": lambda d: (d / "manifest.json").write_text(
        '{"files": [{"path": "config.json"}]}'
    ),
    "a file too many": lambda d: (d / "added.json").write_text("{}"),
    "a file too many below": lambda d: (
        (d / "sub").mkdir(),
        (d / "sub" / "notes.txt").write_text("x"),
    ),
}

# these are refused even when the manifest was made anew to match
UNSAFE: dict[str, Callable[[Path], Any]] = {
    "pickle": lambda d: (d / "pytorch_model.bin").write_bytes(b"\x80\x04."),
    "pkl": lambda d: (d / "vocab.pkl").write_bytes(b"\x80\x04."),
    "script": lambda d: (d / "modeling.py").write_text("1"),
    "script in capitals": lambda d: (d / "MODELING.PY").write_text("1"),
    "script below": lambda d: ((d / "sub").mkdir(), (d / "sub" / "modeling.py").write_text("1")),
    "hidden script": lambda d: (d / ".modeling.py").write_text("1"),
    "no suffix": lambda d: (d / "weights").write_text("1"),
    "link to the weights": lambda d: link(d / "model.safetensors"),
    "link to a folder": lambda d: link_folder(d / "sub"),
    "auto_map in config.json": lambda d: ask_for_code(d / "config.json"),
    "auto_map in tokenizer_config.json": lambda d: ask_for_code(d / "tokenizer_config.json"),
    "auto_map further down": lambda d: say(
        d / "config.json", text_config={"x": [{"auto_map": {"AutoModel": "e.E"}}]}
    ),
    "a kernel of the hub": lambda d: say(d / "config.json", attn_implementation="somebody/kernel"),
    "a pipeline of its own": lambda d: say(
        d / "config.json", custom_pipelines={"x": {"impl": "e.E"}}
    ),
    "an adapter of another model": lambda d: (d / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "/x"}'
    ),
    "a pipe": lambda d: os.mkfifo(d / "more.json"),
}


@pytest.fixture(scope="module")
def pyfunc() -> Any:
    """mlflow/classifier.py, by its path, as MLflow loads it."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("classifier", ROOT / "mlflow" / "classifier.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def loaded(*_: Any, **__: Any) -> None:
        pytest.fail("it was loaded before it was refused")

    for name in ("AutoModelForSequenceClassification", "AutoTokenizer"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", loaded)


@pytest.mark.usefixtures("never_loaded")
class TestTampered:
    @pytest.mark.parametrize("how", TAMPER)
    def test_is_refused_before_it_is_loaded(self, how: str, copy: Path) -> None:
        TAMPER[how](copy)
        with pytest.raises(CorruptDirectory, match="copy"):
            Classifier.load(copy)

    @pytest.mark.parametrize("resealed", [False, True], ids=["as it was", "sealed anew"])
    @pytest.mark.parametrize("how", UNSAFE)
    def test_what_could_run_code_is_refused_whatever_the_manifest_says(
        self, how: str, resealed: bool, copy: Path
    ) -> None:
        UNSAFE[how](copy)
        if resealed:
            atomic.seal(copy)
        with pytest.raises(UnsafeBundle if resealed else CorruptDirectory):
            Classifier.load(copy)

    @pytest.mark.parametrize("how", UNSAFE)
    def test_so_does_what_mlflow_serves_it_with(self, how: str, copy: Path, pyfunc: Any) -> None:
        UNSAFE[how](copy)
        with pytest.raises(ValueError, match="the model is not loaded"):
            pyfunc._verify(copy, atomic.seal(copy))

    def test_mlflow_serves_no_bundle_without_its_digest(
        self, saved: tuple[Path, str], copy: Path, pyfunc: Any
    ) -> None:
        pyfunc._verify(copy, saved[1])
        for digest in (None, ""):
            with pytest.raises(ValueError, match="does not name its bundle"):
                pyfunc._verify(copy, digest)
        (copy / "added.json").write_text("{")
        with pytest.raises(ValueError, match=r"added\.json is not JSON"):
            pyfunc._verify(copy, atomic.seal(copy))

    def test_another_bundle_than_the_expected_is_refused(
        self, saved: tuple[Path, str], copy: Path
    ) -> None:
        flip(copy / "model.safetensors")
        digest = atomic.seal(copy)
        check_bundle(copy)
        with pytest.raises(
            CorruptDirectory, match=f"is bundle {digest[:12]}, not the expected {saved[1][:12]}"
        ):
            Classifier.load(copy, digest=saved[1])

    def test_a_changed_manifest_does_not_hide_a_changed_file(
        self, saved: tuple[Path, str], copy: Path
    ) -> None:
        """The digest is over the list of files, so a list that was changed by hand has another."""
        flip(copy / "model.safetensors")
        manifest = atomic.read_json(copy / atomic.MANIFEST)
        (entry,) = [f for f in manifest["files"] if f["path"] == "model.safetensors"]
        entry["sha256"] = atomic.sha256_file(copy / "model.safetensors")
        atomic.write_json(copy / atomic.MANIFEST, manifest)
        with pytest.raises(CorruptDirectory, match="digest"):
            check_bundle(copy, digest=saved[1])

    def test_a_label_may_be_called_anything(self, copy: Path, pyfunc: Any) -> None:
        say(copy / "config.json", label2id={"auto_map": 0}, id2label={"0": "auto_map"})
        say(copy / bundle.ABOUT, labels={"auto_map": "a kind of map"})
        pyfunc._verify(copy, atomic.seal(copy))
        assert check_bundle(copy)["labels"] == {"auto_map": "a kind of map"}

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(CorruptDirectory, match="manifest"):
            Classifier.load(tmp_path / "nowhere")


class TestCommand:
    """python -m tasks.model.predict, in this process; the registry's tests run it in its own."""

    @pytest.fixture
    def ask(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., tuple[int, str, str]]:
        def run(given: str, *arguments: str | Path) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "stdin", io.StringIO(given))
            code = predict.main([str(a) for a in arguments])
            return code, *capsys.readouterr()

        return run

    def test_a_json_line_an_answer(
        self, ask: Any, saved: tuple[Path, str], classifier: Classifier
    ) -> None:
        asked = [*texts(3), "two\nlines", ""]
        code, out, _ = ask(
            "".join(json.dumps(t) + "\n" for t in asked) + "\n",
            "--bundle",
            saved[0],
            "--digest",
            saved[1],
        )
        assert code == 0
        told = [json.loads(line) for line in out.splitlines()]
        assert [t["label"] for t in told] == [p.label for p in classifier.predict(asked)]
        for t in told:
            assert set(t) == {"label", "score", "scores"} and t["score"] == max(
                t["scores"].values()
            )

    @pytest.mark.parametrize("how", ["tampered", "another", "nowhere"])
    def test_a_bundle_that_cannot_be_trusted_is_exit_1(
        self, how: str, ask: Any, saved: tuple[Path, str], copy: Path
    ) -> None:
        if how != "another":
            flip(copy / "model.safetensors") if how == "tampered" else shutil.rmtree(copy)
        digest = "0" * 64 if how == "another" else saved[1]
        code, out, err = ask('"a text"\n', "--bundle", copy, "--digest", digest)
        assert code == 1 and out == "" and err.startswith(f"{copy}: ") and err.count("\n") == 1

    @pytest.mark.parametrize("line", ["not JSON", "7", '["a"]', "null", '"\\ud800"'])
    def test_a_line_that_is_no_text_is_exit_2(
        self, line: str, ask: Any, saved: tuple[Path, str]
    ) -> None:
        code, out, err = ask(f'"fine"\n{line}\n', "--bundle", saved[0])
        assert code == 2 and out == "" and "line 2" in err and err.count("\n") == 1
