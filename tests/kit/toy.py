"""A ten-line toy task in place of mocks: three kinds of words, and a tiny real BERT whose embeddings know the kinds.

Synthetic texts and real texts share no content word, so word counts (TF-IDF) learned from the synthetic ones fail on the
real ones, and an encoder does not: as with real encoders, for a thousandth of the time.
"""

from __future__ import annotations

import csv
import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

LABELS = {
    "metal": "topic one; topic two",
    "fruit": "topic three; topic four",
    "bird": "topic five; topic six",
}
FILLER = [
    "the",
    "a",
    "was",
    "near",
    "with",
    "and",
    "then",
    "seen",
    "again",
    "by",
    "old",
    "new",
    "very",
    "two",
    "of",
    "it",
]


def _words(kind: str, which: str, n: int = 40) -> list[str]:
    return [f"{kind[:2]}{which}{chr(97 + i // 10)}{chr(97 + i % 10)}" for i in range(n)]


WRITTEN = {kind: _words(kind, "w") for kind in LABELS}  # what the scripted LLM writes
REAL = {kind: _words(kind, "r") for kind in LABELS}  # what real texts are made of


def sentence(words: list[str], rng: random.Random, n: int = 14) -> str:
    return (
        " ".join(
            rng.choice(words) if rng.random() < 0.5 else rng.choice(FILLER) for _ in range(n)
        ).capitalize()
        + "."
    )


def tiny_encoder(folder: Path) -> Path:
    """A BERT of two layers and 32 dimensions, whose word embeddings lie about their kind's centre."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    prompt = [
        "topic",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        ":",
        ";",
        ".",
        ",",
        "metal",
        "fruit",
        "bird",
    ]
    kinds = [(w, k) for table in (WRITTEN, REAL) for k, ws in table.items() for w in ws]
    vocabulary = list(
        dict.fromkeys(
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *prompt, *FILLER, *(w for w, _ in kinds)]
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    size = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "initializer_range": 0.2,
    }
    model = BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=128, **size))
    centres = {k: torch.randn(32) * 0.5 for k in LABELS}
    with torch.no_grad():
        for word, kind in kinds:
            model.embeddings.word_embeddings.weight[vocabulary.index(word)] = (
                centres[kind] + torch.randn(32) * 0.05
            )
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(
        vocab={w: i for i, w in enumerate(vocabulary)}, do_lower_case=True
    )
    tokenizer.save_pretrained(folder)
    return folder


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def real_rows(n: int, seed: int = 1) -> list[dict[str, str]]:
    """`n` rows a label."""
    rng = random.Random(seed)
    return [{"text": sentence(REAL[k], rng), "label": k} for k in LABELS for _ in range(n)]


def real_sets(n: int, seed: int = 1) -> list[dict[str, str]]:
    """Rows with label sets, as JSON lists: `n` of each label alone, half as many of each two, and of none."""
    rng = random.Random(seed)
    several = [[k] for k in LABELS] * n
    several += [*([list(pair) for pair in combinations(LABELS, 2)] * (n // 2)), *([[]] * (n // 2))]
    return [
        {
            "text": sentence([w for k in own for w in REAL[k]] or FILLER, rng, 18),
            "label": json.dumps(own),
        }
        for own in several
    ]


def project(
    folder: Path,
    *,
    endpoint: str,
    encoder: Path,
    rows: int = 50,
    seed: int = 1,
    multi_label: bool = False,
    lean: bool = True,
    **sections: dict[str, Any],
) -> Path:
    """A project file for the toy task, next to its data. `sections` are merged into the file's.

    A lean one leaves out what takes time and few tests are about: self-training, lift, robustness and traces.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "rows.csv", real_sets(rows, seed) if multi_label else real_rows(rows, seed))
    config: dict[str, Any] = {
        "name": "toy",
        "labels": LABELS,
        "data": {"pool": "rows.csv", "split": {"dev": 6, "test": 30}},
        "generate": {
            "endpoint": endpoint,
            "model": "scripted",
            "per_label": 12,
            "concurrency": 4,
            "retries": 1,
            "timeout_seconds": 5.0,
            "prompt": "Write a {text_kind} about {topic}.",
        },
        "train": {
            "model": str(encoder),
            "epochs": 4,
            "learning_rate": 1e-2,
            "max_length": 32,
            "batch_size": 8,
            "patience": 3,
            "precision": "fp32",
        },
        "predict": {
            "backend": "torch"
        },  # an export takes seconds; tests/model/test_export.py has it
        # its word vectors know the kinds by themselves, so nothing could be better than their mean
        "evaluate": {"bootstrap_samples": 1000, "serving_rows": 0, "static_model": "off"},
    }
    if lean:
        config["generate"]["traces"] = 0
        config["self_training"] = {"rounds": 0}
        config["evaluate"] |= {"bootstrap_samples": 300, "lift": "off", "robustness_rows": 0}
    if multi_label:
        config["multi_label"] = True
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values}
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path
