"""The workspace: every path below RESEED_HOME, and where a project's last retrain left its data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks import atomic


class RetrainData(BaseModel):
    """The project file of one retrain, and the stage directories with its data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path
    splits: Path
    curated: Path
    rounds: tuple[Path, ...] = ()
    self_trained: Path | None = None


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that RESEED_HOME names. No other module joins a path to it."""

    home: Path

    # --- stages

    @property
    def stages(self) -> Path:
        """The directories of all stages."""
        return self.home / "stages"

    def stage(self, name: str, key: str) -> Path:
        """The directory that the stage `name` publishes under `key`."""
        return self.stages / name / key

    def scratch(self, name: str, key: str) -> Path:
        """A stage's working directory, which survives a kill and is removed on publication."""
        return self.home / "scratch" / name / key

    def published(self, name: str) -> Iterator[Path]:
        """The published directories of the stage `name`, in the order of their keys."""
        for manifest in sorted((self.stages / name).glob(f"[!.]*/{atomic.MANIFEST}")):
            if not manifest.parent.suffix:  # a corrupt directory was renamed to one with a suffix
                yield manifest.parent

    # --- caches

    @property
    def cache(self) -> Path:
        """Downloaded models and data."""
        return self.home / "cache"

    @property
    def llm_cache(self) -> Path:
        """Replies of LLMs, by request."""
        return self.cache / "llm"

    # --- projects

    def challenger(self, project: str) -> Path:
        """The file that says which challenger the retrains of `project` are about."""
        return self.home / "projects" / f"{project}.json"

    def ledger(self, project: str, generation: int) -> Path:
        """What the LLM requests of one challenger cost."""
        return self.home / "ledgers" / project / f"{generation}.jsonl"

    def decisions(self, project: str) -> Path:
        """What people decided about the rows of `project`."""
        return self.home / "decisions" / f"{project}.jsonl"

    def test_set_uses(self, digest: str) -> Path:
        """The log of each time the test set with this digest was used."""
        return self.home / "test_set_uses" / f"{digest[:32]}.jsonl"

    def report(self, project: str) -> Path:
        """The HTML report of the last retrain of `project`."""
        return self.home / "reports" / f"{project}.html"

    def tuned(self, study: str) -> Path:
        """The settings that a search found."""
        return self.home / "tune" / f"{study}.yaml"

    @property
    def studies(self) -> Path:
        """The database of the searches."""
        return self.home / "tune.db"

    def _last_retrain(self, project: str) -> Path:
        return self.home / "projects" / f"{project}.last_retrain.json"

    def note_last_retrain(self, project: str, last: RetrainData) -> None:
        """Record where `reseed review` and `reseed curate` find the data of the last retrain."""
        atomic.write_json(self._last_retrain(project), last.model_dump(mode="json"))

    def last_retrain(self, project: str) -> RetrainData | None:
        """The last retrain of `project` in this workspace; None where there was none."""
        path = self._last_retrain(project)
        try:
            return RetrainData.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def retrained_projects(self) -> list[str]:
        """The names of the projects that were retrained here, sorted."""
        folder = self.home / "projects"
        return sorted(
            p.name.removesuffix(".last_retrain.json") for p in folder.glob("*.last_retrain.json")
        )

    # --- locks

    def lock(self, name: str) -> Path:
        """The lock file called `name`."""
        return self.home / "locks" / f"{name}.lock"

    # --- serving and registry

    def served_bundle(self, project: str, digest: str) -> Path:
        """Where a downloaded and verified bundle is kept."""
        return self.home / "serving" / project / (digest[:32] or "unknown")

    @property
    def notifications(self) -> Path:
        """Notifications of promotions that are not delivered yet."""
        return self.home / "notifications"

    # --- MLflow and this workspace itself

    @property
    def mlflow_database(self) -> Path:
        """The database of an MLflow store in this workspace."""
        return self.home / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """Where an MLflow store that is a local file keeps its artifacts."""
        return self.home / "mlartifacts"

    @property
    def identity(self) -> Path:
        """The file with this workspace's own id."""
        return self.home / "workspace.jsonl"

    @property
    def logs(self) -> Path:
        """Log files of the servers."""
        return self.home / "logs"
