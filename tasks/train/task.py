"""What a training is given: rows, labels, settings and an encoder; and what it reports to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.progress import Points, Progress, silent
from tasks.project import Project, Train
from tasks.records import Record


class RecordFile:
    """The records of a JSON Lines file, read again by each loop; its length is the number of lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as f:
            self._rows = sum(1 for _ in f)

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Record]:
        with self.path.open(encoding="utf-8") as f:
            for line in f:
                yield Record.from_json(json.loads(line))


Records = list[Record] | RecordFile


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """Fine-tune the checkpoint in `encoder` on `train`, watched on `dev`.

    `labels` are names with their descriptions; with `multi_label` a record has a set of them.
    """

    train: Records
    dev: Records
    labels: dict[str, str]
    settings: Train
    encoder: Path
    multi_label: bool = False

    @classmethod
    def of(cls, project: Project, encoder: Path, train: Records, dev: Records) -> TrainingTask:
        """The task with the labels and the settings of `project`."""
        return cls(train, dev, project.labels, project.train, encoder, project.multi_label)

    @property
    def label_names(self) -> list[str]:
        """The labels in the order of the model's outputs."""
        return list(self.labels)


@dataclass(frozen=True, slots=True)
class Listeners:
    """What is called during a training.

    `on_evaluation(epoch, dev F1)` is called after each evaluation on dev and may end the training by
    raising. `on_points` is called with no points when the training begins, then with points as they
    come; a training that resumes repeats those that follow its checkpoint.
    """

    progress: Progress = silent
    on_evaluation: Callable[[int, float], None] | None = None
    on_points: Callable[[Points], None] | None = None
