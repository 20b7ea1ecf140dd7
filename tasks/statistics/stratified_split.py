"""Parts in which every label of a multi-label data set has its rows: iterative stratification.

Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data": the scarcest label first, each of its
rows to the part that lacks it most. A row brings its other labels along, so those may have more than they ask for. Rows with
no label are a stratum of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tasks.records import Record, count_by_label


def deal(groups: Mapping[str, Sequence[Record]], want: Mapping[str, int]) -> dict[str, str]:
    """The part of each group, by their keys; a group that no part needs is left out.

    `want` is rows a label that each part asks for, in the order in which parts are served where they lack as much. Groups
    are taken in the order of their keys, whole. What is left over when a label is scarce goes to the first parts first.
    """
    own = {key: count_by_label(members) for key, members in sorted(groups.items())}
    lacking = {part: dict.fromkeys(set().union(*own.values()), n) for part, n in want.items()}
    found: dict[str, str] = {}
    for label in _scarcest_first(own.values()):
        for key in [key for key, has in own.items() if label in has and key not in found]:
            part = max(want, key=lambda name: lacking[name][label])
            if lacking[part][label] <= 0:
                break
            found[key] = part
            for other, n in own[key].items():
                lacking[part][other] -= n
    return found


def folds(records: Sequence[Record], n: int) -> list[int]:
    """The fold of each record, 0 to n - 1: every label evenly dealt, the scarcest first."""
    own = {
        i: set(count_by_label([r]))
        for i, r in sorted(enumerate(records), key=lambda item: (item[1].id, item[0]))
    }
    have: list[Counter[str]] = [Counter() for _ in range(n)]
    size = [0] * n
    found: dict[int, int] = {}
    for label in _scarcest_first(own.values()):
        for i in [i for i, has in own.items() if label in has and i not in found]:
            fold = min(range(n), key=lambda k: (have[k][label], size[k], k))
            found[i] = fold
            have[fold].update(own[i])
            size[fold] += 1
    return [found[i] for i in range(len(records))]


def _scarcest_first(own: Iterable[Iterable[str]]) -> list[str]:
    rows = Counter(label for has in own for label in has)
    return sorted(rows, key=lambda label: (rows[label], label))
