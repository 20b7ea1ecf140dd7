"""Ask the champion: texts from arguments, a file or standard input; answers to the screen or a file."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from flows.registry.client import Registry, Version, require_champion
from flows.settings import Settings
from flows.tracking.store import connect
from tasks import atomic
from tasks.dataset.readers import Columns, read_rows
from tasks.errors import UserError
from tasks.records import NO_LABEL


@dataclass(frozen=True, slots=True)
class TextInput:
    """Texts, with each one's id or place where it came from a file."""

    texts: list[str]
    places: list[str]


def read_texts(texts: list[str], source: Path | None, text_column: str) -> TextInput:
    """The texts to ask about. Raises UserError when there are none, or one can't be read."""
    if texts and source:
        raise UserError("give texts or --in FILE, not both")
    if source is not None:
        if not source.exists():
            raise UserError(f"{source} is not there")
        rows = list(read_rows(source, Columns(text_column, None, None)))
        bad = next((r for r in rows if r.fault), None)
        if bad:
            raise UserError(
                f"{source}: {bad.place}: {bad.fault}; every row needs a text to be answered"
            )
        return TextInput([r.text for r in rows], [r.place for r in rows])
    if not texts:
        if sys.stdin.isatty():
            raise UserError("give a text, --in FILE, or lines on standard input")
        try:
            lines = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8").read().splitlines()
        except UnicodeDecodeError as e:
            raise UserError(
                f"standard input is not UTF-8: byte 0x{e.object[e.start]:02x} at {e.start}"
            ) from None
        texts = [line for line in lines if line.strip()]
    if not texts or not all(t.strip() for t in texts):
        raise UserError(
            "there is no text to ask about: give a text, --in FILE, or lines on standard input"
        )
    return TextInput(texts, [str(i + 1) for i in range(len(texts))])


def load_champion(settings: Settings, name: str) -> tuple[Version, Path]:
    """The champion of `name` and its verified bundle on this machine. Raises UserError when there is none."""
    registry = Registry(connect(settings), settings)
    champion = require_champion(registry, name)
    return champion, registry.fetch(champion)


def predict_texts(
    settings: Settings, name: str, given: TextInput
) -> tuple[Version, list[dict[str, Any]]]:
    """The champion, and label, score and scores for each text; labels and scores where it is a multi-label model."""
    champion, directory = load_champion(settings, name)
    from tasks.model.bundle import Classifier

    predictions = Classifier.load(directory, digest=champion.digest).predict(given.texts)
    return champion, [asdict(p) for p in predictions]


def write_predictions(out: Path, given: TextInput, answers: list[dict[str, Any]]) -> None:
    """CSV (text, label, score; a cell that a spreadsheet would run is quoted with ') or JSONL (with every score).

    Of a multi-label model the CSV has the labels as a JSON list, as data is read, and a score a label.
    """
    if out.exists():
        raise UserError(f"{out} is there already: give --out a new file")
    if out.suffix == ".jsonl":
        lines = [
            json.dumps({"text": t, **a}, ensure_ascii=False)
            for t, a in zip(given.texts, answers, strict=True)
        ]
        atomic.write_bytes(out, ("\n".join(lines) + "\n").encode())
    elif out.suffix == ".csv":
        text = io.StringIO()
        table = csv.writer(text)
        if answers and "labels" in answers[0]:
            table.writerow(
                ["text", "labels", *(_cell(f"score {label}") for label in answers[0]["scores"])]
            )
            rows = [
                [json.dumps(a["labels"], ensure_ascii=False), *a["scores"].values()]
                for a in answers
            ]
        else:
            table.writerow(["text", "label", "score"])
            rows = [[_cell(a["label"]), a["score"]] for a in answers]
        table.writerows([_cell(t), *row] for t, row in zip(given.texts, rows, strict=True))
        atomic.write_bytes(out, text.getvalue().encode())
    else:
        raise UserError(
            f"--out {out}: {out.suffix or 'no suffix'} is not written here; use .csv or .jsonl"
        )


def _cell(text: str) -> str:
    return "'" + text if text[:1] in "=+-@\t\r" else text


def show_predictions(texts: list[str], answers: list[dict[str, Any]], out: Path | None) -> None:
    """A line a text: label, score, text; of a multi-label model the labels with their scores, text."""
    if out is not None:
        click.echo(f"{len(answers)} answers written to {out}")
        return
    for text, a in zip(texts, answers, strict=True):
        shown = " ".join(text.split())
        click.echo(f"{_said(a)}\t{shown if len(shown) <= 100 else shown[:99] + '…'}")


def _said(answer: dict[str, Any]) -> str:
    if "labels" not in answer:
        return f"{answer['label']}\t{answer['score']:.3f}"
    return (
        ", ".join(f"{label} {answer['scores'][label]:.3f}" for label in answer["labels"])
        or NO_LABEL
    )
