"""Texts as means of static token vectors: an encoder's input embeddings, or a model2vec folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.errors import UserError

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
BATCH = 1024


def average_input_embeddings(encoder: Path, texts: list[str], *, max_length: int) -> np.ndarray:
    """The mean of each text's rows of the encoder's input embeddings, shape (texts, dimensions).

    Means have length 1. No layer is run. A text is cut at `max_length` tokens; one without a token
    is all zeros.
    """
    from transformers import AutoModel, AutoTokenizer

    local = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(encoder, **local)
    model = AutoModel.from_pretrained(encoder, use_safetensors=True, **local)
    table = model.get_input_embeddings().weight.detach().float().numpy()
    cut = {"add_special_tokens": False, "truncation": True, "max_length": max_length}
    means = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(texts[start : start + BATCH], **cut)["input_ids"]
        means += [table[ids].mean(axis=0) if ids else np.zeros(table.shape[1]) for ids in batch]
    return _normalise(means, table.shape[1])


def average_static_embeddings(folder: Path, texts: list[str]) -> np.ndarray:
    """The mean of each text's vectors of a model2vec folder, shape (texts, dimensions), of length 1.

    `model.safetensors` has `embeddings`, and may have `weights` and `mapping` by token. Unknown
    tokens are left out, as in model2vec (https://github.com/MinishLab/model2vec). Raises UserError
    for another kind of folder.
    """
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    check_static_model(folder)
    tensors = load_file(folder / WEIGHTS)
    if "embeddings" not in tensors:
        raise UserError(
            f"evaluate.static_model {folder}: {WEIGHTS} has no tensor `embeddings` but "
            f"{', '.join(sorted(tensors)[:3])}: give a model2vec folder"
        )
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_padding()
    unknown = tokenizer.token_to_id("[UNK]")
    table = tensors["embeddings"].astype(np.float32)
    rows = tensors.get("mapping", np.arange(len(table))).astype(np.int64)
    weights = tensors.get("weights", np.ones(len(rows))).astype(np.float32)
    tokens, vectors = tokenizer.get_vocab_size(), min(len(rows), len(weights))
    if tokens > vectors:
        raise UserError(
            f"evaluate.static_model {folder}: the tokenizer has {tokens} tokens but the model "
            f"{vectors} vectors: give a folder whose files are of one model"
        )
    means = []
    for encoded in tokenizer.encode_batch(texts, add_special_tokens=False):
        ids = np.array([i for i in encoded.ids if i != unknown], dtype=np.int64)
        weighted = table[rows[ids]] * weights[ids, None]
        means.append(weighted.mean(axis=0) if len(ids) else np.zeros(table.shape[1]))
    return _normalise(means, table.shape[1])


def check_static_model(folder: Path) -> None:
    """Raises UserError for what is no model2vec folder."""
    for name in (WEIGHTS, TOKENIZER):
        if not (folder / name).is_file():
            raise UserError(
                f"{str(folder)!r} has no {name}: give a model2vec folder, or `encoder`, or `off`"
            )


def _normalise(rows: list[np.ndarray], width: int) -> np.ndarray:
    x = np.array(rows, dtype=np.float32).reshape(len(rows), width)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
