"""Classify texts with the champion: from arguments, a file or stdin, to the screen or a file."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from pydantic import model_serializer

from flows.registry.client import Registry, Version, require_champion
from flows.settings import Settings
from flows.tracking.store import connect
from tasks import atomic
from tasks.dataset.readers import Columns, read_rows
from tasks.errors import UserError
from tasks.figures import Figures
from tasks.model.bundle import Classifier, LabelSet, Prediction
from tasks.records import NO_LABEL


class TextAnswer(Figures):
    """A text with the champion's answer; written as one object."""

    text: str
    answer: Prediction | LabelSet

    @model_serializer
    def merge(self) -> dict[str, Any]:
        """The text and the fields of the answer."""
        return {"text": self.text, **asdict(self.answer)}


class PredictionReport(Figures):
    """The champion's answers: in `predictions`, or in the file `out`."""

    model: str
    version: str
    rows: int
    predictions: list[TextAnswer] | None
    out: str | None


def read_texts(texts: Sequence[str], source: Path | None, text_column: str) -> list[str]:
    """The texts to classify: the arguments, the rows of a file, or the lines of standard input.

    Raises UserError where there are none, or one is unreadable.
    """
    if texts and source:
        raise UserError("texts and --in FILE exclude each other: give one of them")
    if source is not None:
        return _read_file(source, text_column)
    texts = texts or _read_stdin()
    if not texts or not all(text.strip() for text in texts):
        raise UserError("there is no text: give a text, --in FILE, or lines on standard input")
    return list(texts)


def _read_file(source: Path, text_column: str) -> list[str]:
    if not source.exists():
        raise UserError(f"--in {source} does not exist: give an existing file")
    rows = list(read_rows(source, Columns(text_column, None, None)))
    for row in rows:
        if row.fault:
            raise UserError(f"{source}: {row.place}: {row.fault}: every row needs a text")
    return [row.text for row in rows]


def _read_stdin() -> list[str]:
    if sys.stdin.isatty():
        return []
    try:
        lines = sys.stdin.buffer.read().decode("utf-8").splitlines()
    except UnicodeDecodeError as e:
        byte = f"byte 0x{e.object[e.start]:02x} at {e.start}"
        raise UserError(f"standard input is not UTF-8 ({byte}): convert it to UTF-8") from None
    return [line for line in lines if line.strip()]


def load_champion(settings: Settings, name: str) -> tuple[Version, Path]:
    """The champion and its verified bundle on this machine. Raises UserError where there is none."""
    registry = Registry(connect(settings), settings)
    champion = require_champion(registry, name)
    return champion, registry.fetch(champion)


def predict_texts(
    settings: Settings, name: str, texts: Sequence[str], out: Path | None
) -> PredictionReport:
    """Classify the texts with the champion; with `out`, write the answers to that file."""
    champion, directory = load_champion(settings, name)
    classifier = Classifier.load(directory, digest=champion.digest)
    answers: Sequence[Prediction | LabelSet] = classifier.predict(list(texts))
    predictions = [TextAnswer(text=t, answer=a) for t, a in zip(texts, answers, strict=True)]
    if out is not None:
        write_predictions(out, predictions)
    return PredictionReport(
        model=champion.name,
        version=champion.version,
        rows=len(predictions),
        predictions=predictions if out is None else None,
        out=None if out is None else str(out),
    )


def write_predictions(out: Path, predictions: Sequence[TextAnswer]) -> None:
    """Write a new file: CSV with text, label and score, or JSONL with every score.

    The CSV of a multi-label model has the labels as a JSON list and a score column per label. A cell
    that a spreadsheet would run as a formula is prefixed with '.
    """
    if out.exists():
        raise UserError(f"--out {out} exists already: give a new file")
    if out.suffix == ".jsonl":
        rows = (json.dumps(p.model_dump(), ensure_ascii=False) for p in predictions)
        text = "".join(f"{row}\n" for row in rows)
    elif out.suffix == ".csv":
        text = _as_csv(predictions)
    else:
        suffix = out.suffix or "no suffix"
        raise UserError(f"--out {out}: {suffix} is not supported: use .csv or .jsonl")
    atomic.write_bytes(out, text.encode())


def _as_csv(predictions: Sequence[TextAnswer]) -> str:
    text = io.StringIO()
    table = csv.writer(text)
    many = bool(predictions) and isinstance(predictions[0].answer, LabelSet)
    scores = [f"score {label}" for label in predictions[0].answer.scores] if many else ["score"]
    table.writerow(["text", "labels" if many else "label", *scores])
    for p in predictions:
        if isinstance(p.answer, LabelSet):
            cells = [json.dumps(p.answer.labels, ensure_ascii=False), *p.answer.scores.values()]
        else:
            cells = [_cell(p.answer.label), p.answer.score]
        table.writerow([_cell(p.text), *cells])
    return text.getvalue()


def _cell(text: str) -> str:
    return "'" + text if text[:1] in "=+-@\t\r" else text


def show_predictions(report: PredictionReport) -> None:
    """Print a line per text: its label and score, or its labels with their scores, and the text."""
    if report.predictions is None:
        click.echo(f"{report.rows} answers written to {report.out}")
    for p in report.predictions or []:
        answer, line = p.answer, " ".join(p.text.split())
        if isinstance(answer, LabelSet):
            scores = ", ".join(f"{label} {answer.scores[label]:.3f}" for label in answer.labels)
            shown = scores or NO_LABEL
        else:
            shown = f"{answer.label}\t{answer.score:.3f}"
        click.echo(f"{shown}\t{line if len(line) <= 100 else line[:99] + '…'}")
