"""The base of the results of stages that write training rows."""

from __future__ import annotations

from pathlib import Path

from tasks.records import Record, read_records
from tasks.stage import StageResult


class TrainingRows(StageResult):
    """A stage whose directory holds training rows in `kept.jsonl`."""

    @property
    def rows_file(self) -> Path:
        """The file of the training rows."""
        return self.directory / "kept.jsonl"

    def read(self) -> list[Record]:
        """The training rows, real ones first."""
        return read_records(self.rows_file)

    def dataset(self) -> tuple[str, Path]:
        """The training rows."""
        return "training", self.rows_file
