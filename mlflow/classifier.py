"""The registered model as an MLflow pyfunc: `text` in, `label` and `score` out.

Logged as code ("models from code") beside the bundle, so it stands alone: it imports nothing of this repository, and
what serves it needs only torch and transformers. It checks the bundle's manifest before it loads a weight.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

BATCH = 32


class Classifier(PythonModel):
    """Answers with the most probable label of each text and its calibrated probability."""

    def load_context(self, context: Any) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        directory = Path(context.artifacts["bundle"])
        _verify(directory)
        local = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(directory, **local)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            directory, use_safetensors=True, **local
        ).eval()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        import torch

        texts = model_input["text"].tolist()
        labels, scores = [], []
        for start in range(0, len(texts), BATCH):
            batch = self._tokenizer(texts[start : start + BATCH], truncation=True, padding=True, return_tensors="pt")
            with torch.inference_mode():
                best = torch.softmax(self._model(**batch).logits.float(), dim=-1).max(dim=-1)
            labels += [self._model.config.id2label[i] for i in best.indices.tolist()]
            scores += best.values.tolist()
        return pd.DataFrame({"label": labels, "score": scores})


def _verify(directory: Path) -> None:
    for entry in json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["files"]:
        with (directory / entry["path"]).open("rb") as f:
            if hashlib.file_digest(f, "sha256").hexdigest() != entry["sha256"]:
                raise ValueError(f"{entry['path']} differs from its manifest: the model is not loaded")


set_model(Classifier())
