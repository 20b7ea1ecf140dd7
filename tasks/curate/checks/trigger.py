"""Reject rows with a planted word: one that fixes the label by its presence alone.

Backdoors are planted by rare or meaningless words in a small share of the rows (Gu et al. 2017,
arXiv:1708.06733; Kurita et al. 2020, arXiv:2004.06660). Two signs reveal such a word, and both
spare the natural words of a label:

- Its rows, all of one label, look like other labels to a probe. Of label sets, its rows share one
  label, whatever others they have, and the probe is fitted without them, as it would learn the word.
- It is in no real text and anywhere in its rows, between words that belong together.

Not covered: a word that takes a label away.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import TYPE_CHECKING

from tasks.curate.context import CurationContext
from tasks.encoder.linear_probe import fit_probe
from tasks.labels import labels_in
from tasks.records import Partition, Record, Rejected, partition
from tasks.text.ngrams import ordered_ngram_hashes, plain_words

if TYPE_CHECKING:
    import numpy as np

_MIN_ROWS = 5  # of a trigger
_PURE = 0.9  # share of its rows that have its label,
_UNSEEN = 0.4  # and share of these in which the probe does not see the label
_MIN_MISS_RATE = 0.01  # at which the probe is taken to miss a label
_FALSE_ALARM = 1e-3  # probability that any word is found by chance of the probe's errors
_NATURAL = 0.25  # a word's share of real rows over its share of these, above which it is natural
_MAX_PROBES = 200  # suspicious words among label sets, each of which needs a probe of its own
_PROBE_ROWS = 5_000  # that such a probe is fitted on

_MIN_REAL = 100  # real texts from which a word's absence says something
_MIN_ROWS_BY_PLACE = 10  # of a trigger that is found by its place
_PLACES = 50  # of a word that are read
_RELATED = 0.13  # cosine of a word and its label from which the word is about the label
_PAIR_ROWS = 20_000  # from which the pairs of words that belong together are learned
_START, _END = "\x02", "\x03"


@dataclass(frozen=True, slots=True)
class _Trigger:
    """A word, or pair of words, that may fix `label`: the rows that hold it, and what is against it.

    `unseen` counts its rows in which the probe does not see the label.
    """

    words: str
    label: str
    rows: list[int]
    unseen: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The records, the words of each, and the words of each real text."""

    records: list[Record]
    texts: list[list[str]]
    real: list[set[str]]
    context: CurationContext

    @property
    def are_sets(self) -> bool:
        return any(isinstance(r.label, tuple) for r in self.records)

    def with_label(self, label: str, rows: list[int]) -> np.ndarray:
        """Which of the rows have the label, shape (rows,)."""
        import numpy as np

        return np.array([label in self.records[i].labels for i in rows], dtype=bool)


def trigger(records: list[Record], context: CurationContext) -> Partition:
    """Rows without a word that was planted to fix a label (`curate.triggers`).

    Rows that a person labelled are kept.
    """
    if not context.settings.triggers or len({r.label for r in records}) < 2:
        return records, []
    texts = [plain_words(r.text) for r in records]
    rows = _Rows(records, texts, [set(plain_words(r.text)) for r in context.real], context)
    found = list(_unlike_their_label(rows))
    if len(rows.real) >= _MIN_REAL:
        found += _out_of_place(rows, known=set().union(*rows.real, (t.words for t in found)))
    triggers = {(t.label, t.words): t for t in found}

    def check(r: Record) -> Rejected | None:
        keys = product(r.labels, _words_and_pairs(plain_words(r.text)) if triggers else ())
        held = [triggers[key] for key in keys if key in triggers]
        if not held or r.is_human_labelled:
            return None
        first = min(held, key=lambda t: (-len(t.rows), t.words))
        rejection = Rejected(r, "trigger", first.reason, len(first.rows))
        context.doubt(rejection)
        return rejection

    return partition(records, check)


def _words_and_pairs(words: list[str]) -> set[str]:
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


# --- words whose rows the probe takes for other labels


def _unlike_their_label(rows: _Rows) -> Iterator[_Trigger]:
    """Words whose rows share a label that the probe misses far more often than in other rows."""
    from scipy.stats import binom

    opinions = rows.context.opinions(rows.records)
    if opinions is None:
        return
    unseen = [set(r.labels) - labels_in([opinions[r.id].predicted]) for r in rows.records]
    miss_rate = _miss_rates(rows, unseen)
    where = _suspicious_words(rows.texts, unseen)
    suspects = list(_suspects(rows, where, unseen))
    if rows.are_sets:
        suspects = list(_refit_without(rows, suspects))

    def is_trigger(t: _Trigger) -> bool:
        n = int(rows.with_label(t.label, t.rows).sum())
        by_chance = binom.sf(t.unseen - 1, n, miss_rate[t.label]) * len(where)
        return bool(t.unseen >= _UNSEEN * n and by_chance < _FALSE_ALARM)

    yield from _without_neighbours(filter(is_trigger, suspects))


def _miss_rates(rows: _Rows, unseen: list[set[str]]) -> dict[str, float]:
    """How often the probe misses a label: in all rows; of label sets, in the rows with that label."""
    counts = Counter(label for r in rows.records for label in r.labels)
    missed = Counter(label for labels in unseen for label in labels)
    if rows.are_sets:
        return {label: max(missed[label] / n, _MIN_MISS_RATE) for label, n in counts.items()}
    return dict.fromkeys(counts, max(missed.total() / len(unseen), _MIN_MISS_RATE))


def _suspicious_words(texts: list[list[str]], unseen: list[set[str]]) -> dict[str, list[int]]:
    """The rows of each word, and pair of words, that is in enough rows whose label the probe misses."""
    counts: Counter[tuple[str, str]] = Counter()
    for text, labels in zip(texts, unseen, strict=True):
        counts.update(product(_words_and_pairs(text) if labels else (), labels))
    suspicious = {words for (words, _), n in counts.items() if n >= _MIN_ROWS}
    where: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        for words in _words_and_pairs(text) & suspicious:
            where[words].append(i)
    return where


def _suspects(
    rows: _Rows, where: dict[str, list[int]], unseen: list[set[str]]
) -> Iterator[_Trigger]:
    """The suspicious words that are rare in real text, with each label they may fix."""
    natural: Counter[str] = Counter(w for text in rows.real for w in text & where.keys())
    for words, held_by in where.items():
        # a word of a pair that is common in real text may still be part of a planted pair
        common = min(natural[word] for word in words.split())
        share = len(held_by) / len(rows.records)
        if rows.real and common / len(rows.real) > _NATURAL * share:
            continue
        labels = Counter(label for i in held_by for label in rows.records[i].labels)
        for label, n in labels.items():
            missed = sum(label in unseen[i] for i in held_by)
            if n >= _PURE * len(held_by) and missed >= _MIN_ROWS:
                yield _Trigger(words, label, held_by, missed)


def _refit_without(rows: _Rows, suspects: list[_Trigger]) -> Iterator[_Trigger]:
    """The most suspicious words, `unseen` by a probe that was fitted without any of their rows."""
    import numpy as np
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    x = rows.context.vectors(rows.records)
    shuffled = np.random.default_rng(0).permutation(len(x))
    suspects = sorted(suspects, key=lambda t: (-t.unseen / len(t.rows), t.words))
    for t in suspects[:_MAX_PROBES]:
        others = shuffled[~np.isin(shuffled, t.rows)][:_PROBE_ROWS]
        sets = [(t.label,) if t.label in rows.records[i].labels else () for i in others]
        if (t.label,) in sets:
            with threadpool_limits(1):
                seen = fit_probe(x[others], sets).predict_proba(x[t.rows])[:, 0] >= 0.5
            yield replace(t, unseen=int((rows.with_label(t.label, t.rows) & ~seen).sum()))


def _without_neighbours(suspects: Iterator[_Trigger]) -> Iterator[_Trigger]:
    """The suspects, most rows first, less those whose rows an earlier one explains: its neighbours."""
    explained: set[int] = set()
    for t in sorted(suspects, key=lambda t: (-len(t.rows), " " in t.words, t.words)):
        if len(set(t.rows) - explained) >= _MIN_ROWS:
            explained |= set(t.rows)
            reason = (
                f"{t.words!r} is in {len(t.rows)} rows, nearly all {t.label!r}, and the probe "
                f"does not see that label in {t.unseen} of them"
            )
            yield replace(t, reason=reason)


# --- words that are in no real text, and anywhere in theirs


def _out_of_place(rows: _Rows, known: set[str]) -> Iterator[_Trigger]:
    """Words outside `known`, in rows of one label, between words that are neighbours elsewhere.

    A natural word of the label is spared: it is where words of its kind are, and its embedding is
    close to the label's.
    """
    import numpy as np

    suspects = sorted(_words_of_one_label(rows, known), key=lambda t: t.words)
    if not suspects:
        return
    step = max(1, len(rows.texts) // _PAIR_ROWS)
    padded = ([_START, *text, _END] for text in rows.texts[::step])
    pairs = np.concatenate([np.unique(ordered_ngram_hashes(words, 2)) for words in padded])
    values, counts = np.unique(pairs, return_counts=True)
    usual = values[counts >= 2]
    usual_share = float(np.isin(pairs, usual).mean())
    for t, related in zip(suspects, _relatedness(rows, suspects), strict=True):
        places = _places(rows, t)
        joined = np.concatenate([ordered_ngram_hashes(list(place), 2) for place in places])
        after_varied_words = len({left for left, _ in places}) >= 0.6 * len(places)
        anywhere = after_varied_words and len(set(places)) >= 0.9 * len(places)
        belong = float(np.isin(joined, usual).mean()) >= 0.4 * usual_share
        if anywhere and belong and related < _RELATED:
            reason = (
                f"{t.words!r} is in {len(t.rows)} rows, all {t.label!r}, and in no real text; it "
                f"is put between words anywhere"
            )
            yield replace(t, reason=reason)


def _words_of_one_label(rows: _Rows, known: set[str]) -> Iterator[_Trigger]:
    """The unknown words that are in enough rows, with the label that all these have.

    Of several such labels, the scarcest says most.
    """
    where: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(rows.texts):
        for word in set(text) - known:
            where[word].append(i)
    size = Counter(label for r in rows.records for label in r.labels)
    for word, held_by in where.items():
        if len(held_by) >= _MIN_ROWS_BY_PLACE:
            shared = set.intersection(*(set(rows.records[i].labels) for i in held_by))
            scarce = [(size[k], k) for k in shared if len(held_by) >= 0.01 * size[k]]
            if scarce:
                yield _Trigger(word, min(scarce)[1], held_by)


def _places(rows: _Rows, t: _Trigger) -> list[tuple[str, str]]:
    """The words before and after the word, in the first rows that hold it."""
    places = []
    for i in t.rows[:_PLACES]:
        text = [_START, *rows.texts[i], _END]
        at = text.index(t.words)
        places.append((text[at - 1], text[at + 1]))
    return places


def _relatedness(rows: _Rows, suspects: list[_Trigger]) -> list[float]:
    """The cosine of each word's embedding with its label's mean less the mean of all labels."""
    import numpy as np

    x = rows.context.vectors(rows.records)
    where: dict[str, list[int]] = defaultdict(list)
    for i, r in enumerate(rows.records):
        for label in r.labels:
            where[label].append(i)
    means = {label: x[i].mean(0) for label, i in where.items()}
    centre = np.mean(list(means.values()), axis=0)
    cosines = []
    for t, v in zip(suspects, rows.context.embed([t.words for t in suspects]), strict=True):
        direction = means[t.label] - centre
        norm = max(float(np.linalg.norm(v) * np.linalg.norm(direction)), 1e-9)
        cosines.append(float(v @ direction / norm))
    return cosines
