"""The model directory: a standard Hugging Face one, plus `reseed.json` and `manifest.json`.

It holds no pickle and no code. The calibration is folded into the head, so any Hugging Face tool sees
calibrated probabilities: of single labels by softmax, of label sets (`problem_type` in config.json) by
sigmoid, where one half is every label's threshold.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks import atomic
from tasks.atomic import CorruptDirectory
from tasks.encoder.embed import max_input_length
from tasks.labels import MULTI_LABEL, convert_answer, decode, predict_codes
from tasks.model.inference.backends import BATCH_TOKENS, Backend, Encoded, Onnx, Torch
from tasks.model.inference.export import FILES
from tasks.records import Label
from tasks.stage import StageResult

ABOUT = "reseed.json"
# .model: a SentencePiece vocabulary; .onnx, .data: a graph, and its weights where they are large
ALLOWED = {".safetensors", ".json", ".txt", ".model", ".md", ".onnx", ".data"}
ADAPTER = "adapter_config.json"  # names another model, which transformers would load instead
CODE = {"auto_map", "custom_pipelines"}
# files of words and labels, which may have any name
NO_SETTINGS = {ABOUT, atomic.MANIFEST, "tokenizer.json", "vocab.json"}


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
        """The bundle."""
        return self.directory / "bundle"

    @property
    def ref(self) -> BundleRef:
        """The bundle with its digest."""
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
        """The label."""
        return self.label


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The labels of a text with a probability of one half or more, and every label's probability."""

    labels: tuple[str, ...]
    scores: dict[str, float]

    @property
    def answer(self) -> Label:
        """The labels."""
        return self.labels


def save_bundle(model: Any, tokenizer: Any, directory: Path, *, about: dict[str, Any]) -> str:
    """Write the bundle into the empty `directory`; returns its digest.

    `about`, JSON values, becomes `reseed.json`.
    """
    model.to("cpu").save_pretrained(directory, safe_serialization=True)
    tokenizer.save_pretrained(directory)
    atomic.write_json(directory / ABOUT, about)
    return atomic.seal(directory)


def check_bundle(directory: Path, *, digest: str | None = None) -> dict[str, Any]:
    """The bundle's `reseed.json`, once its files match the manifest and none could run code.

    Raises CorruptDirectory when a file differs or `digest` is not the bundle's; UnsafeBundle for a
    pickle, a script, a link or a pipe, and for settings that make transformers load code or weights from
    elsewhere.
    """
    for path in directory.rglob("*"):
        allowed = path.suffix.lower() in ALLOWED and path.name != ADAPTER
        if path.is_symlink() or not (path.is_dir() or (path.is_file() and allowed)):
            raise UnsafeBundle(
                f"{path} is not allowed in a bundle (allowed: {', '.join(sorted(ALLOWED))})"
            )
    manifest = atomic.verify(directory)
    if digest is not None and manifest["digest"] != digest:
        raise CorruptDirectory(
            f"{directory} is bundle {manifest['digest'][:12]}, not the expected {digest[:12]}"
        )
    try:
        for path in directory.rglob("*.json"):
            if path.name not in NO_SETTINGS and (key := _code_setting(atomic.read_json(path))):
                raise UnsafeBundle(f"{path} requests custom code ({key})")
        about: dict[str, Any] = atomic.read_json(directory / ABOUT)
    except (ValueError, OSError, RecursionError) as e:
        raise CorruptDirectory(f"{directory} holds a file that is not JSON: {e}") from None
    return about


def _code_setting(value: Any) -> str | None:
    """The setting, at any depth, that names code to load: `auto_map`, or a kernel on the hub."""
    if isinstance(value, dict):
        for key, v in value.items():
            if key in CODE or ("_implementation" in key and "/" in str(v)):
                return str(key)
        value = [v for key, v in value.items() if key not in {"id2label", "label2id"}]
    nested = map(_code_setting, value) if isinstance(value, list) else iter(())
    return next(filter(None, nested), None)


@dataclass(frozen=True, slots=True)
class Classifier:
    """A loaded bundle. With ONNX Runtime, threads may share it."""

    backend: Backend
    tokenizer: Any
    labels: list[str]
    max_length: int
    multi_label: bool = False

    @classmethod
    def load(
        cls, directory: Path, *, digest: str | None = None, torch_only: bool = False
    ) -> Classifier:
        """The verified classifier in `directory`, with the backend that `reseed.json` names.

        It answers through torch where none is named, onnxruntime is missing, or with `torch_only`.
        Raises what `check_bundle` raises.
        """
        from transformers import AutoConfig, AutoTokenizer

        about = check_bundle(directory, digest=digest)
        local = {"local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(directory, **local)
        tokenizer = AutoTokenizer.from_pretrained(directory, **local)
        labels = [config.id2label[i] for i in range(config.num_labels)]
        multi_label = config.problem_type == MULTI_LABEL
        chosen = {} if torch_only else about.get("inference", {})
        backend = _onnx(directory, chosen, len(labels), multi_label=multi_label)
        backend = backend or _torch(directory, chosen, tokenizer)
        return cls(backend, tokenizer, labels, int(about["max_length"]), multi_label)

    def with_backend(self, backend: Backend) -> Classifier:
        """The same classifier with another backend."""
        return replace(self, backend=backend)

    def with_max_length(self, max_length: int) -> Classifier:
        """The same classifier, reading this many tokens of a text, or as many as its encoder can.

        Its backend must be torch: a graph may have been measured on shorter texts only.
        """
        assert isinstance(self.backend, Torch), self.backend.name
        longest = max_input_length(self.backend.model, self.tokenizer)
        return replace(self, max_length=min(max_length, longest))

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Shape (texts, labels), float32; no row depends on another.

        Rows sum to 1; for label sets each label has a probability of its own.
        """
        if not texts:
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        return self.backend.probabilities(self._encode(texts))

    def first_identical(self, texts: list[str]) -> list[int]:
        """For each text the index of the first that has the same tokens, and so the same answer."""
        if not texts:
            return []
        first: dict[tuple[int, ...], int] = {}
        ids = self._encode(texts)["input_ids"]
        return [first.setdefault(tuple(tokens), i) for i, tokens in enumerate(ids)]

    def _encode(self, texts: list[str]) -> Encoded:
        return dict(self.tokenizer(texts, truncation=True, max_length=self.max_length))

    def answers(self, p: np.ndarray, *, multi_label: bool) -> list[Label]:
        """The answers of the probabilities `p`, (texts, labels), for a project of this kind.

        A bundle may be older than the project's change to label sets.
        """
        return [convert_answer(a, multi_label=multi_label) for a in self._decide(p)]

    def predict(self, texts: list[str]) -> list[Prediction] | list[LabelSet]:
        """A prediction per text."""
        p = self.probabilities(texts)
        scores = [
            {k: round(float(v), 6) for k, v in zip(self.labels, row, strict=True)} for row in p
        ]
        pairs = list(zip(self._decide(p), scores, strict=True))
        if self.multi_label:
            return [LabelSet(tuple(labels), s) for labels, s in pairs]
        return [Prediction(str(label), s[str(label)], s) for label, s in pairs]

    def _decide(self, p: np.ndarray) -> list[Label]:
        return decode(predict_codes(p, multi_label=self.multi_label), self.labels)


def _onnx(
    directory: Path, chosen: dict[str, Any], labels: int, *, multi_label: bool
) -> Backend | None:
    name = chosen.get("backend")
    if name not in FILES:
        return None
    path, threads = directory / FILES[name], int(chosen.get("threads") or 0)
    try:
        return Onnx(path, name=name, labels=labels, threads=threads, multi_label=multi_label)
    except ImportError:
        sys.stderr.write(
            f"onnxruntime is not installed, so torch answers instead of {name}, more slowly: pip install "
            f"onnxruntime\n"
        )
        return None


def _torch(directory: Path, chosen: dict[str, Any], tokenizer: Any) -> Backend:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        directory, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    tokens, threads = int(chosen.get("batch_tokens", BATCH_TOKENS)), int(chosen.get("threads") or 0)
    return Torch(model, tokenizer, batch_tokens=tokens, threads=threads)
