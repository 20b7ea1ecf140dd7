"""The machine that answers."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from tasks.figures import Figures


class Host(Figures):
    """The processor's name, the cores that this process may use, and the GPUs by name."""

    cpu: str
    cores: int
    gpus: list[str]


def this_host() -> Host:
    """The machine that runs this process."""
    cpus = read_fields(Path("/proc/cpuinfo"), "model name")
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return Host(
        cpu=cpus[0] if cpus else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        gpus=[name for card in cards for name in read_fields(card, "Model")],
    )


def read_fields(path: Path, key: str) -> list[str]:
    """The values of the lines `key: value` of a file below /proc; none where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    fields = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in fields if name.strip() == key]
