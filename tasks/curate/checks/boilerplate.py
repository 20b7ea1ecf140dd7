"""Reject generated texts that are mostly a template of their generator, or repeat their prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING

from tasks.curate.context import CurationContext
from tasks.records import Partition, Record, Rejected, partition
from tasks.text.ngrams import covered_share, ngram_hashes, ordered_ngram_hashes, plain_words

if TYPE_CHECKING:
    import numpy as np

_WORDS = 4
_TEMPLATE_ROWS = 10  # an n-gram in more rows than these is a template,
_TEMPLATE_SHARE = 0.02  # if they are also more than this share of their generator's rows
_REPEATED_PROMPT = 0.8  # share of the prompt's n-grams in a text that repeats all of it


def boilerplate(records: list[Record], context: CurationContext) -> Partition:
    """Rows with less than `curate.boilerplate` of their words in phrases their generator repeats."""
    limit = context.settings.boilerplate
    if limit <= 0:
        return records, []
    by_generator: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for r in records:
        if r.is_synthetic:
            by_generator[str(r.lineage.get("generator"))][r.id] = plain_words(r.text)
    shares: dict[str, float] = {}
    for texts in by_generator.values():
        templates = _templates(texts.values())
        shares |= {key: covered_share(words, templates, _WORDS) for key, words in texts.items()}

    def check(r: Record) -> Rejected | None:
        share = shares.get(r.id, 0.0)
        if share < limit:
            return None
        reason = (
            f"{share:.2f} of its words are in phrases that more than {_TEMPLATE_SHARE:.0%} of its "
            f"generator's rows repeat (curate.boilerplate {limit})"
        )
        return Rejected(r, "boilerplate", reason, round(share, 4))

    return partition(records, check)


def prompt_echo(records: list[Record], context: CurationContext) -> Partition:
    """Rows that repeat neither their prompt nor a seed row that was shown in it.

    A text repeats what covers `curate.boilerplate` or more of its words.
    """
    limit = context.settings.boilerplate
    if limit <= 0:
        return records, []
    seeds = {r.id: r.text for r in records if r.source == "seed"}
    return partition(records, lambda r: _find_echo(r, seeds, limit) if r.is_synthetic else None)


def _templates(texts: Collection[list[str]]) -> np.ndarray:
    """The sorted hashes of the n-grams that an implausible share of these texts has in common."""
    import numpy as np

    if len(texts) <= _TEMPLATE_ROWS:
        return np.zeros(0, np.uint64)
    grams = np.concatenate([np.unique(ordered_ngram_hashes(words, _WORDS)) for words in texts])
    values, counts = np.unique(grams, return_counts=True)
    return values[counts > max(_TEMPLATE_ROWS, _TEMPLATE_SHARE * len(texts))]


@lru_cache(maxsize=4096)
def _prompt_hashes(prompt: str) -> np.ndarray:
    return ngram_hashes(prompt, _WORDS)


def _find_echo(r: Record, seeds: dict[str, str], limit: float) -> Rejected | None:
    import numpy as np

    words, prompt = plain_words(r.text), _prompt_hashes(str(r.lineage.get("prompt") or ""))
    if len(prompt) > 1:
        share = covered_share(words, prompt, _WORDS)
        repeated = float(np.isin(prompt, ordered_ngram_hashes(words, _WORDS)).mean())
        if share >= limit or repeated >= _REPEATED_PROMPT:
            reason = (
                f"{share:.2f} of its words are its prompt's, and it repeats {repeated:.2f} of the "
                f"prompt (curate.boilerplate {limit})"
            )
            return Rejected(r, "prompt_echo", reason, round(max(share, repeated), 4))
    for seed in r.lineage.get("seeds") or ():
        hashes = ngram_hashes(seeds[seed], _WORDS) if seed in seeds else None
        if hashes is not None and (share := covered_share(words, hashes, _WORDS)) >= limit:
            reason = (
                f"{share:.2f} of its words are those of the example {seed} in its prompt "
                f"(curate.boilerplate {limit})"
            )
            return Rejected(r, "prompt_echo", reason, round(share, 4), seed)
    return None
