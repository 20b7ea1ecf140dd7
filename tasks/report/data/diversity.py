"""How varied the texts of a group are, in figures that do not depend on the group's size."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tasks.records import Label, Record
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
    """Different n-grams over all n-grams of the first `budget` tokens; None where there are fewer tokens.

    Distinct-n of Li et al. 2016 (arXiv:1510.03055). It falls with the length of what is read, so groups are compared
    over the same number of tokens. No n-gram spans two texts.
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
    """Mean cosine distance of the group to its centroid, 0 (all alike) to 1; None for fewer than two rows.

    `vectors` is one row per text, each of length 1. The distance is to the centroid of the group that the rows stand for:
    1 - sqrt(r), with r the mean cosine of two different rows, which unlike the distance to the rows' own centroid does
    not shrink with their number.
    """
    n = len(vectors)
    if n < 2:
        return None
    total = vectors.astype("float64").sum(axis=0)
    r = (float(total @ total) - n) / (n * (n - 1))
    return 1 - max(r, 0.0) ** 0.5


def diversity_figures(
    g: RetrainRows, labels: list[str], vectors: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Figures of the accepted rows by label, round and generator, with those of the real rows.

    `vectors` holds an embedding for some row ids: those count for the spread. Each table is {tokens, rows: [...]}; a row
    is {group, source, rows, words: [10th, 50th, 90th percentile], distinct_1, distinct_2, spread}.
    """
    by_label = [
        (label, source, [r for r in rows if label in r.labels])
        for label in labels
        for source, rows in (("synthetic", g.accepted), ("real", g.real))
    ]
    real = [("all real rows", "real", g.real)] if g.real else []
    by = {key: defaultdict(list) for key in ("round", "generator")}  # type: dict[str, dict[Any, list[Record]]]
    for r in g.accepted:
        for key, groups in by.items():
            groups[r.lineage.get(key)].append(r)
    return {
        "label": _table(by_label, vectors),
        "round": _table(
            [(name_of_round(k), "synthetic", v) for k, v in _sorted(by["round"])] + real, vectors
        ),
        "generator": _table(
            [(str(k), "synthetic", v) for k, v in _sorted(by["generator"])] + real, vectors
        ),
    }


def name_of_round(number: Any) -> str:
    """Rounds are counted from 0 in the rows and from 1 for people."""
    return f"round {number + 1}" if isinstance(number, int) else "no round"


def _sorted(groups: dict[Any, list[Record]]) -> list[tuple[Any, list[Record]]]:
    return sorted(
        groups.items(),
        key=lambda item: (not isinstance(item[0], int), item[0] if item[0] is not None else ""),
    )


def _table(
    groups: list[tuple[str, str, list[Record]]], vectors: dict[str, np.ndarray]
) -> dict[str, Any]:
    # in the order of their ids, which are hashes: a fixed random order
    read = [
        (name, source, rows, [word_tokens(r.text) for r in sorted(rows, key=lambda r: r.id)])
        for name, source, rows in groups
        if rows
    ]
    lengths = [n for *_, texts in read if (n := sum(map(len, texts))) >= LEAST_TOKENS]
    budget = min([MOST_TOKENS, *lengths])
    return {
        "tokens": budget,
        "rows": [
            {
                "group": name,
                "source": source,
                "rows": len(rows),
                "words": _percentiles([len(t) for t in texts]),
            }
            | {f"distinct_{n}": _rounded(distinct_n(texts, n, budget=budget)) for n in (1, 2)}
            | {"spread": _rounded(_spread_within_labels(rows, vectors))}
            for name, source, rows, texts in read
        ],
    }


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
