"""Reject texts in another language than the project's."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

from tasks.curate.context import CurationContext
from tasks.errors import UserError
from tasks.records import Partition, Record, Rejected, partition

# languages with many writers; clumsy text is mistaken for pidgins, dialects and dead languages
_LANGUAGES = (
    "af am ar az be bg bn bs ca cs cy da de el en es et eu fa fi fr ga gl gu he hi hr hu hy id is "
    "it ja ka kk km kn ko lt lv mk ml mn mr ms my ne nl no pa pl pt ro ru si sk sl sq sr sv sw ta "
    "te th tl tr uk ur uz vi zh"
)
_KNOWN = frozenset(_LANGUAGES.split())
# languages that the same text may pass for
_SIMILAR = (
    {"bs", "hr", "sr", "sl", "mk", "bg"},
    {"id", "ms"},
    {"da", "no", "sv"},
    {"cs", "sk"},
    {"es", "gl", "ca", "pt"},
)
_MIN_LETTERS = 80  # of a text that is judged
_MIN_PROBABILITY = 0.9  # of another language
_READ = 1000  # characters of a text
_SAMPLE = 1000  # texts from which the project's language is detected
_MAJORITY = 0.8  # share of them that must be in one language


def language(records: list[Record], context: CurationContext) -> Partition:
    """Rows that are not confidently in another language than `curate.language`.

    Short texts and rows that a person labelled are kept.
    """
    expected = _expected_language(records, context)
    if expected is None:
        return records, []
    allowed = {expected}.union(*(group for group in _SIMILAR if expected in group))

    def check(r: Record) -> Rejected | None:
        detected = None if r.is_human_labelled else _detect(r.text)
        if detected is None or detected[0] in allowed or detected[1] < _MIN_PROBABILITY:
            return None
        code, probability = detected
        reason = (
            f"its language is {code} with probability {probability:.2f}, not {expected} "
            f"(curate.language)"
        )
        return Rejected(r, "language", reason, round(probability, 4))

    return partition(records, check)


def _expected_language(records: list[Record], context: CurationContext) -> str | None:
    """The language in the settings, or that of most real rows, or of most rows; None where none is clear."""
    chosen = context.settings.language
    if chosen == "off":
        return None
    if chosen in _KNOWN:
        return chosen
    if chosen != "auto":
        raise UserError(
            f"curate.language is {chosen!r}, which cannot be detected: write auto, off or one of "
            f"{_LANGUAGES}"
        )
    for rows in ([r for r in context.real if r.label is not None] or context.real, records):
        step = max(1, len(rows) // _SAMPLE)
        counts = Counter(detected[0] for r in rows[::step] if (detected := _detect(r.text)))
        if counts:
            code, n = counts.most_common(1)[0]
            return code if n >= _MAJORITY * counts.total() else None
    return None


def _detect(text: str) -> tuple[str, float] | None:
    """The text's language (ISO 639-1) and its probability; None for a short text or a rare language."""
    cjk = any("\u3040" <= c <= "\u9fff" for c in text[:200])
    if sum(map(str.isalpha, text)) < (_MIN_LETTERS // 3 if cjk else _MIN_LETTERS):
        return None
    code, probability = _identifier().classify(text[:_READ])
    return (str(code), float(probability)) if code in _KNOWN else None


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
