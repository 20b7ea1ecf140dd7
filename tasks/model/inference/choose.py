"""Which backend a bundle answers with: asked for, or the fastest on this machine that agrees with float32."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.errors import UserError
from tasks.figures import Figures
from tasks.labels import predict_codes
from tasks.model import bundle as bundles
from tasks.model.bundle import BundleRef, BundleResult, Classifier
from tasks.model.inference.backends import Onnx
from tasks.model.inference.export import FILES, CannotExport, export_graphs
from tasks.progress import Progress, silent
from tasks.project import Predict, Project
from tasks.records import read_records
from tasks.stage import Metrics, run_stage
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

VERSION = 2
TIMED, PASSES = 32, 3  # texts and times that each backend is timed with
COMPARED = 2000  # dev texts whose answers are compared, at most


class BackendMeasure(Figures):
    """One backend: its speed, tokenising included, and its answers against torch's in float32."""

    texts_per_second: float
    agreement: float
    largest_difference: float


class Inference(Figures):
    """The backend that a bundle answers with and why, and what each backend measured on `rows` dev texts.

    `failed` has the reason for each backend that could not be made.
    """

    backend: str
    why: str
    threads: int | None
    batch_tokens: int
    rows: int
    measured: dict[str, BackendMeasure]
    failed: dict[str, str]


def choose_backend(
    bundle: Path, out: Path, *, settings: Predict, texts: list[str], progress: Progress = silent
) -> Inference:
    """Write the bundle `bundle` into the new folder `out` with the chosen backend's graph; returns `reseed.json`'s
    `inference`: the backend, why, and what each candidate measured on `texts` (dev).

    Measured: texts a second, the share of labels equal to torch's in float32, the largest difference of a probability.
    Raises UserError when the backend asked for can't be had.
    """
    if not texts:
        raise UserError(
            "there is no dev text to compare the backends on: give data.dev or data.split.dev"
        )
    about = bundles.check_bundle(bundle)
    plain = Classifier.load(
        bundle, torch_only=True
    )  # it may have been exported before, for another machine
    kinds = {"auto": list(FILES), "torch": []}.get(settings.backend, [settings.backend])
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        candidates, failed = {"torch": plain}, {}
        progress(0, 2, "export")
        try:
            paths = export_graphs(bundle, Path(scratch), kinds=kinds) if kinds else {}
            for kind, path in paths.items():
                how: dict[str, Any] = {
                    "threads": settings.threads,
                    "multi_label": plain.multi_label,
                }
                backend = Onnx(path, name=kind, labels=len(plain.labels), **how)
                candidates[kind] = plain.with_backend(backend)
        except CannotExport as e:
            if settings.backend != "auto":
                raise UserError(
                    f"predict.backend is {settings.backend}: {e}; or set it to torch"
                ) from None
            failed = {kind: str(e) for kind in kinds}
        progress(1, 2, "measure")
        measured = measure_backends(candidates, texts[:COMPARED])
        backend_name, why = pick_backend(measured, settings=settings, failed=failed)
        before = [f"{name}*" for name in FILES.values()]
        shutil.copytree(bundle, out, ignore=shutil.ignore_patterns(atomic.MANIFEST, *before))
        for path in Path(scratch).glob(f"{FILES.get(backend_name, '-')}*"):
            shutil.copyfile(path, out / path.name)
    found = Inference(
        backend=backend_name,
        why=why,
        threads=settings.threads,
        batch_tokens=settings.batch_tokens,
        rows=min(len(texts), COMPARED),
        measured=measured,
        failed=failed,
    )
    atomic.write_json(out / bundles.ABOUT, {**about, "inference": found.model_dump(mode="json")})
    atomic.seal(out)
    return found


def measure_backends(
    candidates: dict[str, Classifier], texts: list[str]
) -> dict[str, BackendMeasure]:
    """By backend: `texts_per_second` (tokenising included), `agreement` and `largest_difference` against torch."""
    answers = {name: c.probabilities(texts) for name, c in candidates.items()}
    speed = measure_throughput(candidates, texts)
    return {
        name: BackendMeasure(
            texts_per_second=speed[name],
            **compare_answers(p, answers["torch"], multi_label=candidates["torch"].multi_label),
        )
        for name, p in answers.items()
    }


def measure_throughput(candidates: dict[str, Classifier], texts: list[str]) -> dict[str, float]:
    """Texts a second, tokenising included, of classifiers that are warm.

    The fastest of several passes over the same texts, the classifiers in turn, so that what else the machine does meets all.
    """
    timed = (texts * TIMED)[:TIMED]
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(PASSES):
        for name, c in candidates.items():
            began = time.perf_counter()
            c.probabilities(timed)
            best[name] = min(best[name], time.perf_counter() - began)
    return {name: round(TIMED / seconds, 1) for name, seconds in best.items()}


def compare_answers(
    p: np.ndarray, reference: np.ndarray, *, multi_label: bool = False
) -> dict[str, float]:
    """The share of rows whose most probable label (with `multi_label`, whose whole set) is the reference's, and the largest
    difference of a probability."""
    import numpy as np

    same = predict_codes(p, multi_label=multi_label) == predict_codes(
        reference, multi_label=multi_label
    )
    return {
        "agreement": round(float(same.reshape(len(p), -1).all(axis=1).mean()), 6),
        "largest_difference": round(float(np.abs(p - reference).max()), 6),
    }


def pick_backend(
    measured: Mapping[str, BackendMeasure],
    *,
    settings: Predict,
    failed: dict[str, str] | None = None,
) -> tuple[str, str]:
    """The backend and why: the one asked for; with `auto` the fastest whose agreement is `predict.agreement` or more."""
    if settings.backend != "auto":
        return settings.backend, "asked for"
    agreeing = [name for name, m in measured.items() if m.agreement >= settings.agreement]
    best = max(agreeing, key=lambda name: measured[name].texts_per_second)
    odd = [
        f"{name} agrees on {measured[name].agreement:.2%} only"
        for name in measured
        if name not in agreeing
    ]
    odd += sorted({f"no {name}: {reason}" for name, reason in (failed or {}).items()})
    return best, "; ".join(
        [f"the fastest that agrees on {settings.agreement:.1%} of dev labels", *odd]
    )


def describe_choice(found: Inference) -> str:
    """The choice in a line, for a person."""
    m, torch = found.measured[found.backend], found.measured["torch"]
    if found.backend == "torch":
        return f"torch, {m.texts_per_second:.0f} texts/s ({found.why})"
    return (
        f"{found.backend}, {m.texts_per_second:.0f} texts/s (torch {torch.texts_per_second:.0f}); "
        f"{m.agreement:.1%} of {found.rows} dev labels equal, a probability differs by "
        f"{m.largest_difference:.3f} at most"
    )


class ExportResult(BundleResult):
    """The bundle with the backend that it answers with, and what each backend measured."""

    inference: Inference

    def metrics(self) -> Metrics:
        measured = self.inference.measured
        return {f"predict.{k}.{name}": v for name, m in measured.items() for k, v in m}

    def headline(self) -> Metrics:
        return {f"predict.{k}": v for k, v in self.inference.measured[self.inference.backend]}


def export_bundle(
    project: Project,
    *,
    trained: BundleRef,
    splits: SplitsResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> ExportResult:
    """`bundle/`: the trained one with the backend that it answers with. Its own stage: a kill here costs no training."""

    def build(out: Path, scratch: Path) -> ExportResult:
        texts = [r.text for r in read_records(splits.directory / "dev.jsonl")]
        found = choose_backend(
            trained.directory,
            out / "bundle",
            settings=project.predict,
            texts=texts,
            progress=progress,
        )
        return ExportResult(
            bundle=atomic.read_json(out / "bundle" / atomic.MANIFEST)["digest"], inference=found
        )

    return run_stage(
        ExportResult,
        "export",
        workspace=workspace,
        version=VERSION,
        params=project.predict.model_dump(mode="json"),
        inputs={"bundle": trained.digest, "splits": splits.digest},
        build=build,
    )
