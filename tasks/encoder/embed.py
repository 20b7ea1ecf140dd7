"""Sentence embeddings from an encoder's checkpoint: mean-pooled, length 1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def has_bf16() -> bool:
    """True where the hardware has bfloat16: recent CUDA devices, AVX512-BF16 and AMX processors."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def max_input_length(model: Any, tokenizer: Any) -> int:
    """The most tokens of a text that both the encoder and its tokenizer allow."""
    import torch

    most = getattr(model.config, "max_position_embeddings", None) or 2**31
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # RoBERTa's positions start after the padding index: 512 of 514 are left for the text
            most = most if module.padding_idx is None else most - module.padding_idx - 1
            break
    return min(int(most), int(tokenizer.model_max_length))


def embed(
    model: Path, texts: list[str], *, max_length: int = 256, batch_size: int = 32
) -> np.ndarray:
    """Embeddings of the texts: shape (texts, dimensions), float32, each of Euclidean length 1.

    A text is cut at `max_length` tokens, or at `max_input_length`. Texts are batched by length, so
    that there is little padding. Mean pooling: Reimers and Gurevych 2019 (arXiv:1908.10084).
    """
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    encoder = AutoModel.from_pretrained(
        model, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    encoder.to(device).eval()
    max_length = min(max_length, max_input_length(encoder, tokenizer))
    vectors: list[np.ndarray | None] = [None] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=has_bf16()):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer(
                [texts[i] for i in rows],
                truncation=True,
                max_length=max_length,
                padding=True,
                return_tensors="pt",
            ).to(device)
            hidden = encoder(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            unit = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
            for i, vector in zip(rows, unit, strict=True):
                vectors[i] = vector
    return np.array(vectors, dtype=np.float32).reshape(len(texts), -1)
