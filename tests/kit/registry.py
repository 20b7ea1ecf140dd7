"""A registry on a real store, with what its tests ask of it, and versions that differ."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from flows.registry import promotion
from flows.registry.client import Registry, Version
from flows.registry.promotion_log import PromotionLog
from flows.settings import Settings
from flows.tracking.store import connect
from tasks.model.bundle import BundleRef, save_bundle
from tests.kit import toy

LABELS = list(toy.LABELS)
PROBE: dict[str, Any] = {"probes": ["a text"], "labels": LABELS}

# processes are forked from a clean one that has imported everything: MLflow takes seconds to import
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.faults.test_promotion"])


def bundles_of(encoder: Path, folder: Path, n: int = 6) -> list[BundleRef]:
    """`n` bundles that differ in their heads."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    names, tokenizer = dict(enumerate(LABELS)), AutoTokenizer.from_pretrained(encoder)
    made = []
    for i in range(n):
        model = AutoModelForSequenceClassification.from_pretrained(
            encoder, num_labels=3, id2label=names
        )
        directory = folder / str(i) / "bundle"
        about = {"labels": toy.LABELS, "max_length": 32}
        made.append(BundleRef(directory, save_bundle(model, tokenizer, directory, about=about)))
    return made


class Store:
    """The registry of one store and workspace."""

    def __init__(self, settings: Settings, artifacts: str | None = None) -> None:
        self.settings = settings
        self.client: MlflowClient = connect(settings)
        self.registry = Registry(self.client, settings)
        self.experiment = self.client.create_experiment(
            "toy", artifact_location=artifacts or str(settings.workspace.mlflow_artifacts / "toy")
        )
        self.run_id = self.client.create_run(self.experiment).info.run_id

    def register(self, b: BundleRef, name: str = "toy") -> Version:
        told = {"run_id": self.run_id, "labels": LABELS, "description": "of the tests"}
        return self.registry.register(name, b.directory, digest=b.digest, **told)

    def promote(self, version: Version, expected: Version | None) -> None:
        promotion.promote(self.registry, version, expected=expected, reason="better", **PROBE)

    def aliases(self, name: str = "toy") -> dict[str, str]:
        return {k: str(v) for k, v in self.client.get_registered_model(name).aliases.items()}

    def log(self, name: str = "toy") -> PromotionLog:
        return PromotionLog.read(self.client, name)

    def moves(self, name: str = "toy") -> list[tuple[str | None, str]]:
        """The promotions that were carried out; the log must be whole, with no open intent."""
        log = self.log(name)
        assert log.intents == [] and log.broken_links() == []
        return [(row.before, row.version) for row in log.promotions]

    def stored(self, version: Version) -> Path:
        """Where the store keeps the version's bundle."""
        uri = self.client.get_model_version_download_uri(version.name, version.version)
        return Path(uri.removeprefix("file://")) / "artifacts" / "bundle"
