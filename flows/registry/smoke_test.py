"""What a version must do before it is champion: load and answer in a new Python process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

from tasks.atomic import CorruptDirectory


def smoke_test(directory: Path, digest: str, *, probes: list[str], labels: list[str]) -> None:
    """Return when a new Python process loaded the bundle and answered every probe with one of `labels`.

    Raises CorruptDirectory with what the process said.
    """
    command = [
        sys.executable,
        "-m",
        "tasks.model.predict",
        "--bundle",
        str(directory),
        "--digest",
        digest,
    ]
    given = "".join(json.dumps(p) + "\n" for p in probes)
    try:
        ran = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=600, check=False
        )
    except subprocess.TimeoutExpired:
        raise CorruptDirectory(
            f"{directory}: a fresh process gave no answer within 600 s"
        ) from None
    answers = [json.loads(line) for line in ran.stdout.splitlines()] if ran.returncode == 0 else []
    if len(answers) != len(probes):
        raise CorruptDirectory(
            f"{directory}: a fresh process could not load it and answer: {ran.stderr.strip()[-500:]}"
        )
    for a in answers:
        said = a["labels"] if "labels" in a else [a["label"]]
        if not set(said) <= set(labels) or not all(map(math.isfinite, a["scores"].values())):
            raise CorruptDirectory(
                f"{directory}: a fresh process answered {said!r} with {a['scores']}"
            )
