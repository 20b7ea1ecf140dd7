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
from tasks.dataset.split import SplitsResult
from tasks.evaluate.robustness import RobustnessResult
from tasks.figures import Figures
from tasks.model.bundle import BundleRef, Classifier
from tasks.project import Project
from tasks.records import read_records
from tasks.stage import Metrics, StageResult, run_stage
from tasks.workspace import Workspace

VERSION = 1
WARM = 5  # answers before the first that is timed
PATIENCE = 600  # seconds for a fresh process


class Host(Figures):
    """What answers: the processor's name, the cores that this process may use, and the GPUs by name."""

    cpu: str
    cores: int
    gpus: list[str]


class ServingResult(StageResult):
    """What it costs to answer with a bundle: milliseconds, texts per second, and MB of 10^6 bytes.

    `memory_mb` is resident, of a process that loads and answers; `bundle_mb` is all files of the
    bundle, `model_mb` what is read to answer.
    """

    latency_p50_ms: float
    latency_p95_ms: float
    texts_per_second: float
    memory_mb: float
    memory_peak_mb: float
    bundle_mb: float
    model_mb: float
    host: Host

    def metrics(self) -> Metrics:
        return {f"serving.{name}": float(v) for name, v in self if name != "host"}

    def headline(self) -> Metrics:
        return self.metrics()

    def artifacts(self) -> list[Path]:
        return [self.directory / "serving.json"]


class Latencies(Figures):
    """Milliseconds for one text, at the median and the 95th percentile."""

    latency_p50_ms: float
    latency_p95_ms: float


class ServingComparisonResult(StageResult):
    """The latencies of two bundles that were asked in turns."""

    challenger: Latencies
    champion: Latencies

    def metrics(self) -> Metrics:
        return {f"serving.{who}.{name}": v for who, own in self for name, v in own}

    def artifacts(self) -> list[Path]:
        return [self.directory / "serving.json"]


@dataclass(frozen=True)
class Measured:
    """A bundle and what two stages found of it; None where the project file switches one off."""

    bundle: BundleRef
    robustness: RobustnessResult | None = None
    serving: ServingResult | None = None

    def limited(self) -> dict[str, float]:
        """The figures that are compared with a champion's.

        `latency_p95_ms` and `bundle_mb` are compared as ratios, `flip_rate` by its rise.
        """
        found = {}
        if self.serving:
            found = {
                "latency_p95_ms": self.serving.latency_p95_ms,
                "bundle_mb": self.serving.bundle_mb,
            }
        rate = self.robustness.flip_rate.value if self.robustness else None
        return found | ({} if rate is None else {"flip_rate": rate})


def measures(
    challenger: Measured, champion: Measured, turns: ServingComparisonResult | None
) -> dict[str, tuple[float, float]]:
    """By name the challenger's figure and the champion's, of those that both have.

    The latencies are those of `turns` where the two were asked in turns.
    """
    ours, theirs = challenger.limited(), champion.limited()
    found = {name: (value, theirs[name]) for name, value in ours.items() if name in theirs}
    if turns is not None:
        found["latency_p95_ms"] = (turns.challenger.latency_p95_ms, turns.champion.latency_p95_ms)
    return found


def measure_serving(
    project: Project, bundle: BundleRef, *, splits: SplitsResult, workspace: Workspace
) -> ServingResult:
    """What it costs to answer dev texts with the bundle on this host, in a process of its own: warm, tokenising included."""

    def build(out: Path, scratch: Path) -> ServingResult:
        found = _in_fresh_process([bundle], _texts(splits), calls=project.evaluate.serving_rows)
        result = ServingResult(
            **found["bundles"][0], **found["process"], **_size(bundle.directory), host=host()
        )
        atomic.write_json(out / "serving.json", result.model_dump())
        return result

    return run_stage(
        ServingResult,
        "serving",
        workspace=workspace,
        version=VERSION,
        params={"host": host().model_dump(), "calls": project.evaluate.serving_rows},
        inputs={"bundle": bundle.digest, "splits": splits.digest},
        build=build,
    )


def compare_serving(
    project: Project,
    challenger: BundleRef,
    champion: BundleRef,
    *,
    splits: SplitsResult,
    workspace: Workspace,
) -> ServingComparisonResult:
    """The latencies of two bundles that are asked in turns."""

    def build(out: Path, scratch: Path) -> ServingComparisonResult:
        told = _in_fresh_process(
            [challenger, champion], _texts(splits), calls=project.evaluate.serving_rows
        )
        ours, theirs = (Latencies.model_validate(own) for own in told["bundles"])
        result = ServingComparisonResult(challenger=ours, champion=theirs)
        atomic.write_json(
            out / "serving.json", {**result.model_dump(), "host": host().model_dump()}
        )
        return result

    return run_stage(
        ServingComparisonResult,
        "serving_comparison",
        workspace=workspace,
        version=VERSION,
        params={"host": host().model_dump(), "calls": project.evaluate.serving_rows},
        inputs={"bundle": challenger.digest, "beside": champion.digest, "splits": splits.digest},
        build=build,
    )


def _texts(splits: SplitsResult) -> list[str]:
    return [
        r.text for r in sorted(read_records(splits.directory / "dev.jsonl"), key=lambda r: r.id)
    ]


def host() -> Host:
    """What answers: the processor's name, the cores that this process may use, and the GPUs, by name."""
    names = [
        line.partition(":")[2].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    gpus = [
        line.partition(":")[2].strip()
        for card in cards
        for line in _lines(card)
        if line.startswith("Model:")
    ]
    return Host(
        cpu=names[0] if names else platform.machine(), cores=len(os.sched_getaffinity(0)), gpus=gpus
    )


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
    read = [
        n
        for path, n in sizes.items()
        if path.startswith(begin) and (chosen in FILES or "safetensors" in path)
    ]
    return {"bundle_mb": round(sum(sizes.values()) / 1e6, 3), "model_mb": round(sum(read) / 1e6, 3)}


def _in_fresh_process(bundles: list[BundleRef], texts: list[str], *, calls: int) -> dict[str, Any]:
    """What `main` writes. Raises RuntimeError with what the process said."""
    command = [sys.executable, "-m", "tasks.evaluate.serving", "--calls", str(calls)]
    for bundle in bundles:
        command += ["--bundle", str(bundle.directory), "--digest", bundle.digest]
    given = "".join(json.dumps(text) + "\n" for text in texts)
    try:
        ran = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"{bundles[0].directory}: the cost of serving was not measured within {PATIENCE} s"
        ) from None
    if ran.returncode:
        why = ran.stderr.strip()[-500:] or f"exit status {ran.returncode}"
        raise RuntimeError(f"{bundles[0].directory}: the cost of serving was not measured: {why}")
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def latencies(
    models: Sequence[Classifier], texts: list[str], *, calls: int
) -> list[dict[str, float]]:
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
    peaks = [
        1024.0 * int(line.split()[1])
        for line in _lines("/proc/self/status")
        if line.startswith("VmHWM:")
    ]
    return {"memory_mb": round(now / 1e6, 1), "memory_peak_mb": round(max([now, *peaks]) / 1e6, 1)}


def line(found: ServingResult) -> str:
    """The cost in a line, for a person."""
    return (
        f"p50 {found.latency_p50_ms:.1f} ms, p95 {found.latency_p95_ms:.1f} ms, "
        f"{found.texts_per_second:.0f} texts/s, {found.memory_mb:.0f} MB of memory, "
        f"{found.bundle_mb:.0f} MB on disk ({found.model_mb:.0f} read to answer)"
    )


def main(arguments: list[str] | None = None) -> int:
    """0, with the figures on standard output."""
    parser = argparse.ArgumentParser(
        description="What it costs to answer with a bundle on this machine."
    )
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--digest", action="append", required=True)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args(arguments)
    texts = [str(json.loads(row)) for row in sys.stdin if row.strip()]
    models = [
        Classifier.load(b, digest=d) for b, d in zip(options.bundle, options.digest, strict=True)
    ]
    bundles: list[dict[str, float]] = latencies(models, texts, calls=options.calls)
    process: dict[str, float] = {}
    if len(models) == 1:
        from tasks.model.inference.choose import measure_throughput

        bundles[0]["texts_per_second"] = measure_throughput({"one": models[0]}, texts)["one"]
        process = memory()
    sys.stdout.write(json.dumps({"bundles": bundles, "process": process}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
