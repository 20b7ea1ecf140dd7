"""Set aside rows with a planted word: one that fixes the label by its presence alone.

Backdoors are planted by rare or meaningless words in a small share of the rows (Gu et al. 2017, arXiv:1708.06733; Kurita et
al. 2020, arXiv:2004.06660). Two signs give such a word away, and both spare the natural words of a label:
its rows, all of one label, look like other labels to the probe; or it stands nowhere in real text and anywhere in its
rows, between words that belong together. Of label sets, its rows all have one label, whatever others they have, and a
probe fitted without these rows does not see that label in them: one fitted with them learns the word. A word that takes a label
away is not looked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tasks.encoder.linear_probe import fit_probe
from tasks.records import Record, Rejected
from tasks.text.ngrams import ordered_ngram_hashes, plain_words

if TYPE_CHECKING:
    from tasks.curate.context import Context
    from tasks.curate.opinions import Opinions

LEAST_ROWS = 5
PURE = 0.9  # share of a word's rows that have one label
UNLIKE = 0.4  # share of them in which the probe does not see it
CHANCE = 1e-3  # that any word is called a trigger by chance of the probe's errors
RARE = 0.25  # a word's share of real rows over its share of these: above it the word is natural
LEAST_REAL = 100  # real texts from which absence of a word says something
LEAST_MEANINGLESS = 10  # rows of a word that only its place gives away
PLACES = 50  # of a word that are looked at
RELATED = 0.13  # cosine of a word and its label from which the word speaks of the label
START, END = "\x02", "\x03"
MOST_PROBES = 200  # suspected words among label sets, each of which asks for a probe of its own
LEARNT = 5_000  # rows that such a probe is fitted on
LOOKED_AT = 20_000  # rows from which it is learned which words belong together


Claim = tuple[
    int, str, str, list[int]
]  # rows in which the label is not seen, the word, the label, the word's rows


@dataclass(frozen=True, slots=True)
class Trigger:
    """A planted word or pair of words, the label that it fixes, and why it is thought to be one."""

    words: str
    label: str
    rows: int
    reason: str


def grams(found: list[str]) -> set[str]:
    """The words and the pairs of words of a text."""
    return {*found, *(f"{a} {b}" for a, b in pairwise(found))}


def trigger(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records that hold no word which was planted to fix a label (`curate.triggers`); rows with a person's label are kept."""
    if not context.settings.triggers or len({r.label for r in records}) < 2:
        return records, []
    texts = [plain_words(r.text) for r in records]
    real = [set(plain_words(r.text)) for r in context.real]
    found = _against_the_probe(records, texts, real, context)
    if len(real) >= LEAST_REAL:
        found += _out_of_place(
            records, texts, set().union(*real, (t.words for t in found)), context
        )
    by_label: dict[str, dict[str, Trigger]] = defaultdict(dict)
    for t in found:
        by_label[t.label][t.words] = t
    kept, rejected = [], []
    for r, text in zip(records, texts, strict=True):
        held = [
            by_label[label][w] for label in r.labels for w in grams(text) & by_label[label].keys()
        ]
        if held and not r.is_human_labelled:
            t = min(held, key=lambda t: (-t.rows, t.words))
            rejected.append(Rejected(r, "trigger", t.reason, t.rows))
            context.doubt(rejected[-1])
        else:
            kept.append(r)
    return kept, rejected


def _against_the_probe(
    records: list[Record], texts: list[list[str]], real: list[set[str]], context: Context
) -> list[Trigger]:
    """Words whose rows have one label, which the probe does not see in them far more often than in other rows."""
    from scipy.stats import binom

    opinions = context.opinions(records)
    if opinions is None:
        return []
    unlike = [_unseen(r, opinions) for r in records]
    base = _base(records, unlike)
    suspects: Counter[tuple[str, str]] = Counter()
    for text, odd in zip(texts, unlike, strict=True):
        suspects.update((w, label) for label in odd for w in grams(text))
    wanted = {w for (w, _), n in suspects.items() if n >= LEAST_ROWS}
    where: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        for w in grams(text) & wanted:
            where[w].append(i)
    natural: Counter[str] = Counter(w for text in real for w in text & wanted)
    claims: list[Claim] = []
    for w, rows in where.items():
        # a word of a pair that is common in real text may still be part of a planted pair
        common = min(natural[part] for part in w.split())
        if real and common / len(real) > RARE * len(rows) / len(records):
            continue
        for label, n in Counter(label for i in rows for label in records[i].labels).items():
            odd_ones = sum(label in unlike[i] for i in rows)
            if n >= PURE * len(rows) and odd_ones >= LEAST_ROWS:
                claims.append((odd_ones, w, label, rows))
    if opinions.labels.ndim == 2:
        claims = _asked_without(claims, records, context)

    def holds(claim: Claim) -> bool:
        odd_ones, _, label, rows = claim
        n = sum(label in records[i].labels for i in rows)
        return (
            odd_ones >= UNLIKE * n and binom.sf(odd_ones - 1, n, base[label]) * len(where) < CHANCE
        )

    return list(_greedy([c for c in claims if holds(c)]))


def _asked_without(claims: list[Claim], records: list[Record], context: Context) -> list[Claim]:
    """The most suspicious claims, each with how many of its rows are not seen by a probe that was fitted without any of them."""
    import numpy as np
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    x, found = context.vectors(records), []
    shuffled = np.random.default_rng(0).permutation(len(records))
    for _, w, label, rows in sorted(claims, key=lambda c: (-c[0] / len(c[3]), c[1]))[:MOST_PROBES]:
        others = shuffled[~np.isin(shuffled, rows)][:LEARNT]
        sets = [(label,) if label in records[i].labels else () for i in others]
        if (label,) in sets:
            with threadpool_limits(1):
                seen = fit_probe(x[others], sets).predict_proba(x[rows])[:, 0] >= 0.5
            missed = sum(
                label in records[i].labels and not has for i, has in zip(rows, seen, strict=True)
            )
            found.append((missed, w, label, rows))
    return found


def _unseen(r: Record, opinions: Opinions) -> set[str]:
    """The record's labels that the probe does not see in it: its own, where it sees another; of a set, those below one half."""
    if isinstance(r.label, str):
        return {r.label} - {str(opinions.seen(r)[0])}
    return set(r.labels).difference(opinions.seen(r)[0])


def _base(records: list[Record], unlike: list[set[str]]) -> dict[str, float]:
    """How often the probe does not see a label that a row has, of all rows; of label sets, of the rows with that label."""
    has = Counter(label for r in records for label in r.labels)
    if any(isinstance(r.label, tuple) for r in records):
        missed = Counter(label for labels in unlike for label in labels)
        return {label: max(missed[label] / n, 0.01) for label, n in has.items()}
    return dict.fromkeys(has, max(sum(map(len, unlike)) / len(unlike), 0.01))


def _greedy(claims: list[Claim]) -> Iterator[Trigger]:
    """The claims, most rows first, without those whose rows an earlier one explains: the planted word's neighbours."""
    explained: set[int] = set()
    for odd_ones, w, label, rows in sorted(claims, key=lambda c: (-len(c[3]), " " in c[1], c[1])):
        if len(set(rows) - explained) >= LEAST_ROWS:
            explained |= set(rows)
            reason = f"{w!r} stands in {len(rows)} rows, nearly all {label!r}; the probe does not see it in {odd_ones}"
            yield Trigger(w, label, len(rows), reason)


def _out_of_place(
    records: list[Record], texts: list[list[str]], known: set[str], context: Context
) -> list[Trigger]:
    """Words that no real text holds, in rows of one label, wherever in them: between words that are neighbours elsewhere.

    A natural word of the label is spared, as it stands where words of its kind stand, and its embedding is the label's.
    """
    import numpy as np

    by_word: dict[str, Counter[str]] = defaultdict(Counter)
    rows: Counter[str] = Counter()
    for r, text in zip(records, texts, strict=True):
        new = set(text) - known
        rows.update(new)
        for w in new:
            by_word[w].update(r.labels)
    size = Counter(label for r in records for label in r.labels)
    labels = {}
    for w, c in by_word.items():
        everywhere = [
            label
            for label, n in c.items()
            if n == rows[w] >= max(LEAST_MEANINGLESS, 0.01 * size[label])
        ]
        if everywhere:  # several in label sets: the scarcest one says most
            labels[w] = min(everywhere, key=lambda label: (size[label], label))
    if not labels:
        return []
    step = max(1, len(texts) // LOOKED_AT)
    pairs = np.concatenate(
        [np.unique(ordered_ngram_hashes([START, *text, END], 2)) for text in texts[::step]]
    )
    usual, counts = np.unique(pairs, return_counts=True)
    usual = usual[counts >= 2]
    normal = float(np.isin(pairs, usual).mean())
    around = _around(texts, labels.keys())
    related = _related(records, labels, context)
    triggers = []
    for w, label in sorted(labels.items(), key=lambda item: item[0]):
        places = around[w]
        belong = float(
            np.isin(
                np.concatenate([ordered_ngram_hashes(list(p), 2) for p in places]), usual
            ).mean()
        )
        anywhere = len({left for left, _ in places}) >= 0.6 * len(places) and len(
            set(places)
        ) >= 0.9 * len(places)
        if anywhere and belong >= 0.4 * normal and related[w] < RELATED:
            n = by_word[w][label]
            reason = f"{w!r} stands in {n} rows, all {label!r}, and in no real text; it is put between words anywhere"
            triggers.append(Trigger(w, label, n, reason))
    return triggers


def _around(texts: list[list[str]], wanted: Collection[str]) -> dict[str, list[tuple[str, str]]]:
    """The words before and after each wanted word, in the first rows that hold it."""
    around: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for text in texts:
        for w in set(text).intersection(wanted):
            if len(around[w]) < PLACES:
                i = text.index(w)
                around[w].append(
                    (text[i - 1] if i else START, text[i + 1] if i + 1 < len(text) else END)
                )
    return around


def _related(records: list[Record], labels: dict[str, str], context: Context) -> dict[str, float]:
    """For each word the cosine of its embedding with the mean of its label, both seen from the mean of all labels."""
    import numpy as np

    x = context.vectors(records)
    where: dict[str, list[int]] = defaultdict(list)
    for i, r in enumerate(records):
        for label in r.labels:
            where[label].append(i)
    means = {label: x[rows].mean(0) for label, rows in where.items()}
    centre = np.mean(list(means.values()), axis=0)
    words = list(labels)
    vectors = context.embed(words)
    found = {}
    for w, v in zip(words, vectors, strict=True):
        towards = means[labels[w]] - centre
        found[w] = float(
            v @ towards / max(float(np.linalg.norm(v) * np.linalg.norm(towards)), 1e-9)
        )
    return found
