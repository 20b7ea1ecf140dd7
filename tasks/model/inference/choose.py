"""The backend that a bundle answers with: a given one, or the fastest here that agrees with float32."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.errors import UserError
from tasks.figures import Figures
from tasks.labels import predict_codes
from tasks.model.bundle import ABOUT, BundleRef, BundleResult, Classifier, check_bundle
from tasks.model.inference.backends import Onnx
from tasks.model.inference.export import FILES, CannotExport, export_graphs
from tasks.progress import Progress, silent
from tasks.project import Predict, Project
from tasks.records import read_records
from tasks.stage import Metrics, run_stage
from tasks.workspace import Workspace

VERSION = 2
TIMED, PASSES = 32, 3  # texts and passes that each backend is timed with
COMPARED = 2000  # dev texts whose answers are compared, at most


class BackendMeasure(Figures):
    """A backend's speed, tokenising included, and its answers against torch's in float32."""

    texts_per_second: float
    agreement: float
    largest_difference: float


class Inference(Figures):
    """The backend of a bundle and why, and what each backend measured on `rows` dev texts.

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
    """Copy `bundle` to the new folder `out` with the chosen backend's graph, measured on `texts`.

    The choice is also in its `reseed.json`. Raises UserError when the given backend is unavailable.
    """
    if not texts:
        raise UserError(
            "there is no dev text to compare the backends on: give data.dev or data.split.dev"
        )
    about = check_bundle(bundle)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        progress(0, 2, "export")
        candidates, failed = _candidates(bundle, Path(scratch), settings)
        progress(1, 2, "measure")
        measured = measure_backends(candidates, texts[:COMPARED])
        backend, why = pick_backend(measured, settings=settings, failed=failed)
        older_graphs = [f"{name}*" for name in FILES.values()]
        shutil.copytree(bundle, out, ignore=shutil.ignore_patterns(atomic.MANIFEST, *older_graphs))
        for path in Path(scratch).glob(f"{FILES.get(backend, '-')}*"):
            shutil.copyfile(path, out / path.name)
    inference = Inference(
        backend=backend,
        why=why,
        threads=settings.threads,
        batch_tokens=settings.batch_tokens,
        rows=min(len(texts), COMPARED),
        measured=measured,
        failed=failed,
    )
    atomic.write_json(out / ABOUT, {**about, "inference": inference.model_dump(mode="json")})
    atomic.seal(out)
    return inference


def _candidates(
    bundle: Path, directory: Path, settings: Predict
) -> tuple[dict[str, Classifier], dict[str, str]]:
    """The bundle with torch and with each graph that the settings allow; and failures by backend."""
    plain = Classifier.load(bundle, torch_only=True)  # the bundle may have another machine's graph
    candidates, labels = {"torch": plain}, len(plain.labels)
    kinds = {"auto": list(FILES), "torch": []}.get(settings.backend, [settings.backend])
    try:
        paths = export_graphs(bundle, directory, kinds=kinds) if kinds else {}
    except CannotExport as e:
        if settings.backend != "auto":
            raise UserError(
                f"predict.backend is {settings.backend}: {e}; or set it to torch"
            ) from None
        return candidates, {kind: str(e) for kind in kinds}
    options = {"labels": labels, "threads": settings.threads}
    for kind, path in paths.items():
        graph = Onnx(path, name=kind, multi_label=plain.multi_label, **options)
        candidates[kind] = plain.with_backend(graph)
    return candidates, {}


def measure_backends(
    candidates: dict[str, Classifier], texts: list[str]
) -> dict[str, BackendMeasure]:
    """What each backend measures on these texts."""
    answers = {name: c.probabilities(texts) for name, c in candidates.items()}
    speed = measure_throughput(candidates, texts)
    several = candidates["torch"].multi_label
    return {
        name: BackendMeasure(
            texts_per_second=speed[name],
            **compare_answers(p, answers["torch"], multi_label=several),
        )
        for name, p in answers.items()
    }


def measure_throughput(candidates: dict[str, Classifier], texts: list[str]) -> dict[str, float]:
    """Texts per second, tokenising included, of classifiers that have answered before.

    The fastest of several passes over the same texts; the classifiers take turns, so that other load on
    the machine affects all of them.
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
    """`agreement`, the share of rows with the reference's answer, and `largest_difference` of a probability."""
    codes = predict_codes(p, multi_label=multi_label)
    same = codes == predict_codes(reference, multi_label=multi_label)
    return {
        "agreement": round(float(same.reshape(len(p), -1).all(axis=1).mean()), 6),
        "largest_difference": round(float(np.abs(p - reference).max()), 6),
    }


def pick_backend(
    measured: Mapping[str, BackendMeasure],
    *,
    settings: Predict,
    failed: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """(backend, reason): the given one, or the fastest with at least `predict.agreement`."""
    if settings.backend != "auto":
        return settings.backend, "asked for"
    agreeing = [name for name, m in measured.items() if m.agreement >= settings.agreement]
    best = max(agreeing, key=lambda name: measured[name].texts_per_second)
    reasons = [f"the fastest that agrees on {settings.agreement:.1%} of dev labels"]
    reasons += [
        f"{name} agrees on {m.agreement:.2%} only"
        for name, m in measured.items()
        if name not in agreeing
    ]
    reasons += sorted({f"no {name}: {reason}" for name, reason in (failed or {}).items()})
    return best, "; ".join(reasons)


def describe_choice(inference: Inference) -> str:
    """The choice in a line for a person."""
    m, torch = inference.measured[inference.backend], inference.measured["torch"]
    if inference.backend == "torch":
        return f"torch, {m.texts_per_second:.0f} texts/s ({inference.why})"
    return (
        f"{inference.backend}, {m.texts_per_second:.0f} texts/s (torch {torch.texts_per_second:.0f}); "
        f"{m.agreement:.1%} of {inference.rows} dev labels equal, probabilities differ by at most "
        f"{m.largest_difference:.3f}"
    )


class ExportResult(BundleResult):
    """The bundle with the backend that it answers with, and what each backend measured."""

    inference: Inference

    def metrics(self) -> Metrics:
        """What each backend measured."""
        measured = self.inference.measured
        return {f"predict.{k}.{name}": v for name, m in measured.items() for k, v in m}

    def headline(self) -> Metrics:
        """What the chosen backend measured."""
        return {f"predict.{k}": v for k, v in self.inference.measured[self.inference.backend]}


def export_bundle(
    project: Project,
    *,
    trained: BundleRef,
    splits: SplitsResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> ExportResult:
    """`bundle/`: the trained one with its backend. A stage of its own: a kill costs no training."""

    def build(out: Path, scratch: Path) -> ExportResult:
        texts = [r.text for r in read_records(splits.directory / "dev.jsonl")]
        bundle, settings = out / "bundle", project.predict
        inference = choose_backend(
            trained.directory, bundle, settings=settings, texts=texts, progress=progress
        )
        digest = atomic.read_json(bundle / atomic.MANIFEST)["digest"]
        return ExportResult(bundle=digest, inference=inference)

    return run_stage(
        ExportResult,
        "export",
        workspace=workspace,
        version=VERSION,
        params=project.predict.model_dump(mode="json"),
        inputs={"bundle": trained.digest, "splits": splits.digest},
        build=build,
    )
