"""Ask a bundle: `python -m tasks.model.predict --bundle DIR` answers one JSON line for each line of standard input.

Needs only torch and transformers. The registry runs it in a fresh process to see that a version loads and answers.
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


def _text(number: int, line: str) -> str:
    try:
        text = json.loads(line)
        if isinstance(text, str):
            text.encode()  # half a surrogate pair can be written in JSON, and no tokenizer reads it
            return text
    except ValueError:
        pass
    raise UserError(f"line {number} is not a JSON string: {line.strip()[:80]!r}")


def main(arguments: list[str] | None = None) -> int:
    """0 when every line was answered, 1 when the bundle can't be trusted or loaded, 2 when a line is no text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--digest", help="refuse any other bundle")
    options = parser.parse_args(arguments)
    try:
        classifier = Classifier.load(options.bundle, digest=options.digest)
    except (CorruptDirectory, OSError, ValueError, KeyError) as e:
        sys.stderr.write(f"{options.bundle}: {e}\n")
        return 1
    try:
        texts = [_text(number, line) for number, line in enumerate(sys.stdin, 1) if line.strip()]
    except UserError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    for prediction in classifier.predict(texts):
        sys.stdout.write(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
