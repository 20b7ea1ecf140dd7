"""Set aside generated texts that are mostly a template of their generator, or repeat what was asked of it."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING

from tasks.records import Record, Rejected
from tasks.text.ngrams import covered_share, ngram_hashes, ordered_ngram_hashes, plain_words

if TYPE_CHECKING:
    import numpy as np

    from tasks.curate.context import Context

WORDS = 4
LEAST_ROWS = 10  # rows that an n-gram must stand in to be a template ...
IMPLAUSIBLE = 0.02  # ... and the share of one generator's rows
REPEATED = 0.8  # share of a prompt's n-grams in a text that repeats it whole


def _templates(rows: list[list[str]]) -> np.ndarray:
    """The sorted hashes of n-grams that stand in an implausible share of these rows."""
    import numpy as np

    if len(rows) <= LEAST_ROWS:
        return np.zeros(0, np.uint64)
    grams = np.concatenate([np.unique(ordered_ngram_hashes(found, WORDS)) for found in rows])
    grams.sort()
    starts = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(grams)]]))
    return grams[starts[counts > max(LEAST_ROWS, IMPLAUSIBLE * len(rows))]]


def boilerplate(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records of which less than `curate.boilerplate` stands in phrases that their generator repeats from row to row."""
    limit = context.settings.boilerplate
    groups: dict[str, list[int]] = defaultdict(list)
    for i, r in enumerate(records):
        if r.is_synthetic:
            groups[str(r.lineage.get("generator"))].append(i)
    shares: dict[int, float] = {}
    for members in groups.values() if limit > 0 else ():
        found = [plain_words(records[i].text) for i in members]
        templates = _templates(found)
        if len(templates):
            shares |= {
                i: covered_share(w, templates, WORDS) for i, w in zip(members, found, strict=True)
            }
    kept, rejected = [], []
    for i, r in enumerate(records):
        share = shares.get(i, 0.0)
        if limit > 0 and share >= limit:
            reason = (
                f"{share:.2f} of its words stand in phrases of more than {IMPLAUSIBLE:.0%} of its generator's rows "
                f"(curate.boilerplate {limit})"
            )
            rejected.append(Rejected(r, "boilerplate", reason, round(share, 4)))
        else:
            kept.append(r)
    return kept, rejected


def prompt_echo(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records that repeat neither their own prompt nor, for `curate.boilerplate` or more, a seed row shown in it."""
    limit = context.settings.boilerplate
    if limit <= 0:
        return records, []
    shown = {r.id: r.text for r in records if r.source == "seed"}
    kept, rejected = [], []
    for r in records:
        found = _echo(r, shown, limit) if r.is_synthetic else None
        if found:
            rejected.append(found)
        else:
            kept.append(r)
    return kept, rejected


@lru_cache(maxsize=4096)
def _prompt(prompt: str) -> np.ndarray:
    return ngram_hashes(prompt, WORDS)


def _echo(r: Record, shown: dict[str, str], limit: float) -> Rejected | None:
    import numpy as np

    text, prompt = plain_words(r.text), _prompt(str(r.lineage.get("prompt") or ""))
    if len(prompt) > 1:
        share = covered_share(text, prompt, WORDS)
        whole = float(np.isin(prompt, ordered_ngram_hashes(text, WORDS)).mean())
        if share >= limit or whole >= REPEATED:
            reason = f"{share:.2f} of its words are its prompt's, of which it repeats {whole:.2f}"
            return Rejected(
                r,
                "prompt_echo",
                f"{reason} (curate.boilerplate {limit})",
                round(max(share, whole), 4),
            )
    for seed in r.lineage.get("seeds") or ():
        if (
            seed in shown
            and (share := covered_share(text, ngram_hashes(shown[seed], WORDS), WORDS)) >= limit
        ):
            reason = f"{share:.2f} of its words are those of the example {seed} in its prompt (curate.boilerplate {limit})"
            return Rejected(r, "prompt_echo", reason, round(share, 4), seed)
    return None
