"""`python -m tasks.model.inference --bundle DIR --dev dev.jsonl --out DIR`: choose its backend here."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tasks.atomic import CorruptDirectory
from tasks.dataset.readers import Columns, read_rows
from tasks.errors import UserError
from tasks.model.inference.choose import choose_backend, describe_choice
from tasks.project import Predict


def main(arguments: list[str] | None = None) -> int:
    """0 when the bundle was written, 1 where it is corrupt, 2 for the user's mistake."""
    parser = argparse.ArgumentParser(
        description="Choose the backend of a bundle by measuring on this machine."
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument(
        "--dev", type=Path, required=True, help="texts to measure on: CSV, JSONL or Parquet"
    )
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--backend", choices=["auto", "torch", "onnx", "onnx-int8"], default="auto")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        if options.out.exists():
            raise UserError(f"{options.out} exists already: give --out a new folder")
        if options.threads < 0:
            raise UserError(f"--threads is {options.threads}: use 0 for every core, or more")
        texts = [r.text for r in read_rows(options.dev, Columns(label=None)) if not r.fault]
        settings = Predict(backend=options.backend, threads=options.threads)
        inference = choose_backend(options.bundle, options.out, settings=settings, texts=texts)
    except UserError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    except CorruptDirectory as e:
        sys.stderr.write(f"{options.bundle}: {e}\n")
        return 1
    sys.stderr.write(describe_choice(inference) + "\n")
    sys.stdout.write(json.dumps(inference.model_dump(mode="json")) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
