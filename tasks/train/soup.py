"""A greedy soup: the mean of several fine-tuned models' weights, where it beats each of them on dev.

Model soups: Wortsman et al. 2022 (arXiv:2203.05482), Recipe 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks import atomic
from tasks.dataset.split import SplitsResult
from tasks.labels import encode, label_of
from tasks.model.bundle import Classifier, check_bundle, save_bundle
from tasks.model.inference.backends import Torch
from tasks.progress import Progress, silent
from tasks.project import Project
from tasks.records import read_records
from tasks.stage import Metrics, StageResult, run_stage
from tasks.statistics.calibration import Calibration, predict_calibrated
from tasks.statistics.metrics import f1_macro
from tasks.train.stage import CalibrationValues, TrainResult
from tasks.workspace import Workspace

VERSION = 1


def greedy_soup(
    singles: list[float], score: Callable[[list[int]], float]
) -> tuple[list[int], float]:
    """(members, score) of the greedy soup.

    Models are tried from the best to the worst, equal ones in their order, and kept where the score does
    not fall. `score(members)` is that of the mean of these models.
    """
    first, *others = sorted(range(len(singles)), key=lambda i: (-singles[i], i))
    members, best = [first], singles[first]
    for i in others:
        f1 = score([*members, i])
        if f1 >= best:
            members, best = [*members, i], f1
    return members, best


class SoupResult(StageResult):
    """The greedy soup of several models: its members, its macro-F1 on dev, and that of each model.

    `bundle` and `calibration` are None where the soup did not win.
    """

    won: bool
    members: list[int]
    dev_f1_macro: float
    singles: list[float]
    bundle: str | None = None
    calibration: CalibrationValues | None = None

    @property
    def bundle_directory(self) -> Path:
        """The soup's bundle, where it won."""
        return self.directory / "bundle"

    def metrics(self) -> Metrics:
        """Dev F1, the number of members, and whether the soup won."""
        members, won = float(len(self.members)), float(self.won)
        return {"dev.f1_macro": self.dev_f1_macro, "soup.members": members, "soup.won": won}

    def artifacts(self) -> list[Path]:
        """The figures as a file."""
        return [self.directory / "soup.json"]


def build_soup(
    project: Project,
    models: list[TrainResult],
    *,
    splits: SplitsResult,
    workspace: Workspace,
    progress: Progress = silent,
) -> SoupResult:
    """`soup.json`, and `bundle/` where the soup of `models` beats the best of them on dev.

    All scores are computed here, in float32, so that they compare. The models' temperatures are removed
    before their weights are averaged, and the soup gets its own. The models' heads were initialised with
    different seeds, which the paper's were not, so a soup often loses.
    """

    def build(out: Path, scratch: Path) -> SoupResult:
        averager = _Averager(project, models, splits, progress)
        singles = [averager.score([i]) for i in range(len(models))]
        members, best = greedy_soup(singles, averager.score)
        won = len(members) > 1 and best > max(singles)
        result = SoupResult(won=won, members=sorted(members), dev_f1_macro=best, singles=singles)
        if won:
            digest, calibration = averager.save(members, out / "bundle", dev_f1_macro=best)
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


class _Averager:
    """The models' weights without their temperatures, and one network that holds means of them."""

    def __init__(
        self, project: Project, models: list[TrainResult], splits: SplitsResult, progress: Progress
    ) -> None:
        dev = read_records(splits.directory / "dev.jsonl")
        self._texts, self._labels = [r.text for r in dev], project.label_names
        self._y = encode([label_of(r) for r in dev], self._labels)
        self._multi_label = project.multi_label
        self._bundles = [m.bundle_directory for m in models]
        self._weights = [self._uncalibrated(path) for path in self._bundles]
        self._progress, self._scored = progress, 0

    def _uncalibrated(self, path: Path) -> dict[str, Any]:
        """A model's weights before calibration; the last model that is read becomes the network."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._about = check_bundle(path)
        local = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(path, **local)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            path, use_safetensors=True, **local
        )
        Calibration.from_json(self._about).unfold(self._model)
        return {k: v.detach().clone() for k, v in self._model.state_dict().items()}

    def _load_mean(self, members: list[int]) -> None:
        import torch

        def mean(key: str, first: Any) -> Any:
            if not first.is_floating_point():
                return first
            weights = torch.stack([self._weights[i][key].double() for i in members])
            return weights.mean(0).to(first.dtype)

        first = self._weights[members[0]]
        self._model.load_state_dict({key: mean(key, value) for key, value in first.items()})

    def _logits(self) -> np.ndarray:
        """Shape (dev rows, labels), float64; for single labels up to a constant per row."""
        torch, max_length = Torch(self._model, self._tokenizer), int(self._about["max_length"])
        multi_label = self._multi_label
        model = Classifier(torch, self._tokenizer, self._labels, max_length, multi_label)
        p = model.probabilities(self._texts).astype("float64")
        logits = np.log(np.maximum(p, 1e-30))
        return logits - np.log(np.maximum(1 - p, 1e-30)) if multi_label else logits

    def score(self, members: list[int]) -> float:
        """Macro-F1 on dev of the mean of these models."""
        self._load_mean(members)
        codes = predict_calibrated(self._logits(), self._y)
        self._scored += 1
        self._progress(self._scored, 2 * len(self._weights) - 1, f"of {len(members)}")
        return f1_macro(self._y, codes, list(range(len(self._labels))))

    def save(
        self, members: list[int], directory: Path, *, dev_f1_macro: float
    ) -> tuple[str, CalibrationValues]:
        """Write the soup's bundle, calibrated on dev; returns its digest and calibration."""
        self._load_mean(members)
        calibration = Calibration.fit(self._logits(), self._y)
        if not calibration.fold(self._model):
            calibration = Calibration()
        values = calibration.to_json(self._labels)
        bundles = [atomic.verify(self._bundles[i])["digest"] for i in sorted(members)]
        about = {
            **self._about,
            **values,
            "dev": {"f1_macro": dev_f1_macro},
            "soup": {"bundles": bundles},
        }
        return save_bundle(self._model, self._tokenizer, directory, about=about), values
