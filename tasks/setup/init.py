"""Write a project file for somebody's labelled rows."""

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
from tasks.project.reader import FLOAT, load_project
from tasks.records import content_id
from tasks.setup.detect_columns import ColumnHints, detect_columns

MOST_LABELS = 200


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what the project's loader would read as a number, and escapes the line breaks of Unicode."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = '"' if value.splitlines() != [value] else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_implicit_resolver(*FLOAT)
_Dumper.add_representer(str, _text)


def write_project(data: Path, out: Path | None, *, asked: ColumnHints) -> dict[str, Any]:
    """`path`, `labels`, `rows`, `split`, `multi_label` and a `message` on what was taken for labels and what to do next, after
    the project file was written.

    Raises UserError when the columns can't be told, a label has fewer than four rows, or the file is there already.
    """
    if not data.exists():
        raise UserError(
            f"{data} does not exist: give a CSV, JSONL or Parquet file, or a folder per label"
        )
    columns, taken = detect_columns(data, asked)
    rows = [r for r in read_rows(data, columns) if not r.fault]
    counts = Counter(label for r in rows for label in _own(r))
    texts = _texts(rows)
    _usable(data, taken, texts, len(rows))
    split = split_sizes(min(texts.values()))
    name = re.sub(r"[^a-z0-9._-]+", "-", data.stem.lower()).strip("-._")[:60] or "my-project"
    path = out or Path(f"{name}.yaml")
    if path.exists():
        raise UserError(f"{path} exists: choose another name with --out, or remove it")
    atomic.write_bytes(path, _yaml(name, data, columns, counts, split, path).encode())
    load_project(path)
    how_many = _how_many(rows) if _several(columns) else ""
    message = (
        f"{path}: {len(counts)} labels, {len(rows)} rows ({split['test']} a label to test, {split['dev']} to watch training, "
        f"the rest to train on)\nlabels: {taken}{how_many}\nnext: write one line of what each label's texts are about, then\n"
        f"  reseed retrain {path}"
    )
    told = {"path": str(path), "labels": dict(counts), "rows": len(rows), "split": split}
    return told | {"multi_label": _several(columns), "message": message}


def _several(columns: Columns) -> bool:
    return columns.many or bool(columns.each)


def _own(r: Row) -> tuple[str, ...]:
    return r.label if isinstance(r.label, tuple) else (str(r.label),)


def _how_many(rows: list[Row]) -> str:
    sizes = [len(_own(r)) for r in rows]
    several, none = sum(n > 1 for n in sizes), sizes.count(0)
    return f"; {several} of the {len(rows)} texts have several and {none} none (multi_label: true, docs/multi-label.md)"


def split_sizes(smallest: int) -> dict[str, int]:
    """Rows a label for test and dev, from the distinct rows of the smallest label: half to test (at most 100), a fifth to
    dev (at most 20)."""
    return {"test": max(1, min(100, smallest // 2)), "dev": max(1, min(20, smallest // 5))}


def _texts(rows: list[Row]) -> Counter[str]:
    """Different texts a label, as `split_dataset` counts them: one that stands under two labels counts for neither."""
    labels: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for r in rows:
        labels[content_id(r.text)].add(_own(r))
    counts = Counter({label: 0 for r in rows for label in _own(r)})
    counts.update(label for of in labels.values() if len(of) == 1 for label in next(iter(of)))
    return counts


def _usable(data: Path, taken: str, counts: Counter[str], rows: int) -> None:
    if len(counts) < 2:
        raise UserError(
            f"{data} has {len(counts)} label in {taken}: a classifier needs at least two"
        )
    if len(counts) > MOST_LABELS:
        raise UserError(
            f"{data} has {len(counts)} different labels in {rows} rows, more than {MOST_LABELS}, in {taken}: is it the label "
            f"column? Give --label-column"
        )
    label, fewest = counts.most_common()[-1]
    if fewest < 4:
        raise UserError(
            f"{data}: the label {label!r} has {fewest} text{'s' * (fewest != 1)}, and real rows are needed to test and to "
            f"watch training: give it at least 4, or drop it"
        )


def _yaml(
    name: str, data: Path, columns: Columns, counts: Counter[str], split: dict[str, int], path: Path
) -> str:
    def dump(value: Any) -> str:
        return str(
            yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=1000)
        )

    labels = {label: f"texts about {_words(label)}" for label in sorted(counts)}
    reference = _relative(data, path)
    described: dict[str, Any] = {"pool": reference, "split": {**split, "rest": "train"}}
    if not data.is_dir():
        described |= {"text_column": columns.text}
        described |= (
            {"one_column_per_label": True} if columns.each else {"label_column": columns.label}
        )
    if columns.separator is not None:
        described["label_separator"] = columns.separator
    return (
        f"# Written by `reseed init {data.name}`. Everything that can be set: docs/project-file.md\n"
        + dump({"name": name} | ({"multi_label": True} if _several(columns) else {}))
        + "\n# one line each of what its texts are about; `;` parts subtopics, which the LLM is asked for in turn\n"
        + dump({"labels": labels})
        + "\n# rows a label, fixed by content hash: dev watches training, test is sealed, the rest is trained on\n"
        + dump({"data": described})
        + "\ngenerate:\n  endpoint: local     # or an OpenAI-compatible base URL, with `model:` and OPENAI_API_KEY set\n"
        + "  per_label: 60       # synthetic rows a label\n  text_kind: short text\n"
    )


def _words(label: str) -> str:
    return re.sub(r"[_\-/]+", " ", label).strip() or label


def _relative(data: Path, path: Path) -> str:
    """The data as seen from the project file. Folders are resolved: `..` leads out of where a link leads to."""
    return Path(
        os.path.relpath(data.parent.resolve() / data.name, path.parent.resolve())
    ).as_posix()
