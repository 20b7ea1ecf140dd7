"""Read the project's real text into splits, and reject what cannot be used.

The test set takes a text first, then dev, then the training rows, so a row of a less sealed split
that repeats one of them, or belongs to its group, is rejected as a leak.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from tasks.dataset.readers import Columns, Row, read_rows
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
)
from tasks.references import digest_of_path, resolve
from tasks.statistics.stratified_split import assign_groups
from tasks.workspace import Workspace

Splits = dict[str, list[Record]]


class SplitReader:
    """The rows of every split. Nothing is read before `rows` is asked for.

    `params` and `inputs` identify the data; `rejected` is filled by reading. Reading raises
    UserError for a label that is not the project's, a repeated id, a label without dev or test
    rows, and files that cannot be read.
    """

    def __init__(self, project: Project, workspace: Workspace) -> None:
        self._project = project
        self._paths = {
            name: resolve(reference, config_dir=project.config_dir, cache=workspace.cache)
            for name, reference in project.data.references().items()
        }
        self.params: dict[str, object] = {
            "labels": project.label_names,
            "data": project.data.model_dump(mode="json", exclude=set(self._paths)),
            "multi_label": project.multi_label,
        }
        self.inputs = {name: digest_of_path(path) for name, path in self._paths.items()}
        self.rejected: list[Rejected] = []
        self._places: dict[str, str] = {}  # of ids

    @cached_property
    def rows(self) -> Splits:
        """The rows of `seed`, `dev`, `test` and `unlabelled`."""
        rows: Splits = {"seed": [], "dev": [], "test": [], "unlabelled": []}
        files: dict[str, Source] = {"test": "test", "dev": "dev", "train": "seed"}
        for name, source in files.items():
            if name in self._paths:
                rows[source] = self._without_leaks(self._read_labelled(name, source), rows)
        if "pool" in self._paths:
            self._add_pool(self._without_leaks(self._read_labelled("pool", "seed"), rows), rows)
        if "unlabelled" in self._paths:
            held_out = {"test": rows["test"], "dev": rows["dev"]}
            pool = {r.id for r in rows["unlabelled"]}
            for record in self._without_leaks(self._read_unlabelled(), held_out):
                if record.id in pool:
                    self._reject(record, "exact_duplicate", "the same text is in the pool")
                else:
                    rows["unlabelled"].append(record)
        self._check_held_out(rows)
        unusable = any(r.check != "ignored_label" for r in self.rejected)
        if self._project.data.bad_rows == "stop" and unusable:
            raise UserError(
                f"{'; '.join(self.notices())}: fix them, or set data.bad_rows to reject"
            )
        return rows

    @property
    def held_out(self) -> list[Record]:
        """The rows of dev and test."""
        return [*self.rows["dev"], *self.rows["test"]]

    def notices(self) -> list[str]:
        """One sentence for each kind of rejected row, with the first one's place and reason."""
        first = {r.check: r for r in reversed(self.rejected)}
        return [
            f"{n} row{'s' * (n != 1)} rejected ({check}), first at "
            f"{first[check].record.lineage.get('place')}: {first[check].reason}"
            for check, n in count_by_check(self.rejected).items()
        ]

    def _reject(self, record: Record, check: str, reason: str, other: str | None = None) -> None:
        self.rejected.append(Rejected(record, check, reason, None, other))

    def _without_leaks(self, records: Iterable[Record], others: Splits) -> list[Record]:
        """The records whose text and group are in none of the `others`."""
        ids = {r.id: split for split, rows in others.items() for r in rows}
        groups = {
            r.lineage["group"]: split
            for split, rows in others.items()
            for r in rows
            if "group" in r.lineage
        }
        kept = []
        for r in records:
            group = r.lineage.get("group")
            if r.id in ids:
                self._reject(r, "leak", f"the same text is in {ids[r.id]}, which keeps it")
            elif group in groups:
                self._reject(r, "leak", f"its group {group!r} is in {groups[group]}")
            else:
                kept.append(r)
        return kept

    def _read_labelled(self, name: str, source: Source) -> list[Record]:
        """The rows of a file: one per text, with labels of the project."""
        project, data, path = self._project, self._project.data, self._paths[name]
        columns = Columns(
            data.text_column,
            data.label_column,
            data.id_column,
            data.group_column,
            multi_label=project.multi_label and not data.one_column_per_label,
            separator=data.label_separator,
            label_columns=tuple(project.label_names) if data.one_column_per_label else (),
            metadata=data.keep_columns,
        )
        records: list[Record] = []
        unknown: dict[str, list[str]] = defaultdict(list)
        for record in self._read(path, columns, source):
            if ignored := sorted(set(data.ignore_labels).intersection(record.labels)):
                reason = f"the label {ignored[0]!r} is in data.ignore_labels"
                self._reject(record, "ignored_label", reason)
            elif labels := unknown_labels([label_of(record)], project.label_names):
                for label in sorted(labels):
                    unknown[label].append(record.lineage["place"])
            else:
                records.append(record)
        if unknown:
            label, *others = unknown
            places = unknown[label]
            also = f" (nor are {', '.join(map(repr, others[:5]))})" if others else ""
            raise UserError(
                f"{path}: the label {label!r}{suggestion(label, project.label_names)} of "
                f"{len(places)} row{'s' * (len(places) != 1)}, first at {places[0]}, is not in the "
                f"project{also}: add it to labels or to data.ignore_labels"
            )
        return self._one_per_text(records)

    def _read_unlabelled(self) -> list[Record]:
        """The rows of `data.unlabelled`: one per text."""
        data = self._project.data
        columns = Columns(
            data.text_column, None, None, data.group_column, metadata=data.keep_columns
        )
        records: dict[str, Record] = {}
        for record in self._read(self._paths["unlabelled"], columns, "unlabelled"):
            if record.id in records:
                place = records[record.id].lineage["place"]
                self._reject(record, "exact_duplicate", f"the same text is at {place}")
            else:
                records[record.id] = record
        return list(records.values())

    def _read(self, path: Path, columns: Columns, source: Source) -> Iterator[Record]:
        for row in read_rows(path, columns, encoding=self._project.data.encoding):
            if row.id is not None:
                self._check_id(path, row, row.id)
            lineage = {"id": row.id, "group": row.group, "columns": row.metadata}
            lineage = {k: v for k, v in lineage.items() if v}
            record = Record.create(row.text, row.label, source, place=row.place, **lineage)
            if row.fault:
                self._reject(record, row.check, row.fault)
            else:
                yield record

    def _check_id(self, path: Path, row: Row, key: str) -> None:
        if key in self._places:
            raise UserError(
                f"{path}: the id {key!r} in data.id_column ({self._project.data.id_column!r}) is "
                f"repeated, at {self._places[key]} and {row.place}: make ids unique, or remove "
                "data.id_column"
            )
        self._places[key] = row.place

    def _one_per_text(self, records: list[Record]) -> list[Record]:
        """One row per text. All rows of a text that has two labels are rejected."""
        by_text: dict[str, list[Record]] = defaultdict(list)
        for r in records:
            by_text[r.id].append(r)
        kept = []
        for same in by_text.values():
            first, *repeats = same
            labels = " and ".join(sorted({repr(label_text(r.label)) for r in same}))
            if any(r.label != first.label for r in repeats):
                for r in same:
                    other = next(o for o in same if o.label != r.label)
                    places = f"{r.lineage['place']} and {other.lineage['place']}"
                    reason = f"the same text has the labels {labels}, at {places}"
                    self._reject(r, "two_labels", reason, other=other.id)
                continue
            kept.append(first)
            for r in repeats:
                reason = f"the same text is at {first.lineage['place']}"
                self._reject(r, "exact_duplicate", reason, other=first.id)
        return kept

    def _add_pool(self, records: list[Record], rows: Splits) -> None:
        """Split the pool as `data.split` says."""
        project, split = self._project, self._project.data.split
        sizes = {"test": split.test, "dev": split.dev, "seed": split.train}
        if "test" in self._paths:
            sizes["test"] = 0
        parts = split_pool(records, sizes, project.label_names, multi_label=project.multi_label)
        counts = {name: count_by_label(parts[name]) for name in ("test", "dev")}
        for label in project.label_names:
            if any(counts[name].get(label, 0) < sizes[name] for name in counts):
                usable = count_by_label(records).get(label, 0)
                raise UserError(
                    f"{self._paths['pool']}: the label {label!r} has {usable} usable rows, fewer "
                    f"than data.split needs (test {sizes['test']} + dev {sizes['dev']}): lower "
                    "data.split, or add rows"
                )
        rows["test"] += [replace(r, source="test") for r in parts["test"]]
        rows["dev"] += [replace(r, source="dev") for r in parts["dev"]]
        rows["seed"] += parts["seed"] + (parts["rest"] if split.rest == "train" else [])
        if split.rest == "unlabelled":  # without the place, from which the label could be inferred
            rows["unlabelled"] += [Record(r.id, r.text, None, "unlabelled") for r in parts["rest"]]

    def _check_held_out(self, rows: Splits) -> None:
        for split in ("test", "dev"):
            counts = count_by_label(rows[split])
            for label in self._project.label_names:
                if label not in counts:
                    raise UserError(
                        f"{self._paths.get(split, split)}: the label {label!r} has no row in "
                        f"{split}, so its F1 is unknown: add rows, or remove the label"
                    )


def split_pool(
    records: list[Record], sizes: dict[str, int], labels: Sequence[str], *, multi_label: bool
) -> Splits:
    """The records of each part of `sizes` (rows per label), and of `rest`, sorted by label.

    Groups (a record without one is its own) are ranked by content hash. Each goes as a whole to the
    first part in which one of its labels lacks rows. Label sets are dealt out from the scarcest
    label (tasks/statistics/stratified_split.py).
    """

    def rank(r: Record) -> list[int]:
        return [labels.index(label) for label in r.labels]

    groups: dict[str, list[Record]] = defaultdict(list)
    for r in sorted(records, key=lambda r: (rank(r), r.id)):
        groups[r.group or r.id].append(r)
    assigned = assign_groups(groups, sizes) if multi_label else _assign_in_order(groups, sizes)
    parts: Splits = {name: [] for name in (*sizes, "rest")}
    for key, members in sorted(groups.items()):
        parts[assigned.get(key, "rest")] += members
    return {name: sorted(part, key=rank) for name, part in parts.items()}


def _assign_in_order(groups: dict[str, list[Record]], sizes: dict[str, int]) -> dict[str, str]:
    """The part of each group that is needed, in the order of the groups' names."""
    counts: dict[str, Counter[Label | None]] = {name: Counter() for name in sizes}
    assigned = {}
    for key, members in sorted(groups.items()):
        lacking = (
            name for name, n in sizes.items() if any(counts[name][r.label] < n for r in members)
        )
        if (name := next(lacking, None)) is not None:
            assigned[key] = name
            counts[name].update(r.label for r in members)
    return assigned
