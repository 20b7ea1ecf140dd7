"""What every part of one retrain needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from flows.progress import say
from flows.registry.client import Registry
from flows.settings import Settings
from flows.tracking.run import Tracking
from tasks.dataset.split import Prepared
from tasks.evaluate.serving import Measured
from tasks.project import Project
from tasks.stage import Stage


@dataclass
class Retrain:
    """One retrain: its project, where it works, and what it has taken so far."""

    project: Project
    config: Path
    settings: Settings
    generation: int
    judged_before: bool
    registry: Registry
    log: Tracking
    prepared: Prepared
    answers: Stage | None = None  # of the models that are told apart, where they are the real text
    seconds: Counter[str] = field(default_factory=Counter)
    measured: Measured | None = None  # the challenger's robustness and cost of serving
    adapted: Stage | None = None  # the encoder that is fine-tuned, where it is not the project's own
    judged: bool = False  # there is a verdict, and the promotion where there was one

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def beside(self) -> Path:
        return self.config.parent

    @property
    def places(self) -> dict[str, Path]:
        """The two folders that every stage asks for."""
        return {"beside": self.beside, "home": self.home}

    def timed(self, stage: Stage, name: str | None = None, title: str | None = None) -> Stage:
        """The stage, with what it took in this run counted: nothing when it was found."""
        name = name or stage.name
        title = title or name
        self.seconds[name] += 0.0 if stage.found else stage.seconds  # type: ignore[assignment]
        say(f"{title}: found" if stage.found else f"{title}: {stage.seconds:.0f} s")
        return stage
