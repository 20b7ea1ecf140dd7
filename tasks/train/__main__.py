"""`python -m tasks.train --data DIR --out DIR`: train.jsonl and dev.jsonl (`text`, `label`) in, a bundle out.

Needs torch, transformers, datasets and scikit-learn; neither Prefect nor MLflow.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tasks import files
from tasks.errors import UserError
from tasks.project import Train
from tasks.readers import Columns, read_rows
from tasks.records import Record
from tasks.train.stage import write_bundle


def _records(path: Path) -> list[Record]:
    if not path.exists():
        raise UserError(f"{path} is not there: --data must hold train.jsonl and dev.jsonl")
    return [Record.of(r.text, r.label, "seed", place=r.place) for r in read_rows(path, Columns()) if not r.fault]


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
        rows = {split: _records(data / f"{split}.jsonl") for split in ("train", "dev")}
        work = out.parent / f".{out.name}.work"
        for split, records in rows.items():
            files.write_records(work / f"{split}.jsonl", records)
        labels = {str(r.label): "" for r in sorted(rows["train"], key=lambda r: str(r.label))}
        about: dict[str, object] = {}
        with files.published(out, about) as beside:
            about["counts"] = write_bundle(
                beside,
                work,
                labels=labels,
                settings=Train(model=str(model), **options),
                encoder=model,
                train=work / "train.jsonl",
                dev=work / "dev.jsonl",
                about={"base_model": str(model)},
                report=_progress,
            )
    except UserError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
