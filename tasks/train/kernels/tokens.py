"""Rows as token ids on the disk: tokenised once, as a stream, and memory-mapped.

So memory does not grow with the number of rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from tasks.labels import encode, label_of
from tasks.records import Record

BATCH = 1000  # rows per call of the tokeniser, which divides them among its threads


@dataclass(frozen=True, slots=True)
class RowEncoding:
    """How a record becomes numbers: the names of the labels, the tokeniser, and its maximum length."""

    labels: list[str]
    tokenizer: Any
    max_length: int
    multi_label: bool = False

    def digest(self, records: Iterable[Record], weights: np.ndarray | None) -> str:
        """A digest of everything that the encoded rows depend on."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        tokenizer = backend.to_str() if backend is not None else repr(self.tokenizer)
        weighted = None if weights is None else hashlib.sha256(weights.data).hexdigest()
        settings = [self.labels, tokenizer, self.max_length, weighted]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for r in records:
            digest.update(json.dumps([r.text, r.label]).encode())
        return digest.hexdigest()

    def columns(self, records: list[Record]) -> list[Any]:
        """The token ids and the labels of these records."""
        ids = self.tokenizer(
            [r.text for r in records],
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return [ids, encode([label_of(r) for r in records], self.labels).tolist()]


def tokenise(
    records: Iterable[Record],
    encoding: RowEncoding,
    *,
    folder: Path,
    weights: np.ndarray | None = None,
) -> Any:
    """A datasets.Dataset of `input_ids` (int32), `labels` and, with `weights`, `weight`.

    A label is its index; with `multi_label`, 0 or 1 (float32) for each label. The Arrow file in `folder`
    is named by a digest, so a run that resumes finds it. `records` is read twice. Attention masks (all
    ones) and token types (all zeros) are not stored.
    """
    path = folder / f"rows-{encoding.digest(records, weights)[:24]}.arrow"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        _write_arrow(temporary, records, encoding, weights)
        temporary.replace(path)
    return Dataset.from_file(str(path))


def _write_arrow(
    path: Path, records: Iterable[Record], encoding: RowEncoding, weights: np.ndarray | None
) -> None:
    label_type = pa.list_(pa.float32()) if encoding.multi_label else pa.int64()
    fields = [("input_ids", pa.list_(pa.int32())), ("labels", label_type)]
    schema = pa.schema(fields + ([("weight", pa.float32())] if weights is not None else []))
    rows, start = iter(records), 0
    with path.open("wb") as f:
        with pa.ipc.new_stream(f, schema) as stream:
            while batch := list(islice(rows, BATCH)):
                columns = encoding.columns(batch)
                if weights is not None:
                    columns.append(weights[start : start + len(batch)])
                arrays = [pa.array(c, t.type) for c, t in zip(columns, schema, strict=True)]
                stream.write(pa.record_batch(arrays, schema))
                start += len(batch)
        f.flush()
        os.fsync(f.fileno())
