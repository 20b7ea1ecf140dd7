"""What computes the answers: torch, or ONNX Runtime over an exported graph.

No backend lets a text's answer depend on the other texts. torch runs in float32, where padding changes
an answer by 1e-6; in bfloat16 it would be 7e-3. ONNX Runtime gets one text at a time, which costs
nothing on a processor (larger batches exceed its caches) and needs neither padding nor a mask; many
texts are divided among threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tasks.labels import MULTI_LABEL, probabilities

BATCH_TOKENS = 4096
# measured on 256 tokens: the fused kernel takes 0.8 ms, an addition and a LayerNormalization 0.15
SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasSkipLayerNormFusion"]

Encoded = dict[str, list[list[int]]]  # unpadded rows by the name of the model's input


class Backend(Protocol):
    """Answers encoded texts; the classifier does not know what computes."""

    @property
    def name(self) -> str:
        """The backend's name in `predict.backend`."""

    def probabilities(self, encoded: Encoded) -> np.ndarray:
        """Shape (texts, labels), float32: rows that sum to 1, or independent ones for label sets."""


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
        """See Backend."""
        import torch

        lengths = [len(ids) for ids in encoded["input_ids"]]
        p = np.zeros((len(lengths), self.model.config.num_labels), dtype=np.float32)
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads or threads)
        try:
            with torch.inference_mode():
                for rows in token_batches(lengths, tokens=self._batch_tokens):
                    batch = {name: [values[i] for i in rows] for name, values in encoded.items()}
                    padded = self._tokenizer.pad(batch, return_tensors="pt", verbose=False)
                    logits = self.model(**padded.to(self._device)).logits.float()
                    activation = torch.sigmoid if self._multi_label else torch.nn.Softmax(dim=-1)
                    p[rows] = activation(logits).cpu().numpy()
        finally:
            torch.set_num_threads(threads)
        return p


def token_batches(lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """The indices of `lengths` (tokens per row), each once, in batches of ascending length.

    A padded batch (rows times its longest row) has at most `tokens` tokens; a longer row is alone.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and lengths[i] * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


class Onnx:
    """An exported graph on ONNX Runtime's CPU provider. Raises ImportError without onnxruntime."""

    def __init__(
        self, path: Path, *, name: str, labels: int, threads: int = 0, multi_label: bool = False
    ) -> None:
        self.name, self._path, self._labels, self._multi_label = name, path, labels, multi_label
        self._threads = threads or len(os.sched_getaffinity(0))
        self._sessions: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._session(self._threads)  # a graph that does not run is noticed now

    def _session(self, threads: int) -> Any:
        import onnxruntime

        with self._lock:
            if threads not in self._sessions:
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = threads
                options.log_severity_level = 3
                # idle threads that spin slow down tokenizers and other services
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
                self._sessions[threads] = onnxruntime.InferenceSession(
                    self._path,
                    options,
                    providers=["CPUExecutionProvider"],
                    disabled_optimizers=SLOW_FUSIONS,
                )
            return self._sessions[threads]

    def probabilities(self, encoded: Encoded) -> np.ndarray:
        """See Backend."""
        ids = encoded["input_ids"]
        logits = np.zeros((len(ids), self._labels))
        # a thread per text wastes less than all threads on each
        parallel = self._threads > 1 and len(ids) >= 2 * self._threads
        session = self._session(1 if parallel else self._threads)
        names = [i.name for i in session.get_inputs()]

        def answer(i: int) -> None:
            inputs = {name: np.array([encoded[name][i]], dtype=np.int64) for name in names}
            logits[i] = session.run(["logits"], inputs)[0][0]

        longest_first = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        if parallel:
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(answer, longest_first))
        else:
            for i in longest_first:
                answer(i)
        return probabilities(logits, multi_label=self._multi_label).astype(np.float32)
