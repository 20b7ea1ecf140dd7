"""Texts as means of token vectors that no context changes: an encoder's input embeddings, or a model2vec folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.errors import UserError

STATIC = ("model.safetensors", "tokenizer.json")
BATCH = 1024


def of_encoder(encoder: Path, texts: list[str], *, max_length: int) -> np.ndarray:
    """The mean of each text's rows of the encoder's input embeddings, shape (texts, dimensions), each of length 1.

    None of its layers is run. A text is cut at `max_length` tokens; one without a token is all zeros.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        encoder, local_files_only=True, trust_remote_code=False
    )
    model = AutoModel.from_pretrained(
        encoder, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    table = model.get_input_embeddings().weight.detach().float().numpy()
    found = []
    for start in range(0, len(texts), BATCH):
        given = texts[start : start + BATCH]
        rows = tokenizer(given, add_special_tokens=False, truncation=True, max_length=max_length)[
            "input_ids"
        ]
        found += [table[ids].mean(axis=0) if ids else np.zeros(table.shape[1]) for ids in rows]
    return _unit(found, table.shape[1])


def of_static(folder: Path, texts: list[str]) -> np.ndarray:
    """The same of a model2vec folder: `model.safetensors` with `embeddings`, and maybe `weights` and `mapping` by token, and
    `tokenizer.json`. Raises UserError where it is none.

    Unknown tokens are left out, as model2vec does (https://github.com/MinishLab/model2vec).
    """
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    check_static(folder)
    tensors = load_file(folder / STATIC[0])
    if "embeddings" not in tensors:
        raise UserError(
            f"evaluate.static_model {folder}: {STATIC[0]} has no tensor `embeddings` but {', '.join(sorted(tensors)[:3])}: "
            f"give a model2vec folder"
        )
    tokenizer = Tokenizer.from_file(str(folder / STATIC[1]))
    tokenizer.no_padding()
    unknown = tokenizer.token_to_id("[UNK]")
    table = tensors["embeddings"].astype(np.float32)
    rows = tensors.get("mapping", np.arange(len(table))).astype(np.int64)
    weights = tensors.get("weights", np.ones(len(rows))).astype(np.float32)
    if (size := tokenizer.get_vocab_size()) > len(rows) or len(weights) < size:
        raise UserError(
            f"evaluate.static_model {folder}: the tokenizer has {size} tokens and the model {min(len(rows), len(weights))} "
            f"vectors: they are not of one model"
        )
    found = []
    for coded in tokenizer.encode_batch(texts, add_special_tokens=False):
        ids = np.array([i for i in coded.ids if i != unknown], dtype=np.int64)
        mean = (
            (table[rows[ids]] * weights[ids, None]).mean(axis=0)
            if len(ids)
            else np.zeros(table.shape[1])
        )
        found.append(mean)
    return _unit(found, table.shape[1])


def check_static(folder: Path) -> None:
    """Raises UserError for what is no model2vec folder."""
    for name in STATIC:
        if not (folder / name).is_file():
            raise UserError(
                f"{str(folder)!r} has no {name}: give a model2vec folder, or `encoder`, or `off`"
            )


def _unit(rows: list[np.ndarray], width: int) -> np.ndarray:
    x = np.array(rows, dtype=np.float32).reshape(len(rows), width)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.maximum(lengths, 1e-12))
