"""What computes the answers: torch, or ONNX Runtime over an exported graph. Both take token ids and give probabilities.

No backend lets a text's answer depend on the texts beside it. torch runs in float32, where padding is worth 1e-6;
bfloat16 would be worth 7e-3. ONNX Runtime is given one text at a time, which on a processor costs nothing (longer batches
leave its caches) and needs neither padding nor a mask; many texts are shared among threads.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.labels import MULTI_LABEL
from tasks.model.inference.batches import token_batches

if TYPE_CHECKING:
    import numpy as np

BATCH_TOKENS = 4096
# measured on 256 tokens: the fused kernel takes 0.8 ms where an addition and LayerNormalization take 0.15
SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasSkipLayerNormFusion"]

Encoded = dict[
    str, list[list[int]]
]  # what a tokenizer gives without padding, by the name of the model's input


class Backend(Protocol):
    """Answers encoded texts, so that the classifier needs not know what computes."""

    name: str

    def probabilities(self, encoded: Encoded) -> np.ndarray:
        """Shape (texts, labels), float32, in the order of the texts: rows sum to 1, or of label sets each label has its own."""


class Torch:
    """The bundle's own weights in float32, on a GPU where there is one."""

    name = "torch"

    def __init__(
        self, model: Any, tokenizer: Any, *, batch_tokens: int = BATCH_TOKENS, threads: int = 0
    ) -> None:
        import torch

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self._tokenizer = model.to(self._device).eval(), tokenizer
        self._batch_tokens, self._threads = batch_tokens, threads
        self._multi_label = model.config.problem_type == MULTI_LABEL

    def probabilities(self, encoded: Encoded) -> np.ndarray:
        import numpy as np
        import torch

        ids = encoded["input_ids"]
        found = np.zeros((len(ids), self.model.config.num_labels), dtype=np.float32)
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads or before)
        try:
            with torch.inference_mode():
                for rows in token_batches([len(i) for i in ids], tokens=self._batch_tokens):
                    own = {name: [values[i] for i in rows] for name, values in encoded.items()}
                    batch = self._tokenizer.pad(own, return_tensors="pt", verbose=False).to(
                        self._device
                    )
                    logits = self.model(**batch).logits.float()
                    p = (
                        torch.sigmoid(logits)
                        if self._multi_label
                        else torch.softmax(logits, dim=-1)
                    )
                    found[rows] = p.cpu().numpy()
        finally:
            torch.set_num_threads(before)
        return found


class Onnx:
    """An exported graph on ONNX Runtime's CPU provider, one text at a time. Raises ImportError without onnxruntime."""

    def __init__(
        self, path: Path, *, name: str, labels: int, threads: int = 0, multi_label: bool = False
    ) -> None:
        self.name, self._path, self._labels, self._multi_label = name, path, labels, multi_label
        self._threads = threads or len(os.sched_getaffinity(0))
        self._sessions: dict[int, Any] = {}
        self._making = threading.Lock()
        self._session(self._threads)  # a graph that can't be run is found now

    def _session(self, threads: int) -> Any:
        import onnxruntime

        with self._making:
            if threads not in self._sessions:
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = threads
                options.log_severity_level = 3
                # idle threads that spin take the processor from tokenizers and from other services
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
                self._sessions[threads] = onnxruntime.InferenceSession(
                    self._path,
                    options,
                    providers=["CPUExecutionProvider"],
                    disabled_optimizers=SLOW_FUSIONS,
                )
            return self._sessions[threads]

    def probabilities(self, encoded: Encoded) -> np.ndarray:
        import numpy as np

        texts = len(encoded["input_ids"])
        found = np.zeros((texts, self._labels), dtype=np.float32)
        many = (
            texts >= 2 * self._threads
        )  # then a thread a text wastes less than all threads on each
        session = self._session(1 if many else self._threads)
        names = [i.name for i in session.get_inputs()]

        def answer(i: int) -> None:
            feed = {name: np.array([encoded[name][i]], dtype=np.int64) for name in names}
            logits = session.run(["logits"], feed)[0][0].astype(np.float64)
            if self._multi_label:
                found[i] = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
            else:
                e = np.exp(logits - logits.max())
                found[i] = e / e.sum()

        longest_first = sorted(range(texts), key=lambda i: -len(encoded["input_ids"][i]))
        if many and self._threads > 1:
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(answer, longest_first))
        else:
            for i in longest_first:
                answer(i)
        return found
