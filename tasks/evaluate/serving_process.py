"""Answer texts with bundles in a fresh process, and measure what that costs.

`python -m tasks.evaluate.serving_process --bundle DIR --digest HEX` reads texts as JSON lines and
writes the cost as one JSON object; with several bundles the latencies of each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tasks.evaluate.host import read_fields
from tasks.figures import Figures
from tasks.model.bundle import BundleRef, Classifier

WARM_UP = 5  # answers before the first that is timed
TIMEOUT = 600  # seconds for a fresh process


class Latencies(Figures):
    """Milliseconds for one text, at the median and the 95th percentile."""

    latency_p50_ms: float
    latency_p95_ms: float


class Memory(Figures):
    """Resident memory of a process, now and at its peak, in MB of 10^6 bytes."""

    memory_mb: float
    memory_peak_mb: float


class ProcessCost(Figures):
    """What it costs a process to answer with one bundle."""

    latencies: Latencies
    texts_per_second: float
    memory: Memory


def run_fresh_process(bundles: Sequence[BundleRef], texts: Sequence[str], *, calls: int) -> str:
    """The JSON that `main` writes. Raises RuntimeError with the end of the process's output."""
    command = [sys.executable, "-m", "tasks.evaluate.serving_process", "--calls", str(calls)]
    for bundle in bundles:
        command += ["--bundle", str(bundle.directory), "--digest", bundle.digest]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    failure = f"{bundles[0].directory}: the cost of serving was not measured"
    try:
        ran = subprocess.run(
            command, input=lines, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{failure} within {TIMEOUT} s") from None
    if ran.returncode:
        why = ran.stderr.strip()[-500:] or f"exit status {ran.returncode}"
        raise RuntimeError(f"{failure}: {why}")
    return ran.stdout.splitlines()[-1]


def measure_latencies(
    models: Sequence[Classifier], texts: Sequence[str], *, calls: int
) -> list[Latencies]:
    """The latencies of each model over `calls` texts, asked one by one.

    The models are asked in turns, and take turns at being first, so that whatever else the machine
    does affects all alike.
    """
    import numpy as np

    for model in models:
        for i in range(WARM_UP):
            model.probabilities([texts[i % len(texts)]])
    took: list[list[float]] = [[] for _ in models]
    for i in range(calls):
        for k in range(len(models)):
            turn = (i + k) % len(models)
            began = time.perf_counter()
            models[turn].probabilities([texts[i % len(texts)]])
            took[turn].append(1000 * (time.perf_counter() - began))
    return [
        Latencies(latency_p50_ms=round(float(p50), 3), latency_p95_ms=round(float(p95), 3))
        for p50, p95 in (np.percentile(milliseconds, [50, 95]) for milliseconds in took)
    ]


def measure_memory() -> Memory:
    """The memory of this process.

    The kernel's own figures: getrusage's ru_maxrss survives exec, so a child's is never below its
    parent's.
    """
    status = Path("/proc/self/status")
    now, peak = (
        round(1024 * int(read_fields(status, key)[0].split()[0]) / 1e6, 1)
        for key in ("VmRSS", "VmHWM")
    )
    return Memory(memory_mb=now, memory_peak_mb=max(now, peak))


def main(arguments: list[str] | None = None) -> int:
    """0, with the cost on standard output."""
    parser = argparse.ArgumentParser(description="Measure the cost of answering with a bundle.")
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--digest", action="append", required=True)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args(arguments)
    texts = [str(json.loads(row)) for row in sys.stdin if row.strip()]
    bundles = zip(options.bundle, options.digest, strict=True)
    models = [Classifier.load(bundle, digest=digest) for bundle, digest in bundles]
    latencies = measure_latencies(models, texts, calls=options.calls)
    if len(models) > 1:
        sys.stdout.write(json.dumps([own.model_dump() for own in latencies]) + "\n")
        return 0
    from tasks.model.inference.choose import measure_throughput

    speed = measure_throughput({"one": models[0]}, texts)["one"]
    cost = ProcessCost(latencies=latencies[0], texts_per_second=speed, memory=measure_memory())
    sys.stdout.write(cost.model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
