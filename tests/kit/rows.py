"""Small rows, files and projects for the tests of the pure stages."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from tasks.project import Project
from tasks.project.reader import load_project
from tasks.records import Record, Source

# the smallest project file
PROJECT_YAML = (
    "name: toy\nlabels:\n  fruit: what grows\n  metal: what rusts\ndata:\n  pool: rows.csv\n"
)


def text(word: str, i: int, n: int = 12) -> str:
    """`n` words that no other (word, i) shares."""
    return " ".join(f"{word}{i}x{j}" for j in range(n))


def rows(**counts: int) -> list[dict[str, Any]]:
    """So many different rows of each label: `rows(fruit=3, metal=2)`."""
    return [
        {"text": text(label, i), "label": label} for label, n in counts.items() for i in range(n)
    ]


def write(path: Path, table: list[dict[str, Any]]) -> Path:
    """`table` as CSV or JSON Lines, by the suffix of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as f:
        if path.suffix == ".jsonl":
            f.writelines(json.dumps(row) + "\n" for row in table)
        else:
            out = csv.DictWriter(f, list(table[0]))
            out.writeheader()
            out.writerows(table)
    return path


def project(
    data: dict[str, Any], labels: tuple[str, ...] = ("fruit", "metal"), **sections: Any
) -> Project:
    """A project with these labels. `sections` are its other keys."""
    described = {label: f"texts about {label}" for label in labels}
    return Project.model_validate({"name": "toy", "labels": described, "data": data, **sections})


def load_yaml(folder: Path, text: str, *overrides: str) -> Project:
    """The project in a file with this text."""
    path = folder / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return load_project(path, overrides)


def record(
    words: str, label: str | None = "fruit", source: Source = "synthetic", **lineage: Any
) -> Record:
    """A record of its content."""
    return Record.create(words, label, source, **lineage)
