"""The model directory: a standard Hugging Face directory, plus `reseed.json` and `manifest.json`. No pickle, no code.

The calibration is folded into the head, so any Hugging Face tool sees calibrated probabilities: of one label a text by
softmax, of label sets (`problem_type` in config.json) by sigmoid, with one half as every label's threshold.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.labels import MULTI_LABEL, convert_answer, decode, predict_codes
from tasks.records import Label
from tasks.stage import StageResult

if TYPE_CHECKING:
    import numpy as np

    from tasks.model.inference.backends import Backend

ABOUT = "reseed.json"
# .model: a SentencePiece vocabulary; .onnx, .data: a graph, and its weights where they are large
ALLOWED = {".safetensors", ".json", ".txt", ".model", ".md", ".onnx", ".data"}
ADAPTER = "adapter_config.json"  # names another model, which transformers would load in its place
CODE = {"auto_map", "custom_pipelines"}
NO_SETTINGS = {
    ABOUT,
    atomic.MANIFEST,
    "tokenizer.json",
    "vocab.json",
}  # words and labels, which may be called anything


@dataclass(frozen=True, slots=True)
class BundleRef:
    """A bundle's directory, and the digest that its files must have."""

    directory: Path
    digest: str


class BundleResult(StageResult):
    """A stage that wrote a bundle; `bundle` is the digest of its files."""

    bundle: str

    @property
    def bundle_directory(self) -> Path:
        return self.directory / "bundle"

    @property
    def ref(self) -> BundleRef:
        return BundleRef(self.bundle_directory, self.bundle)


class UnsafeBundle(CorruptDirectory):
    """A bundle that holds a file or a setting that could run code."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable label of a text, its probability, and every label's probability."""

    label: str
    score: float
    scores: dict[str, float]

    @property
    def answer(self) -> Label:
        return self.label


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The labels of a text whose probability is one half or more, and every label's own probability."""

    labels: tuple[str, ...]
    scores: dict[str, float]

    @property
    def answer(self) -> Label:
        return self.labels


def save_bundle(model: Any, tokenizer: Any, directory: Path, *, about: dict[str, Any]) -> str:
    """Write the bundle into the empty `directory` and return its digest. `about` holds JSON values: labels,
    descriptions, data digests, base model, metrics."""
    model.to("cpu").save_pretrained(directory, safe_serialization=True)
    tokenizer.save_pretrained(directory)
    atomic.write_json(directory / ABOUT, about)
    return atomic.seal(directory)


def check_bundle(directory: Path, *, digest: str | None = None) -> dict[str, Any]:
    """The bundle's `reseed.json`, after its files matched the manifest and nothing in it could run code.

    Raises CorruptDirectory when a file differs or `digest` is not the bundle's; UnsafeBundle for a pickle, a script, a link or a
    pipe, and for settings that make transformers look for code or weights elsewhere.
    """
    for path in directory.rglob("*"):
        plain = path.is_dir() or (
            path.is_file() and path.suffix.lower() in ALLOWED and path.name != ADAPTER
        )
        if path.is_symlink() or not plain:
            raise UnsafeBundle(
                f"{path} has no place in a bundle (allowed: {', '.join(sorted(ALLOWED))})"
            )
    manifest = atomic.verify(directory)
    if digest is not None and manifest["digest"] != digest:
        raise CorruptDirectory(
            f"{directory} is bundle {manifest['digest'][:12]}, not the expected {digest[:12]}"
        )
    try:
        for path in directory.rglob("*.json"):
            asked = None if path.name in NO_SETTINGS else _asks_for_code(atomic.read_json(path))
            if asked:
                raise UnsafeBundle(f"{path} asks for custom code ({asked})")
        about: dict[str, Any] = atomic.read_json(directory / ABOUT)
    except (ValueError, OSError, RecursionError) as e:
        raise CorruptDirectory(f"{directory} holds a file that is no JSON: {e}") from None
    return about


def _asks_for_code(value: Any) -> str | None:
    """The setting, at any depth, that names code to be loaded: `auto_map`, or a kernel of the hub as an implementation."""
    inner = list(value.items()) if isinstance(value, dict) else []
    for key, v in inner:
        if key in CODE or ("_implementation" in key and "/" in str(v)):
            return str(key)
    nested = [v for key, v in inner if key not in {"id2label", "label2id"}] if inner else value
    return (
        next(filter(None, map(_asks_for_code, nested)), None) if isinstance(nested, list) else None
    )


class Classifier:
    """A loaded bundle. Not safe to share between threads while loading; answering is, with ONNX Runtime."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        labels: list[str],
        max_length: int,
        *,
        backend: Backend | None = None,
        multi_label: bool = False,
    ) -> None:
        from tasks.model.inference.backends import Torch

        self.backend, self.multi_label = backend or Torch(model, tokenizer), multi_label
        self._tokenizer, self.labels, self.max_length = tokenizer, labels, max_length

    @classmethod
    def load(
        cls, directory: Path, *, digest: str | None = None, torch_only: bool = False
    ) -> Classifier:
        """The verified classifier in `directory`, with the backend that its `reseed.json` names, or torch where it names
        none, onnxruntime is missing or `torch_only` asks for the weights themselves. Raises what `check` raises."""
        from transformers import AutoConfig, AutoTokenizer

        about = check_bundle(directory, digest=digest)
        local = {"local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(directory, **local)
        tokenizer = AutoTokenizer.from_pretrained(directory, **local)
        labels = [config.id2label[i] for i in range(config.num_labels)]
        multi = config.problem_type == MULTI_LABEL
        backend = _backend(
            directory,
            {} if torch_only else about.get("inference", {}),
            tokenizer,
            len(labels),
            multi,
        )
        return cls(
            None, tokenizer, labels, int(about["max_length"]), backend=backend, multi_label=multi
        )

    def with_backend(self, backend: Backend) -> Classifier:
        """The same classifier with another backend."""
        return self._with(backend, self.max_length)

    def with_max_length(self, max_length: int) -> Classifier:
        """The same classifier, which cuts a text at so many tokens, or at what its encoder can read where that is less.

        It has to answer through torch: a graph may have been measured on shorter texts alone.
        """
        from tasks.encoder.embed import max_input_length
        from tasks.model.inference.backends import Torch

        assert isinstance(self.backend, Torch), self.backend.name
        return self._with(
            self.backend, min(max_length, max_input_length(self.backend.model, self._tokenizer))
        )

    def _with(self, backend: Backend, max_length: int) -> Classifier:
        how: dict[str, Any] = {"backend": backend, "multi_label": self.multi_label}
        return Classifier(None, self._tokenizer, self.labels, max_length, **how)

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Shape (texts, labels), float32, in the order of `texts`; no row depends on another. Rows sum to 1, or of label
        sets each label has a probability of its own."""
        if not texts:
            import numpy as np

            return np.zeros((0, len(self.labels)), dtype=np.float32)
        encoded = self._tokenizer(texts, truncation=True, max_length=self.max_length)
        return self.backend.probabilities(dict(encoded))

    def first_identical(self, texts: list[str]) -> list[int]:
        """For each text the place of the first one that is read as the same tokens: both get the same answer."""
        if not texts:
            return []
        encoded = self._tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        first: dict[tuple[int, ...], int] = {}
        return [first.setdefault(tuple(ids), i) for i, ids in enumerate(encoded)]

    def answers(self, p: np.ndarray, *, multi_label: bool) -> list[Label]:
        """What the probabilities `p`, shape (texts, labels), decide for, as a project of the kind `multi_label` says it: a
        bundle may be from before the project had several labels a text."""
        said = decode(predict_codes(p, multi_label=self.multi_label), self.labels)
        return [convert_answer(a, multi_label=multi_label) for a in said]

    def predict(self, texts: list[str]) -> list[Prediction] | list[LabelSet]:
        """One prediction a text, in their order."""
        p = self.probabilities(texts)
        answers = decode(predict_codes(p, multi_label=self.multi_label), self.labels)
        scores = [
            {k: round(float(v), 6) for k, v in zip(self.labels, row, strict=True)} for row in p
        ]
        if self.multi_label:
            return [LabelSet(tuple(own), s) for own, s in zip(answers, scores, strict=True)]
        return [
            Prediction(str(label), s[str(label)], s)
            for label, s in zip(answers, scores, strict=True)
        ]


def _backend(
    directory: Path, chosen: dict[str, Any], tokenizer: Any, labels: int, multi_label: bool
) -> Backend:
    from transformers import AutoModelForSequenceClassification

    from tasks.model.inference.backends import BATCH_TOKENS, Onnx, Torch
    from tasks.model.inference.export import FILES

    name, threads = chosen.get("backend", "torch"), int(chosen.get("threads", 0))
    if name in FILES:
        try:
            path = directory / FILES[name]
            return Onnx(path, name=name, labels=labels, threads=threads, multi_label=multi_label)
        except ImportError:
            sys.stderr.write(
                f"onnxruntime is not installed, so torch answers in place of {name}: slower; pip install onnxruntime\n"
            )
    model = AutoModelForSequenceClassification.from_pretrained(
        directory, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    return Torch(
        model,
        tokenizer,
        batch_tokens=int(chosen.get("batch_tokens", BATCH_TOKENS)),
        threads=threads,
    )
