"""`python -m tasks.train --data DIR --out DIR`: train.jsonl and dev.jsonl (`text`, `label`) in, a bundle out.

Needs torch, transformers, datasets and scikit-learn; neither Prefect nor MLflow.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks import files
from tasks.errors import UserError, nearest
from tasks.project import Train
from tasks.readers import Columns, read_rows
from tasks.records import Record, digest_of
from tasks.train.stage import write_bundle


def _records(path: Path) -> list[Record]:
    if not path.exists():
        raise UserError(f"{path} is not there: --data must hold train.jsonl and dev.jsonl")
    rows = list(read_rows(path, Columns()))
    records = [Record.of(r.text, r.label, "seed", place=r.place) for r in rows if not r.fault]
    if not records:
        raise UserError(f"{path} has no row that can be used; the first is at {rows[0].place}: {rows[0].fault}")
    return records


def _settings(model: Path, options: dict[str, Any]) -> Train:
    try:
        return Train(model=str(model), **options)
    except ValidationError as e:
        wrong = e.errors()[0]
        name = str(wrong["loc"][0]).replace("_", "-")
        raise UserError(f"--{name} {wrong['input']}: {wrong['msg'][:1].lower() + wrong['msg'][1:]}") from None


def _need_labels(data: Path, labels: list[str], dev: list[Record]) -> None:
    if len(labels) < 2:
        raise UserError(
            f"{data / 'train.jsonl'} has only the label {labels[0]!r}: a classifier needs at least two labels"
        )
    odd = next((r for r in dev if r.label not in labels), None)
    if odd is not None:
        raise UserError(
            f"{data / 'dev.jsonl'}, at {odd.lineage['place']}: the label {odd.label!r}{nearest(str(odd.label), labels)} is "
            f"not in train.jsonl: add rows of it there, or remove it here"
        )


def _progress(done: int, total: int, note: str) -> None:
    if done % 10 == 0 or done == total:
        sys.stderr.write(f"step {done}/{total} {note}\n")


def main(arguments: list[str] | None = None) -> int:
    """0 when the bundle was written, 2 for the user's mistake."""
    parser = argparse.ArgumentParser(description="Fine-tune an encoder on DIR/train.jsonl, watched on DIR/dev.jsonl.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a new folder; OUT/bundle is the model")
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face directory")
    for name, field in Train.model_fields.items():
        kind: Any = field.annotation
        if kind in (int, float):
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=field.default)
    options = vars(parser.parse_args(arguments))
    data, out, model = options.pop("data"), options.pop("out"), options.pop("model")
    try:
        if out.exists():
            raise UserError(f"{out} is there already: give --out a new folder")
        settings = _settings(model, options)
        rows = {split: _records(data / f"{split}.jsonl") for split in ("train", "dev")}
        labels = dict.fromkeys(sorted({str(r.label) for r in rows["train"]}), "")
        _need_labels(data, list(labels), rows["dev"])
        # scratch that survives a kill, under what went in: other rows or settings must not go on from it
        read = {split: [[r.text, r.label] for r in records] for split, records in rows.items()}
        key = digest_of([settings.model_dump(mode="json"), read])[:16]
        work = out.parent / f".{out.name}.{key}.work"
        for split, records in rows.items():
            files.write_records(work / f"{split}.jsonl", records)
        about: dict[str, object] = {}
        with files.published(out, about) as beside:
            about["counts"] = write_bundle(
                beside,
                work,
                labels=labels,
                settings=settings,
                encoder=model,
                train=work / "train.jsonl",
                dev=work / "dev.jsonl",
                about={"base_model": str(model)},
                report=_progress,
            )
        shutil.rmtree(work)
    except UserError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
