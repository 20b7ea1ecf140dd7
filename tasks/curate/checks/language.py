"""Set aside texts in another language than the project's."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.records import Record, Rejected

if TYPE_CHECKING:
    from tasks.curate.context import Context

# languages with many speakers in writing; pidgins, dialects and dead languages are what clumsy text is mistaken for
_LANGUAGES = (
    "af am ar az be bg bn bs ca cs cy da de el en es et eu fa fi fr ga gl gu he hi hr hu hy id is it ja ka kk km kn "
    "ko lt lv mk ml mn mr ms my ne nl no pa pl pt ro ru si sk sl sq sr sv sw ta te th tl tr uk ur uz vi zh"
)
_KNOWN = frozenset(_LANGUAGES.split())
# pairs that the same text may pass for
_ALIKE = (
    {"bs", "hr", "sr", "sl", "mk", "bg"},
    {"id", "ms"},
    {"da", "no", "sv"},
    {"cs", "sk"},
    {"es", "gl", "ca", "pt"},
)
LEAST_LETTERS = 80  # of a text that is judged
SURE = 0.9
READ = 1000  # letters of a text
SAMPLE = 1000  # texts that the project's language is read from
MOST = 0.8  # share of them that must be of one language


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def identify(text: str) -> tuple[str, float] | None:
    """The text's language (ISO 639-1) and its probability; None for a text too short or too odd to tell."""
    least = (
        LEAST_LETTERS // 3 if any("\u3040" <= c <= "\u9fff" for c in text[:200]) else LEAST_LETTERS
    )
    if sum(map(str.isalpha, text)) < least:
        return None
    language, probability = _identifier().classify(text[:READ])
    return (str(language), float(probability)) if language in _KNOWN else None


def expected(records: list[Record], context: Context) -> str | None:
    """The language that rows must be in: as set, or that of most real rows, or of most rows; None where none is clear."""
    chosen = context.settings.language
    if chosen == "off":
        return None
    if chosen != "auto":
        if chosen not in _KNOWN:
            raise UserError(
                f"curate.language is {chosen!r}, which can't be told apart: write auto, off or one of {_LANGUAGES}"
            )
        return chosen
    for rows in ([r for r in context.real if r.label is not None] or context.real, records):
        step = max(1, len(rows) // SAMPLE)
        found = Counter(told[0] for r in rows[::step] if (told := identify(r.text)))
        if found:
            language, n = found.most_common(1)[0]
            return language if n >= MOST * found.total() else None
    return None


def language(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Records that are not confidently in another language than `curate.language`; short texts are not judged."""
    wanted = expected(records, context)
    if wanted is None:
        return records, []
    allowed = {wanted}.union(*(group for group in _ALIKE if wanted in group))
    kept, rejected = [], []
    for r in records:
        told = None if r.is_human_labelled else identify(r.text)
        if told is None or told[0] in allowed or told[1] < SURE:
            kept.append(r)
        else:
            reason = f"its language is {told[0]} with probability {told[1]:.2f}, not {wanted} (curate.language)"
            rejected.append(Rejected(r, "language", reason, round(told[1], 4)))
    return kept, rejected
