"""The registered model as an MLflow pyfunc: `text` in, `label` and `score` out; of a multi-label model `labels` and `scores`.

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

ALLOWED = {".safetensors", ".json", ".txt", ".model", ".md", ".onnx", ".data"}
CODE = {"auto_map", "custom_pipelines"}
NO_SETTINGS = {
    "reseed.json",
    "manifest.json",
    "tokenizer.json",
    "vocab.json",
}  # words and labels, called anything
Answer = Callable[[Any], Any]  # an encoded text in, its logits (labels,), float64, out


class Classifier(PythonModel):
    """Answers with the most probable label of each text and its calibrated probability; a multi-label model with the labels
    whose own probability is one half or more, and every label's probability."""

    def load_context(self, context: Any) -> None:
        from transformers import AutoConfig, AutoTokenizer

        directory = Path(context.artifacts["bundle"])
        _verify(directory, (context.model_config or {}).get("bundle"))
        local = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(directory, **local)
        config = AutoConfig.from_pretrained(directory, **local)
        self._names, self._many = (
            config.id2label,
            config.problem_type == "multi_label_classification",
        )
        about = json.loads((directory / "reseed.json").read_text(encoding="utf-8"))
        self._length = int(about["max_length"])
        self._logits = _graph(directory, about.get("inference", {})) or _weights(directory)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        import numpy as np

        labels: list[Any] = []
        scores: list[Any] = []
        for text in model_input[
            "text"
        ].tolist():  # one at a time: no text's answer depends on another
            z = self._logits(
                self._tokenizer(
                    [text], truncation=True, max_length=self._length, return_tensors="np"
                )
            )
            if self._many:
                p = 1 / (1 + np.exp(-np.clip(z, -500, 500)))
                labels.append(sorted(self._names[i] for i in range(len(p)) if p[i] >= 0.5))
                scores.append({self._names[i]: float(p[i]) for i in range(len(p))})
            else:
                e = np.exp(z - z.max())
                labels.append(self._names[int(z.argmax())])
                scores.append(float(e.max() / e.sum()))
        return pd.DataFrame(
            {"labels": labels, "scores": scores}
            if self._many
            else {"label": labels, "score": scores}
        )


def _graph(directory: Path, chosen: dict[str, Any]) -> Answer | None:
    """The backend that the bundle names, where it is a graph and onnxruntime is there."""
    path = directory / {"onnx": "model.onnx", "onnx-int8": "model-int8.onnx"}.get(
        chosen.get("backend", ""), "-"
    )
    if not path.exists():
        return None
    try:
        import onnxruntime
    except ImportError:
        sys.stderr.write(
            "onnxruntime is not installed, so torch answers: slower; pip install onnxruntime\n"
        )
        return None
    import numpy as np

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(chosen.get("threads", 0))
    slow = ["SkipLayerNormFusion", "BiasSkipLayerNormFusion"]
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=slow
    )
    names = [i.name for i in session.get_inputs()]

    def answer(encoded: Any) -> Any:
        (logits,) = session.run(
            ["logits"], {name: encoded[name].astype(np.int64) for name in names}
        )
        return logits[0].astype(np.float64)

    return answer


def _weights(directory: Path) -> Answer:
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        directory, use_safetensors=True, local_files_only=True, trust_remote_code=False
    ).eval()

    def answer(encoded: Any) -> Any:
        with torch.inference_mode():
            logits = model(
                **{name: torch.from_numpy(value) for name, value in encoded.items()}
            ).logits
        return logits[0].double().numpy()

    return answer


def _verify(directory: Path, digest: str | None) -> None:
    """Raise ValueError, saying what, where a file differs from the manifest, stands beside it, or could run code, or where the
    bundle is not the one that was registered (`digest`). Nothing was loaded before."""
    if not digest:
        raise ValueError(
            "the logged model does not say which bundle it holds (model_config): the model is not loaded"
        )
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    listed = {f["path"]: f["sha256"] for f in manifest["files"]}
    said = json.dumps(manifest["files"], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    if hashlib.sha256(said.encode()).hexdigest() != digest:
        raise ValueError("the bundle is not the one that was registered: the model is not loaded")
    present = {
        p.relative_to(directory).as_posix(): p
        for p in directory.rglob("*")
        if not p.is_dir() or p.is_symlink()
    }
    for name in sorted(listed.keys() ^ (present.keys() - {"manifest.json"})):
        raise ValueError(f"{name} is missing or not in the manifest: the model is not loaded")
    for name, path in present.items():
        plain = path.is_file() and not path.is_symlink() and path.name != "adapter_config.json"
        if not plain or path.suffix.lower() not in ALLOWED:
            raise ValueError(f"{name} has no place in a bundle: the model is not loaded")
        if (
            name != "manifest.json"
            and hashlib.sha256(path.read_bytes()).hexdigest() != listed[name]
        ):
            raise ValueError(f"{name} differs from its manifest: the model is not loaded")
    for name, path in present.items():
        asked = (
            _asks_for_code(path)
            if path.suffix.lower() == ".json" and path.name not in NO_SETTINGS
            else None
        )
        if asked:
            raise ValueError(f"{name} asks for custom code ({asked}): the model is not loaded")


def _asks_for_code(path: Path) -> str | None:
    """The setting, at any depth of the file, that names code to be loaded, as in tasks/model/bundle.py."""

    def asked(value: Any) -> str | None:
        inner = list(value.items()) if isinstance(value, dict) else []
        for key, v in inner:
            if key in CODE or ("_implementation" in key and "/" in str(v)):
                return str(key)
        nested = [v for key, v in inner if key not in {"id2label", "label2id"}] if inner else value
        return next(filter(None, map(asked, nested)), None) if isinstance(nested, list) else None

    try:
        return asked(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path.name} is no JSON ({e}): the model is not loaded") from None


set_model(Classifier())
