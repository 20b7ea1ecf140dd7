"""The smoke test of a version before it is champion: load and answer in a new Python process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

from tasks.atomic import CorruptDirectory

SECONDS = 600


def smoke_test(directory: Path, digest: str, *, probes: list[str], labels: list[str]) -> None:
    """Return where a new process loads the bundle and answers each of `probes` with one of `labels`.

    Raises CorruptDirectory with the process's error or wrong answer.
    """
    command = [sys.executable, "-m", "tasks.model.predict"]
    command += ["--bundle", str(directory), "--digest", digest]
    stdin = "".join(json.dumps(probe) + "\n" for probe in probes)
    try:
        ran = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CorruptDirectory(
            f"{directory}: a new process gave no answer within {SECONDS} s"
        ) from None
    answers = [json.loads(line) for line in ran.stdout.splitlines()] if ran.returncode == 0 else []
    if len(answers) != len(probes):
        error = ran.stderr.strip()[-500:]
        raise CorruptDirectory(f"{directory}: a new process could not load it and answer: {error}")
    for answer in answers:
        chosen = answer["labels"] if "labels" in answer else [answer["label"]]
        finite = all(map(math.isfinite, answer["scores"].values()))
        if not set(chosen) <= set(labels) or not finite:
            raise CorruptDirectory(
                f"{directory}: a new process answered {chosen!r} with {answer['scores']}"
            )
