"""How varied the texts of a group are, in figures that do not depend on the group's size."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from tasks.records import Label, Record
from tasks.report.data.figures import Diversity, DiversityTable, GroupDiversity
from tasks.report.data.rows import RetrainRows
from tasks.text.tokens import fold, split_words

if TYPE_CHECKING:
    import numpy as np

MOST_TOKENS = 2000  # of a group, read for distinct-n
LEAST_TOKENS = 100  # with fewer, a group gets no distinct-n

_TOKEN = re.compile(r"\w+(?:['’]\w+)*")


def word_tokens(text: str) -> list[str]:
    """The words of the folded text without punctuation; in Chinese and Japanese each character."""
    return [t for word in split_words(fold(text)) for t in _TOKEN.findall(word)]


def distinct_n(texts: list[list[str]], n: int, *, budget: int) -> float | None:
    """Different n-grams over all n-grams of the first `budget` tokens; None for fewer tokens.

    Distinct-n of Li et al. 2016 (arXiv:1510.03055). It falls with the length of what is read, so
    groups are compared over the same number of tokens. No n-gram spans two texts.
    """
    grams: list[tuple[str, ...]] = []
    left = budget
    for text in texts:
        part = text[:left]
        grams += [tuple(part[i : i + n]) for i in range(len(part) - n + 1)]
        left -= len(part)
        if left <= 0:
            return len(set(grams)) / len(grams) if grams else None
    return None


def spread(vectors: np.ndarray) -> float | None:
    """Mean cosine distance of the group to its centroid, 0 (all alike) to 1; None below two rows.

    `vectors` is one row per text, each of length 1. The distance is to the centroid of the group
    from which the rows come: 1 - sqrt(r), with r the mean cosine of two different rows, which
    unlike the distance to the rows' own centroid does not shrink with their number.
    """
    n = len(vectors)
    if n < 2:
        return None
    total = vectors.astype("float64").sum(axis=0)
    r = (float(total @ total) - n) / (n * (n - 1))
    return 1 - max(r, 0.0) ** 0.5


def diversity_figures(
    g: RetrainRows, labels: list[str], vectors: dict[str, np.ndarray]
) -> Diversity:
    """Figures of the accepted rows by label, round and generator, with those of the real rows.

    `vectors` holds an embedding for some row ids: those count for the spread.
    """
    by_label = [
        (label, source, [r for r in rows if label in r.labels])
        for label in labels
        for source, rows in (("synthetic", g.accepted), ("real", g.real))
    ]
    real = [("all real rows", "real", g.real)]
    rounds = [(name_of_round(k), "synthetic", v) for k, v in _by_lineage(g.accepted, "round")]
    generators = [(str(k), "synthetic", v) for k, v in _by_lineage(g.accepted, "generator")]
    return Diversity(
        label=_table(by_label, vectors),
        round=_table(rounds + real, vectors),
        generator=_table(generators + real, vectors),
    )


def name_of_round(number: object) -> str:
    """Rounds are counted from 0 in the rows and from 1 for people."""
    return f"round {number + 1}" if isinstance(number, int) else "no round"


def _by_lineage(rows: list[Record], key: str) -> list[tuple[object, list[Record]]]:
    """The rows by a value of their lineage: numbers in their order, no value, then names."""
    groups: dict[object, list[Record]] = defaultdict(list)
    for r in rows:
        groups[r.lineage.get(key)].append(r)
    return sorted(
        groups.items(),
        key=lambda item: (item[0] if isinstance(item[0], int) else math.inf, str(item[0] or "")),
    )


def _table(
    groups: list[tuple[str, str, list[Record]]], vectors: dict[str, np.ndarray]
) -> DiversityTable:
    # in the order of their ids, which are hashes: a fixed random order
    read = [
        (name, source, rows, [word_tokens(r.text) for r in sorted(rows, key=lambda r: r.id)])
        for name, source, rows in groups
        if rows
    ]
    lengths = [n for *_, texts in read if (n := sum(map(len, texts))) >= LEAST_TOKENS]
    budget = min([MOST_TOKENS, *lengths])
    return DiversityTable(
        tokens=budget,
        rows=[
            GroupDiversity(
                group=name,
                source=source,
                rows=len(rows),
                words=_percentiles([len(t) for t in texts]),
                distinct_1=_rounded(distinct_n(texts, 1, budget=budget)),
                distinct_2=_rounded(distinct_n(texts, 2, budget=budget)),
                spread=_rounded(_spread_within_labels(rows, vectors)),
            )
            for name, source, rows, texts in read
        ],
    )


def _spread_within_labels(rows: list[Record], vectors: dict[str, np.ndarray]) -> float | None:
    """The mean of each label's spread, weighted by its rows, so that many labels are no spread."""
    import numpy as np

    groups: dict[Label | None, list[np.ndarray]] = defaultdict(list)
    for r in rows:
        if r.id in vectors:
            groups[r.label].append(vectors[r.id])
    found = [(len(v), s) for v in groups.values() if (s := spread(np.stack(v))) is not None]
    return sum(n * s for n, s in found) / sum(n for n, _ in found) if found else None


def _percentiles(lengths: list[int]) -> list[int]:
    import numpy as np

    return [int(n) for n in np.percentile(lengths, [10, 50, 90], method="nearest")]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
