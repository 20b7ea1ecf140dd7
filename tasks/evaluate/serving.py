"""The serving stage: what it costs to answer with a bundle on this machine, measured in a process of its own.

`python -m tasks.evaluate.serving --bundle DIR --digest HEX` reads texts as JSON lines and writes the figures as one JSON object.
Two bundles are asked in turns, text by text, so that whatever else the machine does meets both and their ratio is fair.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.model.bundle import Classifier
from tasks.project import Project
from tasks.records import read_records
from tasks.stage import Stage, stage

VERSION = 1
WARM = 5  # answers before the first that is timed
PATIENCE = 600  # seconds for a fresh process


@dataclass(frozen=True)
class Measured:
    """A bundle and what two stages found of it, robustness and serving; None where the project file switches one off."""

    bundle: Path
    digest: str
    robustness: Stage | None = None
    serving: Stage | None = None

    def limited(self) -> dict[str, float]:
        """The figures that a champion's are compared with: `latency_p95_ms`, `bundle_mb` (as ratios) and `flip_rate` (by its rise)."""
        found = {k: float(self.serving.counts[k]) for k in ("latency_p95_ms", "bundle_mb")} if self.serving else {}
        rate = self.robustness.counts["flip_rate"]["value"] if self.robustness else None
        return found | ({} if rate is None else {"flip_rate": float(rate)})


def measures(challenger: Measured, champion: Measured, turns: Stage | None) -> dict[str, tuple[float, float]]:
    """By name the challenger's figure and the champion's, of those that both have. `turns` is `side_by_side` of the two, whose
    latencies stand in for those that were measured apart."""
    ours, theirs = challenger.limited(), champion.limited()
    found = {name: (value, theirs[name]) for name, value in ours.items() if name in theirs}
    if turns is not None:
        one, other = (float(turns.counts[who]["latency_p95_ms"]) for who in ("challenger", "champion"))
        found["latency_p95_ms"] = (one, other)
    return found


def serving(project: Project, bundle: Path, *, digest: str, splits: Stage, home: Path) -> Stage:
    """Latency of one text (`latency_p50_ms`, `latency_p95_ms`, tokenising included, warm), `texts_per_second` in batches,
    `memory_mb` and `memory_peak_mb` (resident, of a process that loads and answers), `bundle_mb` (all its files) and `model_mb`
    (what is read to answer). Once a bundle and host; over dev texts. MB are 10^6 bytes.
    """

    def build(out: Path, work: Path) -> dict[str, Any]:
        found = _in_fresh_process([(bundle, digest)], _texts(splits), calls=project.evaluate.serving)
        found = {**found["bundles"][0], **found["process"], **_size(bundle), "host": host()}
        atomic.write_json(out / "serving.json", found)
        return found

    return _stage(project, {"bundle": digest}, splits=splits, home=home, build=build)


def side_by_side(project: Project, challenger: Measured, champion: Measured, *, splits: Stage, home: Path) -> Stage:
    """The latency of two bundles that are asked in turns: `challenger` and `champion`, each with p50 and p95."""

    def build(out: Path, work: Path) -> dict[str, Any]:
        both = [(m.bundle, m.digest) for m in (challenger, champion)]
        told = _in_fresh_process(both, _texts(splits), calls=project.evaluate.serving)
        found = {
            who: {k: own[k] for k in ("latency_p50_ms", "latency_p95_ms")}
            for who, own in zip(("challenger", "champion"), told["bundles"], strict=True)
        }
        atomic.write_json(out / "serving.json", {**found, "host": host()})
        return found

    inputs = {"bundle": challenger.digest, "beside": champion.digest}
    return _stage(project, inputs, splits=splits, home=home, build=build)


def _stage(project: Project, inputs: dict[str, str], *, splits: Stage, home: Path, build: Any) -> Stage:
    params = {"host": host(), "calls": project.evaluate.serving}
    return stage(
        home, "serving", version=VERSION, params=params, inputs={**inputs, "splits": splits.digest}, build=build
    )


def _texts(splits: Stage) -> list[str]:
    return [r.text for r in sorted(read_records(splits.directory / "dev.jsonl"), key=lambda r: r.id)]


def host() -> dict[str, Any]:
    """What answers: the processor's name, the cores that this process may use, and the GPUs, by name."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    gpus = [line.partition(":")[2].strip() for card in cards for line in _lines(card) if line.startswith("Model:")]
    return {"cpu": names[0] if names else platform.machine(), "cores": len(os.sched_getaffinity(0)), "gpus": gpus}


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _size(bundle: Path) -> dict[str, float]:
    from tasks.model.inference.export import FILES

    sizes = {f["path"]: int(f["size"]) for f in atomic.read_json(bundle / atomic.MANIFEST)["files"]}
    chosen = atomic.read_json(bundle / "reseed.json").get("inference", {}).get("backend", "torch")
    begin = FILES.get(chosen, "model")
    read = [n for path, n in sizes.items() if path.startswith(begin) and (chosen in FILES or "safetensors" in path)]
    return {"bundle_mb": round(sum(sizes.values()) / 1e6, 3), "model_mb": round(sum(read) / 1e6, 3)}


def _in_fresh_process(bundles: list[tuple[Path, str]], texts: list[str], *, calls: int) -> dict[str, Any]:
    """What `main` writes. Raises RuntimeError with what the process said."""
    command = [sys.executable, "-m", "tasks.evaluate.serving", "--calls", str(calls)]
    for path, digest in bundles:
        command += ["--bundle", str(path), "--digest", digest]
    given = "".join(json.dumps(text) + "\n" for text in texts)
    try:
        ran = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{bundles[0][0]}: the cost of serving was not measured within {PATIENCE} s") from None
    if ran.returncode:
        why = ran.stderr.strip()[-500:] or f"exit status {ran.returncode}"
        raise RuntimeError(f"{bundles[0][0]}: the cost of serving was not measured: {why}")
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def latencies(models: Sequence[Classifier], texts: list[str], *, calls: int) -> list[dict[str, float]]:
    """Of each model the milliseconds that one text takes, at the median and the 95th percentile, over `calls` texts asked one by one.

    The models are asked in turns, who comes first in turns too.
    """
    import numpy as np

    for model in models:
        for i in range(WARM):
            model.probabilities([texts[i % len(texts)]])
    took: list[list[float]] = [[] for _ in models]
    for i in range(calls):
        for k in range(len(models)):
            at = (i + k) % len(models)
            began = time.perf_counter()
            models[at].probabilities([texts[i % len(texts)]])
            took[at].append(1000 * (time.perf_counter() - began))
    return [
        {"latency_p50_ms": round(float(p50), 3), "latency_p95_ms": round(float(p95), 3)}
        for p50, p95 in (np.percentile(own, [50, 95]) for own in took)
    ]


def memory() -> dict[str, float]:
    """Resident memory of this process, now and at its peak, in MB.

    The peak is the kernel's VmHWM: getrusage's ru_maxrss outlives exec, so a child's is never below its parent's.
    """
    import psutil

    now = float(psutil.Process().memory_info().rss)
    peaks = [1024.0 * int(line.split()[1]) for line in _lines("/proc/self/status") if line.startswith("VmHWM:")]
    return {"memory_mb": round(now / 1e6, 1), "memory_peak_mb": round(max([now, *peaks]) / 1e6, 1)}


def line(found: dict[str, Any]) -> str:
    """The cost in a line, for a person."""
    return (
        f"p50 {found['latency_p50_ms']:.1f} ms, p95 {found['latency_p95_ms']:.1f} ms, {found['texts_per_second']:.0f} texts/s, "
        f"{found['memory_mb']:.0f} MB of memory, {found['bundle_mb']:.0f} MB on disk ({found['model_mb']:.0f} read to answer)"
    )


def main(arguments: list[str] | None = None) -> int:
    """0, with the figures on standard output."""
    parser = argparse.ArgumentParser(description="What it costs to answer with a bundle on this machine.")
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--digest", action="append", required=True)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args(arguments)
    texts = [str(json.loads(row)) for row in sys.stdin if row.strip()]
    models = [Classifier.load(b, digest=d) for b, d in zip(options.bundle, options.digest, strict=True)]
    bundles: list[dict[str, float]] = latencies(models, texts, calls=options.calls)
    process: dict[str, float] = {}
    if len(models) == 1:
        from tasks.model.inference.choose import throughput

        bundles[0]["texts_per_second"] = throughput({"one": models[0]}, texts)["one"]
        process = memory()
    sys.stdout.write(json.dumps({"bundles": bundles, "process": process}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
