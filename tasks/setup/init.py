"""Write a project file for labelled rows."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import yaml

from tasks import atomic
from tasks.dataset.readers import Columns, Row, read_rows
from tasks.errors import UserError
from tasks.figures import Figures
from tasks.project.reader import FLOAT, load_project
from tasks.records import content_id
from tasks.setup.detect_columns import ColumnHints, detect_columns

MOST_LABELS = 200
FEWEST_TEXTS = 4  # of a label: some for dev, some for test and some to train on


class WrittenProject(Figures):
    """The project file that was written, with its rows by label and the sizes of the splits."""

    path: str
    labels: dict[str, int]
    rows: int
    split: dict[str, int]
    multi_label: bool
    message: str


class _Dumper(yaml.SafeDumper):
    """Quotes what the project reader takes for a number, and escapes Unicode's line breaks."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = '"' if value.splitlines() != [value] else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_implicit_resolver(*FLOAT)
_Dumper.add_representer(str, _represent_text)


def write_project(data: Path, out: Path | None, *, hints: ColumnHints) -> WrittenProject:
    """Write the project file to `out`, or to the current directory under the data's name.

    Raises UserError where the columns are ambiguous, the labels do not make a classifier, or the
    file exists.
    """
    if not data.exists():
        raise UserError(f"{data} does not exist: give a CSV, JSONL or Parquet file, or a folder")
    columns, where = detect_columns(data, hints)
    rows = [r for r in read_rows(data, columns) if not r.fault]
    counts = Counter(label for r in rows for label in _labels_of(r))
    texts = _count_texts(rows)
    _check_labels(data, where, texts, len(rows))
    split = split_sizes(min(texts.values()))
    name = re.sub(r"[^a-z0-9._-]+", "-", data.stem.lower()).strip("-._")[:60] or "my-project"
    path = out or Path(f"{name}.yaml")
    if path.exists():
        raise UserError(f"{path} exists: choose another name with --out, or remove it")
    atomic.write_bytes(path, _yaml(name, data, columns, sorted(counts), split, path).encode())
    load_project(path)
    if columns.label_sets:
        sizes = [len(_labels_of(r)) for r in rows]
        where += (
            f"; {sum(n > 1 for n in sizes)} of the {len(rows)} texts have several and "
            f"{sizes.count(0)} none (multi_label: true, docs/multi-label.md)"
        )
    return WrittenProject(
        path=str(path),
        labels=dict(counts),
        rows=len(rows),
        split=split,
        multi_label=columns.label_sets,
        message=f"{path}: {len(counts)} labels, {len(rows)} rows ({split['test']} per label for "
        f"the test set, {split['dev']} for dev, the rest to train on)\nlabels: {where}\n"
        "next: describe in one line what each label's texts are about, then\n"
        f"  reseed retrain {path}",
    )


def split_sizes(texts: int) -> dict[str, int]:
    """Rows per label for test (half, at most 100) and dev (a fifth, at most 20).

    `texts` counts the distinct texts of the smallest label.
    """
    return {"test": max(1, min(100, texts // 2)), "dev": max(1, min(20, texts // 5))}


def _labels_of(row: Row) -> tuple[str, ...]:
    return row.label if isinstance(row.label, tuple) else (str(row.label),)


def _count_texts(rows: list[Row]) -> Counter[str]:
    """Distinct texts per label. As in a split, a text with two labels counts for neither."""
    labels: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for r in rows:
        labels[content_id(r.text)].add(_labels_of(r))
    counts = Counter({label: 0 for r in rows for label in _labels_of(r)})
    for label_sets in labels.values():
        if len(label_sets) == 1:
            counts.update(next(iter(label_sets)))
    return counts


def _check_labels(data: Path, where: str, texts: Counter[str], rows: int) -> None:
    if len(texts) < 2:
        raise UserError(
            f"{data} has {len(texts)} label in {where}: give rows with at least two labels"
        )
    if len(texts) > MOST_LABELS:
        raise UserError(
            f"{data} has {len(texts)} different labels in {rows} rows, more than {MOST_LABELS}, in "
            f"{where}: give --label-column if another column holds the labels"
        )
    label, fewest = texts.most_common()[-1]
    if fewest < FEWEST_TEXTS:
        raise UserError(
            f"{data}: the label {label!r} has {fewest} text{'s' * (fewest != 1)}: give it at least "
            f"{FEWEST_TEXTS}, so that some are left for dev and test, or drop it"
        )


def _yaml(
    name: str, data: Path, columns: Columns, labels: list[str], split: dict[str, int], path: Path
) -> str:
    def dump(value: Any) -> str:
        return str(
            yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=1000)
        )

    section: dict[str, Any] = {"pool": _relative(data, path), "split": {**split, "rest": "train"}}
    if not data.is_dir():
        section["text_column"] = columns.text
        if columns.label_columns:
            section["one_column_per_label"] = True
        else:
            section["label_column"] = columns.label
    if columns.separator is not None:
        section["label_separator"] = columns.separator
    descriptions = {
        label: f"texts about {re.sub(r'[_/-]+', ' ', label).strip() or label}" for label in labels
    }
    return (
        f"# Written by `reseed init {data.name}`. All keys: docs/project-file.md\n"
        + dump({"name": name} | ({"multi_label": True} if columns.label_sets else {}))
        + "\n# describe each label in one line; `;` separates subtopics, which the LLM writes "
        "about in turn\n"
        + dump({"labels": descriptions})
        + "\n# rows per label, chosen by content hash; the rest is trained on\n"
        + dump({"data": section})
        + "\ngenerate:\n"
        "  endpoint: local     # or the base URL of an OpenAI-compatible API, with `model:` and "
        "OPENAI_API_KEY\n"
        "  per_label: 60       # synthetic rows per label\n"
        "  text_kind: short text\n"
    )


def _relative(data: Path, path: Path) -> str:
    """The data's path from the project file. Links are followed first, as `..` follows them."""
    target = data.parent.resolve() / data.name
    return Path(os.path.relpath(target, path.parent.resolve())).as_posix()
