"""The serving stage: what it costs to answer with a bundle on this machine, in a fresh process."""

from __future__ import annotations

import json
from pathlib import Path

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.evaluate.host import Host, this_host
from tasks.evaluate.serving_process import Latencies, ProcessCost, run_fresh_process
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.records import read_records
from tasks.stage import Metrics, StageResult, run_stage
from tasks.workspace import Workspace

VERSION = 1
FIGURES = "serving.json"


class ServingResult(StageResult):
    """What it costs to answer with a bundle: milliseconds, texts per second, and MB of 10^6 bytes.

    `memory_mb` is resident, of a process that loads and answers; `bundle_mb` is all files of the
    bundle, `model_mb` those that are read to answer.
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
        """Latency, throughput, memory and size."""
        return {f"serving.{name}": float(v) for name, v in self if name != "host"}

    def headline(self) -> Metrics:
        """The same on the retrain's own run."""
        return self.metrics()

    def artifacts(self) -> list[Path]:
        """The figures."""
        return [self.directory / FIGURES]

    def describe(self) -> str:
        """The cost in one line."""
        return (
            f"p50 {self.latency_p50_ms:.1f} ms, p95 {self.latency_p95_ms:.1f} ms, "
            f"{self.texts_per_second:.0f} texts/s, {self.memory_mb:.0f} MB of memory, "
            f"{self.bundle_mb:.0f} MB on disk ({self.model_mb:.0f} read to answer)"
        )


class ServingComparisonResult(StageResult):
    """The latencies of two bundles that were asked in turns."""

    challenger: Latencies
    champion: Latencies

    def metrics(self) -> Metrics:
        """The latencies of both."""
        return {f"serving.{who}.{name}": v for who, latencies in self for name, v in latencies}

    def artifacts(self) -> list[Path]:
        """The figures."""
        return [self.directory / FIGURES]


def measure_serving(
    project: Project, bundle: BundleRef, *, splits: SplitsResult, workspace: Workspace
) -> ServingResult:
    """The cost of answering dev texts with the bundle on this host: warm, tokenising included."""
    host, calls = this_host(), project.evaluate.serving_rows

    def build(out: Path, scratch: Path) -> ServingResult:
        output = run_fresh_process([bundle], _texts(splits), calls=calls)
        cost = ProcessCost.model_validate_json(output)
        bundle_mb, model_mb = _sizes(bundle.directory)
        result = ServingResult(
            **cost.latencies.model_dump(),
            texts_per_second=cost.texts_per_second,
            **cost.memory.model_dump(),
            bundle_mb=bundle_mb,
            model_mb=model_mb,
            host=host,
        )
        atomic.write_json(out / FIGURES, result.model_dump())
        return result

    return run_stage(
        ServingResult,
        "serving",
        workspace=workspace,
        version=VERSION,
        params={"host": host.model_dump(), "calls": calls},
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
    host, calls = this_host().model_dump(), project.evaluate.serving_rows

    def build(out: Path, scratch: Path) -> ServingComparisonResult:
        output = run_fresh_process([challenger, champion], _texts(splits), calls=calls)
        ours, theirs = (Latencies.model_validate(latencies) for latencies in json.loads(output))
        result = ServingComparisonResult(challenger=ours, champion=theirs)
        atomic.write_json(out / FIGURES, {**result.model_dump(), "host": host})
        return result

    return run_stage(
        ServingComparisonResult,
        "serving_comparison",
        workspace=workspace,
        version=VERSION,
        params={"host": host, "calls": calls},
        inputs={"bundle": challenger.digest, "beside": champion.digest, "splits": splits.digest},
        build=build,
    )


def _texts(splits: SplitsResult) -> list[str]:
    records = read_records(splits.directory / "dev.jsonl")
    return [r.text for r in sorted(records, key=lambda r: r.id)]


def _sizes(bundle: Path) -> tuple[float, float]:
    """The MB of all files of the bundle, and of those that are read to answer."""
    from tasks.model.inference.export import FILES

    files = atomic.read_json(bundle / atomic.MANIFEST)["files"]
    sizes = {str(f["path"]): int(f["size"]) for f in files}
    metadata = atomic.read_json(bundle / "reseed.json")
    graph = FILES.get(metadata.get("inference", {}).get("backend", "torch"))
    read = [
        size
        for path, size in sizes.items()
        if (path.startswith(graph) if graph else path.startswith("model") and "safetensors" in path)
    ]
    return round(sum(sizes.values()) / 1e6, 3), round(sum(read) / 1e6, 3)
