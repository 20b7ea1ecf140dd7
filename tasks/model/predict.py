"""Ask a bundle: `python -m tasks.model.predict --bundle DIR` reads JSON strings, one per line.

Each is answered by one JSON line. Needs only torch and transformers. The registry runs it in a fresh
process, to see that a version loads and answers.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tasks.atomic import CorruptDirectory
from tasks.errors import UserError
from tasks.model.bundle import Classifier


def main(arguments: list[str] | None = None) -> int:
    """0 when all lines were answered, 1 for a bundle that is corrupt or does not load, 2 for a bad line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--digest", help="refuse any other bundle")
    options = parser.parse_args(arguments)
    try:
        classifier = Classifier.load(options.bundle, digest=options.digest)
    except (CorruptDirectory, OSError, ValueError, KeyError) as e:
        sys.stderr.write(f"{options.bundle}: {e}\n")
        return 1
    try:
        texts = [_parse(number, line) for number, line in enumerate(sys.stdin, 1) if line.strip()]
    except UserError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    for prediction in classifier.predict(texts):
        sys.stdout.write(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")
    return 0


def _parse(number: int, line: str) -> str:
    try:
        text = json.loads(line)
        if isinstance(text, str):
            text.encode()  # JSON can hold half a surrogate pair, which no tokenizer reads
            return text
    except ValueError:
        pass
    raise UserError(f"line {number} is not a JSON string: {line.strip()[:80]!r}")


if __name__ == "__main__":
    sys.exit(main())
