"""Write a project file for somebody's labelled rows."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import yaml

from tasks import files
from tasks.errors import UserError
from tasks.project_file import FLOAT, load_project
from tasks.readers import Columns, Row, column_names, read_rows
from tasks.records import content_id

TEXT_NAMES = ("text", "texts", "content", "body", "message", "sentence", "document", "description", "title")
LABEL_NAMES = ("label", "labels", "category", "class", "target", "topic", "intent", "tag")
MOST_LABELS = 200


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what the project's loader would read as a number, and escapes the line breaks of Unicode."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = '"' if value.splitlines() != [value] else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_implicit_resolver(*FLOAT)
_Dumper.add_representer(str, _text)


def write_project(data: Path, out: Path | None, *, text_column: str | None, label_column: str | None) -> dict[str, Any]:
    """`path`, `labels`, `rows`, `split` and a `message` on what to do next, after the project file was written.

    Raises UserError when the columns can't be told, a label has fewer than four rows, or the file is there already.
    """
    if not data.exists():
        raise UserError(f"{data} is not there: give a CSV, JSONL or Parquet file, or a folder per label")
    columns = Columns("text", "label") if data.is_dir() else _columns(data, text_column, label_column)
    rows = [r for r in read_rows(data, columns) if not r.fault]
    counts = Counter(str(r.label) for r in rows)
    texts = _texts(rows)
    _usable(data, columns, texts, len(rows))
    split = split_for(min(texts.values()))
    name = re.sub(r"[^a-z0-9._-]+", "-", data.stem.lower()).strip("-._")[:60] or "my-project"
    path = out or Path(f"{name}.yaml")
    if path.exists():
        raise UserError(f"{path} is there already: give --out another name, or move it away")
    files.write_bytes(path, _yaml(name, data, columns, counts, split, path).encode())
    load_project(path)
    message = (
        f"{path}: {len(counts)} labels, {len(rows)} rows ({split['test']} a label to test, {split['dev']} to watch training, "
        f"the rest to train on)\nnext: write one line of what each label's texts are about, then\n  reseed retrain {path}"
    )
    return {"path": str(path), "labels": dict(counts), "rows": len(rows), "split": split, "message": message}


def split_for(smallest: int) -> dict[str, int]:
    """Rows a label for test and dev, from the distinct rows of the smallest label: half to test (at most 100), a fifth to
    dev (at most 20)."""
    return {"test": max(1, min(100, smallest // 2)), "dev": max(1, min(20, smallest // 5))}


def _texts(rows: list[Row]) -> Counter[str]:
    """Different texts a label, as `prepare` counts them: one that stands under two labels counts for neither."""
    labels: dict[str, set[str]] = defaultdict(set)
    for r in rows:
        labels[content_id(r.text)].add(str(r.label))
    counts = Counter({str(r.label): 0 for r in rows})
    counts.update(next(iter(of)) for of in labels.values() if len(of) == 1)
    return counts


def _usable(data: Path, columns: Columns, counts: Counter[str], rows: int) -> None:
    if len(counts) < 2:
        raise UserError(f"{data} has {len(counts)} label in {columns.label!r}: a classifier needs at least two")
    if len(counts) > MOST_LABELS:
        raise UserError(
            f"{data}: {columns.label!r} has {len(counts)} different values in {rows} rows, more than {MOST_LABELS}: "
            f"is it the label column? Give --label-column"
        )
    label, fewest = counts.most_common()[-1]
    if fewest < 4:
        raise UserError(
            f"{data}: the label {label!r} has {fewest} text{'s' * (fewest != 1)}, and real rows are needed to test and to "
            f"watch training: give it at least 4, or drop it"
        )


def _columns(data: Path, text: str | None, label: str | None) -> Columns:
    present = column_names(data)
    for given in (text, label):
        if given is not None and given not in present:
            raise UserError(f"{data} has no column {given!r}: it has {', '.join(map(repr, present))}")
    lower = {p.lower().strip(): p for p in present}
    text = text or next((lower[n] for n in TEXT_NAMES if n in lower and lower[n] != label), None)
    label = label or next((lower[n] for n in LABEL_NAMES if n in lower and lower[n] != text), None)
    if text is None or label is None:
        missing = "text" if text is None else "label"
        raise UserError(
            f"{data}: which column holds the {missing}? It has {', '.join(map(repr, present))}: give --{missing}-column"
        )
    return Columns(text, label)


def _yaml(name: str, data: Path, columns: Columns, counts: Counter[str], split: dict[str, int], path: Path) -> str:
    def dump(value: Any) -> str:
        return str(yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=1000))

    labels = {label: f"texts about {_words(label)}" for label in sorted(counts)}
    reference = _relative(data, path)
    described: dict[str, Any] = {"pool": reference, "split": {**split, "rest": "seed"}}
    if not data.is_dir():
        described |= {"text_column": columns.text, "label_column": columns.label}
    return (
        f"# Written by `reseed init {data.name}`. Everything that can be set: docs/project-file.md\n"
        + dump({"name": name})
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
    return Path(os.path.relpath(data.parent.resolve() / data.name, path.parent.resolve())).as_posix()
