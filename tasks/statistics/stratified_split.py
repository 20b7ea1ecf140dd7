"""Iterative stratification: splits in which every label of a multi-label data set has its rows.

Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data": the scarcest label
first, each of its rows to the split that lacks it most. A row brings its other labels along, so those
may exceed their number. Rows with no label are a stratum of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tasks.records import Record, count_by_label


def assign_groups(
    groups: Mapping[str, Sequence[Record]], want: Mapping[str, int]
) -> dict[str, str]:
    """The split of each group, by key; a group that no split needs is absent.

    `want` is the rows per label that each split needs; of splits that lack as many, the first gets
    the group. Groups are assigned whole, in the order of their keys.
    """
    counts = {key: count_by_label(members) for key, members in sorted(groups.items())}
    lacking = {split: dict.fromkeys(set().union(*counts.values()), n) for split, n in want.items()}
    assigned: dict[str, str] = {}
    for label in _scarcest_first(counts.values()):
        for key in [key for key in counts if label in counts[key] and key not in assigned]:
            split = max(want, key=lambda name: lacking[name][label])
            if lacking[split][label] <= 0:
                break
            assigned[key] = split
            for other, n in counts[key].items():
                lacking[split][other] -= n
    return assigned


def assign_folds(records: Sequence[Record], n: int) -> list[int]:
    """The fold of each record, 0 to n - 1, with the rows of every label spread evenly."""
    ranked = sorted(enumerate(records), key=lambda item: (item[1].id, item[0]))
    labels = {i: set(count_by_label([r])) for i, r in ranked}
    label_rows: list[Counter[str]] = [Counter() for _ in range(n)]
    rows = [0] * n
    assigned: dict[int, int] = {}
    for label in _scarcest_first(labels.values()):
        for i in [i for i in labels if label in labels[i] and i not in assigned]:
            fold = min(range(n), key=lambda k: (label_rows[k][label], rows[k], k))
            assigned[i] = fold
            label_rows[fold].update(labels[i])
            rows[fold] += 1
    return [assigned[i] for i in range(len(records))]


def _scarcest_first(label_sets: Iterable[Iterable[str]]) -> list[str]:
    rows = Counter(label for labels in label_sets for label in labels)
    return sorted(rows, key=lambda label: (rows[label], label))
