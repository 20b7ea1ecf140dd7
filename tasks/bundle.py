"""The model directory: a standard Hugging Face directory, plus `reseed.json` and `manifest.json`. No pickle, no code.

The temperature is folded into the head, so any Hugging Face tool sees calibrated probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import files
from tasks.files import CorruptDirectory

if TYPE_CHECKING:
    import numpy as np

ABOUT = "reseed.json"
ALLOWED = {".safetensors", ".json", ".txt", ".model", ".md"}  # .model: a SentencePiece vocabulary


class UnsafeBundle(CorruptDirectory):
    """A bundle that holds a file or a setting that could run code."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable label of a text, its probability, and every label's probability."""

    label: str
    score: float
    scores: dict[str, float]


def save(model: Any, tokenizer: Any, directory: Path, *, about: dict[str, Any]) -> str:
    """Write the bundle into the empty `directory` and return its digest. `about` holds JSON values: labels,
    descriptions, data digests, base model, metrics."""
    model.to("cpu").save_pretrained(directory, safe_serialization=True)
    tokenizer.save_pretrained(directory)
    files.write_json(directory / ABOUT, about)
    return files.seal(directory)


def check(directory: Path, *, digest: str | None = None) -> dict[str, Any]:
    """The bundle's `reseed.json`, after its files matched the manifest and nothing in it could run code.

    Raises CorruptDirectory when a file differs or `digest` is not the bundle's; UnsafeBundle for a pickle, a script or
    an `auto_map`.
    """
    for path in directory.rglob("*"):
        if path.is_symlink() or (path.is_file() and path.suffix.lower() not in ALLOWED):
            raise UnsafeBundle(f"{path} has no place in a bundle (allowed: {', '.join(sorted(ALLOWED))})")
    manifest = files.verify(directory)
    if digest is not None and manifest["digest"] != digest:
        raise CorruptDirectory(f"{directory} is bundle {manifest['digest'][:12]}, not the expected {digest[:12]}")
    for path in directory.glob("*.json"):
        settings = files.read_json(path)
        if isinstance(settings, dict) and ({"auto_map", "custom_pipelines"} & set(settings)):
            raise UnsafeBundle(f"{path} asks for custom code (auto_map)")
    about: dict[str, Any] = files.read_json(directory / ABOUT)
    return about


class Classifier:
    """A loaded bundle. Not safe to share between threads while loading; answering is."""

    def __init__(self, model: Any, tokenizer: Any, labels: list[str], max_length: int) -> None:
        import torch

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model, self._tokenizer = model.to(self._device).eval(), tokenizer
        self.labels, self._max_length = labels, max_length

    @classmethod
    def load(cls, directory: Path, *, digest: str | None = None) -> Classifier:
        """The verified classifier in `directory`. Raises what `check` raises."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        about = check(directory, digest=digest)
        local = {"local_files_only": True, "trust_remote_code": False}
        model = AutoModelForSequenceClassification.from_pretrained(directory, use_safetensors=True, **local)
        tokenizer = AutoTokenizer.from_pretrained(directory, **local)
        labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        return cls(model, tokenizer, labels, int(about["max_length"]))

    def probabilities(self, texts: list[str], *, batch_size: int = 32) -> np.ndarray:
        """Shape (texts, labels), float32, rows sum to 1; batched by length, in the order of `texts`."""
        import numpy as np
        import torch

        found = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = self._tokenizer(
                    [texts[i] for i in rows],
                    truncation=True,
                    max_length=self._max_length,
                    padding=True,
                    return_tensors="pt",
                ).to(self._device)
                found[rows] = torch.softmax(self._model(**batch).logits.float(), dim=-1).cpu().numpy()
        return found

    def predict(self, texts: list[str]) -> list[Prediction]:
        """One prediction a text, in their order."""
        predictions = []
        for row in self.probabilities(texts):
            best = int(row.argmax())
            scores = {label: round(float(p), 6) for label, p in zip(self.labels, row, strict=True)}
            predictions.append(Prediction(self.labels[best], scores[self.labels[best]], scores))
        return predictions
