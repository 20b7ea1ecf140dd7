"""Read the project's real text and fix its splits: seed, dev, unlabelled, and a sealed test set.

Two directories come out. `splits` may be read by every stage. `sealed` holds the test rows and is opened through
`open_sealed` alone, which counts each opening. So that training rows can be checked against the test set without
opening it, `splits` carries its fingerprints: hashes of word n-grams, and embeddings of texts too short for these (see
tasks/curate/checks/leak.py).
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self, TypedDict

from tasks import atomic
from tasks.dataset.readers import Columns, Row, read_rows
from tasks.dataset.tables import rejected_table
from tasks.encoder.base_model import resolve_encoder
from tasks.errors import UserError, suggestion
from tasks.labels import label_of, unknown_labels
from tasks.project import Project
from tasks.records import (
    Label,
    Record,
    Rejected,
    Source,
    count_by_check,
    count_by_label,
    label_text,
    write_records,
)
from tasks.references import digest_of_path, resolve
from tasks.stage import Metrics, StageResult, Table, run_stage
from tasks.statistics.stratified_split import deal
from tasks.text.fingerprints import FINGERPRINTS, Fingerprints, is_short
from tasks.workspace import Workspace

VERSION = 2


class SplitsResult(StageResult):
    """The splits that every stage may read: rows by label, and what was rejected while reading.

    `rows` counts the rows of each labelled split; in a multi-label project a row counts for each of
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
        rows = {f"data.{split}.rows": float(n) for split, n in self.rows.items()}
        return rows | {"data.unlabelled.rows": float(self.unlabelled)}

    def tables(self) -> dict[str, Table]:
        return {"rejected": rejected_table(self.directory / "rejected.jsonl")}

    def dataset(self) -> tuple[str, Path]:
        return "dev", self.directory / "dev.jsonl"

    def summary(self) -> str:
        return "\n".join(self.notices)


class SealedResult(StageResult):
    """The sealed test set: rows by label. Only `open_sealed` reads its rows."""

    test: dict[str, int]


def split_dataset(project: Project, *, workspace: Workspace) -> SplitsResult:
    """The splits of the project's data; the sealed test set is published with them.

    Raises UserError for a label that is not the project's, duplicate ids, a class without test or
    dev rows, and files that cannot be read; TransientError when a store cannot be reached.
    """
    reading = _Reading.of(project, workspace)
    splits = _publish_splits(reading, workspace)
    if splits.short_held_out and project.curate.short_leak > 0:
        return _with_embeddings(project, splits, reading, workspace=workspace)
    return splits


def sealed_test_set(project: Project, *, workspace: Workspace) -> SealedResult:
    """The sealed test rows, as split_dataset published them. Raises what split_dataset raises."""
    return _publish_sealed(_Reading.of(project, workspace), workspace)


def _publish_sealed(reading: _Reading, workspace: Workspace) -> SealedResult:
    def build(out: Path, scratch: Path) -> SealedResult:
        write_records(out / "test.jsonl", reading.rows["test"])
        return SealedResult(test=count_by_label(reading.rows["test"]))

    return run_stage(
        SealedResult, "sealed", workspace=workspace, version=VERSION, build=build, **reading.key
    )


def _publish_splits(reading: _Reading, workspace: Workspace) -> SplitsResult:
    def build(out: Path, scratch: Path) -> SplitsResult:
        _publish_sealed(reading, workspace)
        for split in ("seed", "dev", "unlabelled"):
            write_records(out / f"{split}.jsonl", reading.rows[split])
        write_records(out / "rejected.jsonl", _without_test_text(reading))
        Fingerprints.from_records(reading.held_out).save(out / FINGERPRINTS)
        seed, dev, test = (count_by_label(reading.rows[split]) for split in ("seed", "dev", "test"))
        return SplitsResult(
            seed=seed,
            dev=dev,
            test=test,
            rows=reading.sizes(),
            unlabelled=len(reading.rows["unlabelled"]),
            short_held_out=sum(is_short(r.text) for r in reading.held_out),
            rejected=count_by_check(reading.rejected),
            notices=tuple(reading.notices()),
        )

    return run_stage(
        SplitsResult, "splits", workspace=workspace, version=VERSION, build=build, **reading.key
    )


def _with_embeddings(
    project: Project, plain: SplitsResult, reading: _Reading, *, workspace: Workspace
) -> SplitsResult:
    """The splits with the embeddings of short dev and test texts: only these depend on the encoder."""
    encoder = resolve_encoder(project, workspace)

    def build(out: Path, scratch: Path) -> SplitsResult:
        from tasks.encoder.embed import embed

        for path in plain.directory.iterdir():
            if path.name not in (FINGERPRINTS, atomic.MANIFEST):
                shutil.copyfile(path, out / path.name)
        Fingerprints.from_records(reading.held_out, embed=lambda texts: embed(encoder, texts)).save(
            out / FINGERPRINTS
        )
        return plain

    inputs = {"splits": plain.digest, "encoder": digest_of_path(encoder)}
    return run_stage(
        SplitsResult,
        "splits",
        workspace=workspace,
        version=VERSION,
        params={},
        inputs=inputs,
        build=build,
    )


def _in_turn(groups: dict[str, list[Record]], want: dict[str, int]) -> dict[str, str]:
    """The part of each group, in the order of their names: the first in which one of its labels lacks rows, if any."""
    have: dict[str, Counter[Label | None]] = {name: Counter() for name in want}
    found = {}
    for key, members in sorted(groups.items()):
        short = (name for name, n in want.items() if any(have[name][r.label] < n for r in members))
        if (name := next(short, None)) is not None:
            found[key] = name
            have[name].update(r.label for r in members)
    return found


def _without_test_text(reading: _Reading) -> list[Rejected]:
    """The rejected rows; the text of one that repeats a test row stays sealed."""
    sealed = {r.id for r in reading.rows["test"]}
    return [
        replace(r, record=replace(r.record, text="", label=None)) if r.record.id in sealed else r
        for r in reading.rejected
    ]


class _Key(TypedDict):
    """What the key of a stage that reads the project's data is made of."""

    params: dict[str, object]
    inputs: dict[str, str]


class _Reading:
    """The rows of every split, read when first asked for: a found stage reads nothing."""

    def __init__(self, project: Project, paths: dict[str, Path]) -> None:
        self._project, self._paths = project, paths
        data = project.data.model_dump(mode="json", exclude=set(paths))
        params = {"labels": project.label_names, "data": data, "multi_label": project.multi_label}
        inputs = {name: digest_of_path(path) for name, path in paths.items()}
        self.key: _Key = {"params": params, "inputs": inputs}
        self._rows: dict[str, list[Record]] | None = None
        self.rejected: list[Rejected] = []
        self._ids: dict[str, str] = {}

    @classmethod
    def of(cls, project: Project, workspace: Workspace) -> Self:
        """The reading of the project's data; nothing is read yet."""
        paths = {
            name: resolve(reference, config_dir=project.config_dir, cache=workspace.cache)
            for name in ("pool", "train", "dev", "test", "unlabelled")
            if (reference := getattr(project.data, name))
        }
        return cls(project, paths)

    @property
    def rows(self) -> dict[str, list[Record]]:
        if self._rows is None:
            self._rows = self._read()
        return self._rows

    @property
    def held_out(self) -> list[Record]:
        return [*self.rows["dev"], *self.rows["test"]]

    def sizes(self) -> dict[str, int]:
        """Rows of each labelled split: where a row counts for each of its labels, no sum over labels says it."""
        return {split: len(self.rows[split]) for split in ("seed", "dev", "test")}

    def notices(self) -> list[str]:
        """One sentence for each kind of row set aside, with its first place."""
        first: dict[str, Rejected] = {}
        for r in self.rejected:
            first.setdefault(r.check, r)
        counts = count_by_check(self.rejected)
        return [
            f"{n} row{'s' * (n != 1)} set aside ({check}); first at {first[check].record.lineage.get('place')}: "
            f"{first[check].reason}"
            for check, n in counts.items()
        ]

    def _read(self) -> dict[str, list[Record]]:
        rows: dict[str, list[Record]] = {"seed": [], "dev": [], "test": [], "unlabelled": []}
        files: dict[str, Source] = {"test": "test", "dev": "dev", "train": "seed"}
        for name, source in files.items():  # a text in two files stays in the one read first
            if name in self._paths:
                rows[source] = self._elsewhere(self._unique(self._labelled(name, source)), rows)
        if "pool" in self._paths:
            self._split(self._elsewhere(self._unique(self._labelled("pool", "seed")), rows), rows)
        if "unlabelled" in self._paths:
            known = {r.id for r in rows["unlabelled"]}
            held = {"test": rows["test"], "dev": rows["dev"]}
            for r in self._elsewhere(list(self._unlabelled()), held):
                if r.id in known:
                    self._reject(r, "exact_duplicate", "the same text stands in the pool")
                else:
                    rows["unlabelled"].append(r)
        self._complete(rows)
        unusable = any(r.check != "ignored_label" for r in self.rejected)
        if self._project.data.bad_rows == "stop" and unusable:
            raise UserError(
                "; ".join(self.notices()) + "; mend them, or set data.bad_rows to reject"
            )
        return rows

    def _elsewhere(self, records: list[Record], taken: dict[str, list[Record]]) -> list[Record]:
        """The records whose text and group stand in none of the splits `taken`; the others are set aside as leaks."""
        ids = {r.id: split for split, rows in taken.items() for r in rows}
        groups = {
            g: split for split, rows in taken.items() for r in rows if (g := r.lineage.get("group"))
        }
        kept = []
        for r in records:
            group = r.lineage.get("group")
            if r.id in ids:
                self._reject(r, "leak", f"the same text stands in {ids[r.id]} and is kept there")
            elif group in groups:
                self._reject(r, "leak", f"its group {group!r} stands in {groups[group]}")
            else:
                kept.append(r)
        return kept

    def _labelled(self, name: str, source: Source) -> Iterator[Record]:
        data, names = self._project.data, self._project.label_names
        path = self._paths[name]
        columns = self._columns()
        unknown: dict[str, list[str]] = defaultdict(list)
        for row in read_rows(path, columns, encoding=data.encoding):
            record = self._record(row, source, path)
            if record is None:
                continue
            ignored = sorted(set(data.ignore_labels).intersection(record.labels))
            if ignored:
                self._reject(
                    record, "ignored_label", f"the label {ignored[0]!r} is in data.ignore_labels"
                )
            elif others := unknown_labels([label_of(record)], names):
                for label in sorted(others):
                    unknown[label].append(row.place)
            else:
                yield record
        if unknown:
            label, places = next(iter(unknown.items()))
            raise UserError(
                f"{path}: the label {label!r}{suggestion(label, names)} is not in the project; it stands on {len(places)} "
                f"row{'s' * (len(places) != 1)}, first at {places[0]}. Add it to `labels:` or to data.ignore_labels"
                + (
                    f" (also unknown: {', '.join(map(repr, list(unknown)[1:6]))})"
                    if len(unknown) > 1
                    else ""
                )
            )

    def _columns(self) -> Columns:
        project, data = self._project, self._project.data
        each = tuple(project.label_names) if data.one_column_per_label else ()
        own = (data.text_column, data.label_column, data.id_column, data.group_column)
        many = project.multi_label and not each
        return Columns(
            *own, many=many, separator=data.label_separator, each=each, keep=data.keep_columns
        )

    def _unlabelled(self) -> Iterator[Record]:
        data, path = self._project.data, self._paths["unlabelled"]
        seen: set[str] = set()
        columns = Columns(data.text_column, None, None, data.group_column, keep=data.keep_columns)
        for row in read_rows(path, columns, encoding=data.encoding):
            record = self._record(row, "unlabelled", path)
            if record and record.id in seen:
                self._reject(record, "exact_duplicate", "the same text stands earlier")
            elif record:
                seen.add(record.id)
                yield replace(record, label=None)

    def _record(self, row: Row, source: Source, path: Path) -> Record | None:
        if row.id is not None:
            if row.id in self._ids:
                raise UserError(
                    f"{path}: the id {row.id!r} stands twice, at {self._ids[row.id]} and {row.place}; ids in "
                    f"data.id_column ({self._project.data.id_column!r}) must be unique: mend it, or leave id_column out"
                )
            self._ids[row.id] = row.place
        named = {"id": row.id, "group": row.group, "columns": row.kept}
        record = Record.create(
            row.text, row.label, source, place=row.place, **{k: v for k, v in named.items() if v}
        )
        if row.fault:
            check = (
                "empty"
                if row.fault == "empty text"
                else "encoding"
                if row.fault.startswith("not ")
                else "unusable"
            )
            self._reject(record, check, row.fault)
            return None
        return record

    def _unique(self, records: Iterator[Record]) -> list[Record]:
        """One row a text. A text that stands under two labels is set aside under both."""
        groups: dict[str, list[Record]] = defaultdict(list)
        for r in records:
            groups[r.id].append(r)
        kept = []
        for first, *others in groups.values():
            labels = sorted({label_text(r.label) for r in (first, *others)})
            if len(labels) > 1:
                for r in (first, *others):
                    other = next(o for o in (first, *others) if o.label != r.label)
                    reason = f"the same text has the labels {' and '.join(map(repr, labels))}, at {r.lineage['place']} "
                    self._reject(
                        r, "two_labels", f"{reason}and {other.lineage['place']}", other=other.id
                    )
                continue
            kept.append(first)
            for r in others:
                self._reject(
                    r,
                    "exact_duplicate",
                    f"the same text stands at {first.lineage['place']}",
                    other=first.id,
                )
        return kept

    def _split(self, records: list[Record], rows: dict[str, list[Record]]) -> None:
        """Groups (without data.group_column, rows) ranked by content hash: each goes, whole, to the first of test, dev
        and seed in which one of its labels lacks rows, or else to the rest. Where texts have several labels, the scarcest
        label's groups are dealt out first (see tasks/statistics/stratified_split.py).
        """
        split, labels = self._project.data.split, self._project.label_names
        want = {
            "test": 0 if "test" in self._paths else split.test,
            "dev": split.dev,
            "seed": split.train,
        }
        groups: dict[str, list[Record]] = defaultdict(list)

        def place(r: Record) -> list[int]:
            return [labels.index(label) for label in r.labels]

        for r in sorted(records, key=lambda r: (place(r), r.id)):
            groups[r.group or r.id].append(r)
        dealt = deal(groups, want) if self._project.multi_label else _in_turn(groups, want)
        parts: dict[str, list[Record]] = {name: [] for name in (*want, "rest")}
        for key, members in sorted(groups.items()):
            parts[dealt.get(key, "rest")] += members
        self._enough(want, {name: count_by_label(parts[name]) for name in want}, records)
        for part in parts.values():
            part.sort(key=place)
        rows["test"] += [replace(r, source="test") for r in parts["test"]]
        rows["dev"] += [replace(r, source="dev") for r in parts["dev"]]
        rows["seed"] += parts["seed"] + (parts["rest"] if split.rest == "train" else [])
        if split.rest == "unlabelled":  # its labels are thrown away here; the place would tell them
            rows["unlabelled"] += [Record(r.id, r.text, None, "unlabelled") for r in parts["rest"]]

    def _enough(
        self, want: dict[str, int], have: dict[str, dict[str, int]], records: list[Record]
    ) -> None:
        usable = count_by_label(records)
        for label in self._project.label_names:
            if any(have[name].get(label, 0) < want[name] for name in ("test", "dev")):
                raise UserError(
                    f"{self._paths['pool']}: the label {label!r} has {usable.get(label, 0)} usable rows, fewer than data.split "
                    f"needs (test {want['test']} + dev {want['dev']}): lower data.split, or add rows"
                )

    def _complete(self, rows: dict[str, list[Record]]) -> None:
        for split in ("test", "dev"):
            have = count_by_label(rows[split])
            for label in self._project.label_names:
                if label not in have:
                    raise UserError(
                        f"{self._paths.get(split, split)}: the label {label!r} has no row in {split}, so its F1 can't be "
                        f"known: add rows of {label!r}, or remove the label from the project"
                    )

    def _reject(self, record: Record, check: str, reason: str, other: str | None = None) -> None:
        self.rejected.append(Rejected(record, check, reason, None, other))
