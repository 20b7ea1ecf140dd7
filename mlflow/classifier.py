"""The registered model as an MLflow pyfunc ("models from code").

`text` in; `label` and `score` out, or `labels` and `scores` of a multi-label model. It is logged next
to the bundle and imports nothing of this repository: its server needs torch, transformers, and
onnxruntime for a bundle that answers through it. The bundle's manifest is checked before any weight is
loaded.
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
NO_SETTINGS = {"reseed.json", "manifest.json", "tokenizer.json", "vocab.json"}  # words and labels
GRAPHS = {"onnx": "model.onnx", "onnx-int8": "model-int8.onnx"}
SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasSkipLayerNormFusion"]
Backend = Callable[[Any], Any]  # the logits (labels,), float64, of an encoded text


class Classifier(PythonModel):
    """The most probable label of each text and its calibrated probability; of a multi-label model the
    labels with a probability of one half or more, and every label's probability."""

    def load_context(self, context: Any) -> None:
        """Verify the bundle, then load it."""
        from transformers import AutoConfig, AutoTokenizer

        directory = Path(context.artifacts["bundle"])
        _verify(directory, (context.model_config or {}).get("bundle"))
        local = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(directory, **local)
        config = AutoConfig.from_pretrained(directory, **local)
        self._labels = config.id2label
        self._multi_label = config.problem_type == "multi_label_classification"
        about = json.loads((directory / "reseed.json").read_text(encoding="utf-8"))
        self._max_length = int(about["max_length"])
        self._backend = _load_graph(directory, about.get("inference", {})) or _load_model(directory)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row per text. Texts are encoded one at a time, so no answer depends on another text."""
        answer = self._label_set if self._multi_label else self._best_label
        columns = ["labels", "scores"] if self._multi_label else ["label", "score"]
        rows = []
        for text in model_input["text"].tolist():
            encoded = self._tokenizer(
                [text], truncation=True, max_length=self._max_length, return_tensors="np"
            )
            rows.append(answer(self._backend(encoded)))
        return pd.DataFrame(rows, columns=columns)

    def _best_label(self, logits: Any) -> tuple[str, float]:
        import numpy as np

        odds = np.exp(logits - logits.max())
        return self._labels[int(logits.argmax())], float(odds.max() / odds.sum())

    def _label_set(self, logits: Any) -> tuple[list[str], dict[str, float]]:
        import numpy as np

        p = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        scores = {self._labels[i]: float(p[i]) for i in range(len(p))}
        return sorted(label for label, score in scores.items() if score >= 0.5), scores


def _load_graph(directory: Path, inference: dict[str, Any]) -> Backend | None:
    """The backend that the bundle names, where it is a graph and onnxruntime is installed."""
    path = directory / GRAPHS.get(inference.get("backend", ""), "-")
    if not path.exists():
        return None
    try:
        import onnxruntime
    except ImportError:
        sys.stderr.write(
            "onnxruntime is not installed, so torch answers, more slowly: pip install onnxruntime\n"
        )
        return None
    import numpy as np

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(inference.get("threads", 0))
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_FUSIONS
    )
    names = [node.name for node in session.get_inputs()]

    def logits(encoded: Any) -> Any:
        inputs = {name: encoded[name].astype(np.int64) for name in names}
        return session.run(["logits"], inputs)[0][0].astype(np.float64)

    return logits


def _load_model(directory: Path) -> Backend:
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        directory, use_safetensors=True, local_files_only=True, trust_remote_code=False
    ).eval()

    def logits(encoded: Any) -> Any:
        inputs = {name: torch.from_numpy(value) for name, value in encoded.items()}
        with torch.inference_mode():
            return model(**inputs).logits[0].double().numpy()

    return logits


def _verify(directory: Path, digest: str | None) -> None:
    """Raise ValueError where the bundle is not the registered one (`digest`), a file differs from the
    manifest or is not in it, or a file could run code. Nothing is loaded before."""
    if not digest:
        raise _error("the logged model does not name its bundle (model_config)")
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    listed = {f["path"]: f["sha256"] for f in manifest["files"]}
    text = json.dumps(manifest["files"], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise _error("the bundle is not the one that was registered")
    present = {
        path.relative_to(directory).as_posix(): path
        for path in directory.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }
    for name in sorted(listed.keys() ^ (present.keys() - {"manifest.json"})):
        raise _error(f"{name} is missing, or not in the manifest")
    for name, path in present.items():
        plain = path.is_file() and not path.is_symlink() and path.name != "adapter_config.json"
        if not plain or path.suffix.lower() not in ALLOWED:
            raise _error(f"{name} is not allowed in a bundle")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if name != "manifest.json" and digest != listed[name]:
            raise _error(f"{name} differs from its manifest")
    for name, path in present.items():
        is_settings = path.suffix.lower() == ".json" and path.name not in NO_SETTINGS
        if setting := _code_setting(path) if is_settings else None:
            raise _error(f"{name} asks for custom code ({setting})")


def _error(reason: str) -> ValueError:
    return ValueError(f"{reason}: the model is not loaded")


def _code_setting(path: Path) -> str | None:
    """The setting, at any depth of the file, that names code to load: see tasks/model/bundle.py."""

    def find(value: Any) -> str | None:
        inner = list(value.items()) if isinstance(value, dict) else []
        for key, v in inner:
            if key in CODE or ("_implementation" in key and "/" in str(v)):
                return str(key)
        nested = [v for key, v in inner if key not in {"id2label", "label2id"}] if inner else value
        return next(filter(None, map(find, nested)), None) if isinstance(nested, list) else None

    try:
        return find(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as e:
        raise _error(f"{path.name} is not JSON ({e})") from None


set_model(Classifier())
