"""Rows as token ids on the disk: tokenised once, read as a stream, memory-mapped, so that memory does not grow with rows."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

from tasks.labels import encode, label_of
from tasks.records import Record

AT_ONCE = 1000  # rows a tokeniser gets, which shares them out among its threads


class RecordFile:
    """The records of a JSON Lines file, read anew by each loop over it; its length is the number of lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as f:
            self._rows = sum(1 for _ in f)

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Record]:
        with self.path.open(encoding="utf-8") as f:
            for line in f:
                yield Record.from_json(json.loads(line))


def tokenised(
    records: Iterable[Record],
    *,
    labels: list[str],
    tokenizer: Any,
    max_length: int,
    work: Path,
    weights: np.ndarray | None = None,
    multi_label: bool = False,
) -> Any:
    """A datasets.Dataset of `input_ids` (int32), `labels` (the place in `labels`; with `multi_label` 0 and 1, float32, for
    each of them) and, where given, `weight`.

    It lies in `work` as an Arrow file named by what went in, and is found there when a run resumes. `records` is looped
    over twice. Masks and token types are not stored: they are all ones and all zeros.
    """
    from datasets import Dataset

    path = work / f"rows-{_digest(records, labels, tokenizer, max_length, weights)[:24]}.arrow"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        _write(beside, records, labels, tokenizer, max_length, weights, multi_label)
        beside.replace(path)
    return Dataset.from_file(str(path))


def _digest(
    records: Iterable[Record],
    labels: list[str],
    tokenizer: Any,
    max_length: int,
    weights: np.ndarray | None,
) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    weighed = None if weights is None else hashlib.sha256(weights.data).hexdigest()
    about = [
        labels,
        backend.to_str() if backend is not None else repr(tokenizer),
        max_length,
        weighed,
    ]
    found = hashlib.sha256(json.dumps(about).encode())
    for r in records:
        found.update(json.dumps([r.text, r.label]).encode())
    return found.hexdigest()


def _write(
    path: Path,
    records: Iterable[Record],
    labels: list[str],
    tokenizer: Any,
    max_length: int,
    weights: np.ndarray | None,
    multi_label: bool,
) -> None:
    import pyarrow as pa

    kind = pa.list_(pa.float32()) if multi_label else pa.int64()
    fields = [("input_ids", pa.list_(pa.int32())), ("labels", kind)]
    schema = pa.schema(fields + ([("weight", pa.float32())] if weights is not None else []))
    rows = iter(records)
    with path.open("wb") as f:
        with pa.ipc.new_stream(f, schema) as stream:
            for start in itertools.count(0, AT_ONCE):
                batch = list(itertools.islice(rows, AT_ONCE))
                if not batch:
                    break
                ids = tokenizer(
                    [r.text for r in batch],
                    truncation=True,
                    max_length=max_length,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                )["input_ids"]
                columns: list[Any] = [ids, encode([label_of(r) for r in batch], labels).tolist()]
                if weights is not None:
                    columns.append(weights[start : start + len(batch)])
                stream.write(
                    pa.record_batch(
                        [pa.array(c, t.type) for c, t in zip(columns, schema, strict=True)], schema
                    )
                )
        f.flush()
        os.fsync(f.fileno())
