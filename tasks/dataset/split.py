"""Publish the splits of the project's real text, and the sealed test set in a directory of its own.

`splits` may be read by every stage, `sealed` only through `open_sealed`, which counts each use. To
check training rows against the test set without opening it, `splits` carries its fingerprints:
hashes of word n-grams, and embeddings of texts that are too short for them
(tasks/curate/checks/leak.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tasks import atomic
from tasks.dataset.split_reader import SplitReader
from tasks.dataset.tables import rejected_table
from tasks.encoder.base_model import resolve_encoder
from tasks.project import Project
from tasks.records import Rejected, count_by_check, count_by_label, write_records
from tasks.references import digest_of_path
from tasks.stage import Metrics, Result, StageResult, Table, run_stage
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints, is_short
from tasks.workspace import Workspace

VERSION = 2


class SplitsResult(StageResult):
    """The splits that every stage may read: rows by label, and what was rejected while reading.

    `rows` counts the rows of each labelled split. In a multi-label project a row counts for each of
    its labels in `seed`, `dev` and `test`.
    """

    seed: dict[str, int]
    dev: dict[str, int]
    test: dict[str, int]
    rows: dict[str, int]
    unlabelled: int
    short_held_out: int
    rejected: dict[str, int]
    notices: tuple[str, ...]

    def metrics(self) -> Metrics:
        """Rows by split."""
        rows = {f"data.{split}.rows": float(n) for split, n in self.rows.items()}
        return rows | {"data.unlabelled.rows": float(self.unlabelled)}

    def tables(self) -> dict[str, Table]:
        """The rejected rows."""
        return {"rejected": rejected_table(self.directory / "rejected.jsonl")}

    def dataset(self) -> tuple[str, Path]:
        """The dev rows."""
        return "dev", self.directory / "dev.jsonl"

    def summary(self) -> str:
        """What was rejected, one line per kind."""
        return "\n".join(self.notices)


class SealedResult(StageResult):
    """The sealed test set: rows by label. Only `open_sealed` reads its rows."""

    test: dict[str, int]


def split_dataset(project: Project, *, workspace: Workspace) -> SplitsResult:
    """The splits of the project's data; the sealed test set is published with them.

    Raises UserError for data that cannot be used (see SplitReader), and TransientError when a store
    cannot be reached.
    """
    reader = SplitReader(project, workspace)
    splits = _publish_splits(reader, workspace)
    if splits.short_held_out and project.curate.short_leak > 0:
        return _with_embeddings(project, splits, reader, workspace)
    return splits


def sealed_test_set(project: Project, *, workspace: Workspace) -> SealedResult:
    """The sealed test rows, as split_dataset published them. Raises what split_dataset raises."""
    return _publish_sealed(SplitReader(project, workspace), workspace)


def _publish_sealed(reader: SplitReader, workspace: Workspace) -> SealedResult:
    def build(out: Path, scratch: Path) -> SealedResult:
        write_records(out / "test.jsonl", reader.rows["test"])
        return SealedResult(test=count_by_label(reader.rows["test"]))

    return _publish(SealedResult, "sealed", reader, workspace, build)


def _publish_splits(reader: SplitReader, workspace: Workspace) -> SplitsResult:
    def build(out: Path, scratch: Path) -> SplitsResult:
        _publish_sealed(reader, workspace)
        rows = reader.rows
        for split in ("seed", "dev", "unlabelled"):
            write_records(out / f"{split}.jsonl", rows[split])
        write_records(out / "rejected.jsonl", _without_test_text(reader))
        Fingerprints.from_records(reader.held_out).save(out / FINGERPRINTS)
        return SplitsResult(
            seed=count_by_label(rows["seed"]),
            dev=count_by_label(rows["dev"]),
            test=count_by_label(rows["test"]),
            rows={split: len(rows[split]) for split in ("seed", "dev", "test")},
            unlabelled=len(rows["unlabelled"]),
            short_held_out=sum(is_short(r.text) for r in reader.held_out),
            rejected=count_by_check(reader.rejected),
            notices=tuple(reader.notices()),
        )

    return _publish(SplitsResult, "splits", reader, workspace, build)


def _publish(
    result: type[Result],
    name: str,
    reader: SplitReader,
    workspace: Workspace,
    build: Callable[[Path, Path], Result],
) -> Result:
    """A part of the split; both depend on the same rows and settings."""
    return run_stage(
        result,
        name,
        workspace=workspace,
        version=VERSION,
        params=reader.params,
        inputs=reader.inputs,
        build=build,
    )


def _without_test_text(reader: SplitReader) -> list[Rejected]:
    """The rejected rows, without the text and label of those that repeat a test row."""
    sealed = {r.id for r in reader.rows["test"]}
    return [
        replace(r, record=replace(r.record, text="", label=None)) if r.record.id in sealed else r
        for r in reader.rejected
    ]


def _with_embeddings(
    project: Project, splits: SplitsResult, reader: SplitReader, workspace: Workspace
) -> SplitsResult:
    """The splits with embeddings of short dev and test texts, which depend on the encoder."""
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> SplitsResult:
        from tasks.encoder.embed import embed

        for path in splits.directory.iterdir():
            if path.name not in (FINGERPRINTS, atomic.MANIFEST):
                shutil.copyfile(path, out / path.name)
        fingerprints = Fingerprints.from_records(
            reader.held_out, embed=lambda texts: embed(encoder, texts)
        )
        fingerprints.save(out / FINGERPRINTS)
        return splits

    return run_stage(
        SplitsResult,
        "splits",
        workspace=workspace,
        version=VERSION,
        params={},
        inputs={"splits": splits.digest, "encoder": digest_of_path(encoder)},
        build=build,
    )
