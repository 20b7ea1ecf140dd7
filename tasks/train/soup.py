"""A greedy soup: the mean of several fine-tuned models' weights, where that beats each of them on dev.

Model soups: Wortsman et al. 2022 (arXiv:2203.05482), Recipe 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.labels import encode, label_of
from tasks.model.bundle import Classifier, check_bundle, save_bundle
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import read_records
from tasks.stage import Metrics, StageResult, run_stage
from tasks.statistics.calibration import Calibration, predict_calibrated
from tasks.train.stage import Calibrated, TrainResult
from tasks.workspace import Workspace

VERSION = 1


def greedy_soup(
    singles: list[float], score_of: Callable[[list[int]], float]
) -> tuple[list[int], float]:
    """(members, score) of the greedy soup: from the best single on, each next best is kept where the score does not fall.

    `score_of(members)` is the score of the mean of these models. Equal singles are tried in their order.
    """
    first, *others = sorted(range(len(singles)), key=lambda i: (-singles[i], i))
    members, best = [first], singles[first]
    for i in others:
        score = score_of([*members, i])
        if score >= best:
            members, best = [*members, i], score
    return members, best


class SoupResult(StageResult):
    """The greedy soup of several models: whether it won, its members, its macro-F1 on dev, and that of each model.

    `bundle` and `calibration` are None where the soup did not win.
    """

    won: bool
    members: list[int]
    dev_f1_macro: float
    singles: list[float]
    bundle: str | None = None
    calibration: Calibrated | None = None

    @property
    def bundle_directory(self) -> Path:
        return self.directory / "bundle"

    def metrics(self) -> Metrics:
        members, won = float(len(self.members)), float(self.won)
        return {"dev.f1_macro": self.dev_f1_macro, "soup.members": members, "soup.won": won}

    def artifacts(self) -> list[Path]:
        return [self.directory / "soup.json"]


def build_soup(
    project: Project,
    models: list[TrainResult],
    *,
    splits: SplitsResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> SoupResult:
    """`soup.json`, and `bundle/` where the soup of the `models` (trained by one recipe) has a strictly
    higher macro-F1 on dev than the best of them.

    Every score is computed here, in float32, so that they compare. The members' own temperatures are
    taken out before their weights are averaged, and the soup gets one of its own. The models' heads
    start at different places, which the paper's do not: that a soup loses is common.
    """

    def build(out: Path, scratch: Path) -> SoupResult:
        cook = _Cook(project, models, splits, progress)
        singles = [cook.score([i]) for i in range(len(models))]
        members, best = greedy_soup(singles, cook.score)
        won = len(members) > 1 and best > max(singles)
        result = SoupResult(won=won, members=sorted(members), dev_f1_macro=best, singles=singles)
        if won:
            digest, calibration = cook.serve(members, out / "bundle", best)
            result = result.model_copy(update={"bundle": digest, "calibration": calibration})
        atomic.write_json(out / "soup.json", result.model_dump())
        return result

    inputs = {f"model {i}": m.bundle for i, m in enumerate(models)} | {"splits": splits.digest}
    return run_stage(
        SoupResult,
        "soup",
        workspace=workspace,
        version=VERSION,
        params={},
        inputs=inputs,
        build=build,
    )


class _Cook:
    """The models' weights without their temperatures, and one network to put means of them into."""

    def __init__(
        self, project: Project, models: list[TrainResult], splits: SplitsResult, progress: Progress
    ) -> None:
        dev = read_records(splits.directory / "dev.jsonl")
        self._texts, self._labels = [r.text for r in dev], project.label_names
        self._y = encode([label_of(r) for r in dev], self._labels)
        self._multi = project.multi_label
        self._about: dict[str, Any] = {}
        self._bundles = [m.bundle_directory for m in models]
        self._weights = [self._raw(path) for path in self._bundles]
        self._progress, self._scored = progress, 0

    def _raw(self, path: Path) -> dict[str, Any]:
        """Weights as they were before calibration; the last model read stays as the network to fill."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._about = check_bundle(path)
        local = {"local_files_only": True, "trust_remote_code": False}
        self._model = AutoModelForSequenceClassification.from_pretrained(
            path, use_safetensors=True, **local
        )
        self._tokenizer = AutoTokenizer.from_pretrained(path, **local)
        Calibration.from_json(self._about).unfold(self._model)
        return {k: v.detach().clone() for k, v in self._model.state_dict().items()}

    def _fill(self, members: list[int]) -> None:
        import torch

        first = self._weights[members[0]]
        mean = {
            k: torch.stack([self._weights[i][k].double() for i in members]).mean(0).to(v.dtype)
            if v.is_floating_point()
            else v
            for k, v in first.items()
        }
        self._model.load_state_dict(mean)

    def _logits(self) -> Any:
        """Shape (dev rows, labels), float64; of one label a text, up to a constant a row."""
        import numpy as np

        length = int(self._about["max_length"])
        model = Classifier(
            self._model, self._tokenizer, self._labels, length, multi_label=self._multi
        )
        p = model.probabilities(self._texts).astype("float64")
        logits = np.log(np.maximum(p, 1e-30))
        return logits - np.log(np.maximum(1 - p, 1e-30)) if self._multi else logits

    def score(self, members: list[int]) -> float:
        """Macro-F1 on dev of the mean of these models."""
        from tasks.statistics.metrics import f1_macro

        self._fill(members)
        said = predict_calibrated(self._logits(), self._y)
        self._scored += 1
        self._progress(self._scored, 2 * len(self._weights) - 1, f"of {len(members)}")
        return f1_macro(self._y, said, list(range(len(self._labels))))

    def serve(
        self, members: list[int], directory: Path, dev_f1_macro: float
    ) -> tuple[str, Calibrated]:
        """Write the soup's bundle, calibrated on dev; its digest and calibration."""
        self._fill(members)
        fitted = Calibration.fit(self._logits(), self._y)
        if not fitted.fold(self._model):
            fitted = Calibration()
        origin = {"bundles": [atomic.verify(self._bundles[i])["digest"] for i in sorted(members)]}
        found = fitted.to_json(self._labels)
        about = self._about | found | {"dev": {"f1_macro": dev_f1_macro}, "soup": origin}
        digest = save_bundle(self._model, self._tokenizer, directory, about=about)
        return digest, found
