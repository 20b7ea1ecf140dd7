"""The registered model as an MLflow pyfunc: `text` in, `label` and `score` out.

Logged as code ("models from code") beside the bundle, so it stands alone: it imports nothing of this repository, and
what serves it needs only torch and transformers, and onnxruntime for a bundle
that answers through it. It checks the bundle's manifest before it loads a weight.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

Answer = Callable[[Any], Any]  # an encoded text in, its probabilities out


class Classifier(PythonModel):
    """Answers with the most probable label of each text and its calibrated probability."""

    def load_context(self, context: Any) -> None:
        from transformers import AutoConfig, AutoTokenizer

        directory = Path(context.artifacts["bundle"])
        _verify(directory)
        local = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(directory, **local)
        self._names = AutoConfig.from_pretrained(directory, **local).id2label
        about = json.loads((directory / "reseed.json").read_text(encoding="utf-8"))
        self._length = int(about["max_length"])
        self._answer = _graph(directory, about.get("inference", {})) or _weights(directory)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        labels, scores = [], []
        for text in model_input["text"].tolist():  # one at a time: no text's answer depends on another
            p = self._answer(self._tokenizer([text], truncation=True, max_length=self._length, return_tensors="np"))
            labels.append(self._names[int(p.argmax())])
            scores.append(float(p.max()))
        return pd.DataFrame({"label": labels, "score": scores})


def _graph(directory: Path, chosen: dict[str, Any]) -> Answer | None:
    """The backend that the bundle names, where it is a graph and onnxruntime is there."""
    path = directory / {"onnx": "model.onnx", "onnx-int8": "model-int8.onnx"}.get(chosen.get("backend", ""), "-")
    if not path.exists():
        return None
    try:
        import onnxruntime
    except ImportError:
        sys.stderr.write("onnxruntime is not installed, so torch answers: slower; pip install onnxruntime\n")
        return None
    import numpy as np

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(chosen.get("threads", 0))
    slow = ["SkipLayerNormFusion", "BiasSkipLayerNormFusion"]
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], disabled_optimizers=slow)
    names = [i.name for i in session.get_inputs()]

    def answer(encoded: Any) -> Any:
        (logits,) = session.run(["logits"], {name: encoded[name].astype(np.int64) for name in names})
        e = np.exp(logits[0].astype(np.float64) - logits[0].max())
        return e / e.sum()

    return answer


def _weights(directory: Path) -> Answer:
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        directory, use_safetensors=True, local_files_only=True, trust_remote_code=False
    ).eval()

    def answer(encoded: Any) -> Any:
        with torch.inference_mode():
            logits = model(**{name: torch.from_numpy(value) for name, value in encoded.items()}).logits
        return torch.softmax(logits[0].float(), dim=-1).numpy()

    return answer


def _verify(directory: Path) -> None:
    for entry in json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["files"]:
        with (directory / entry["path"]).open("rb") as f:
            if hashlib.file_digest(f, "sha256").hexdigest() != entry["sha256"]:
                raise ValueError(f"{entry['path']} differs from its manifest: the model is not loaded")


set_model(Classifier())
