"""Reject generated texts in which the LLM declines or speaks of itself."""

from __future__ import annotations

import re

from tasks.curate.context import CurationContext
from tasks.records import Partition, Record, Rejected, partition
from tasks.text.tokens import split_words

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*[\"'”’)]*")
_QUOTED = re.compile(r"[\"“][^\"“”\n]*[\"”]")
_AM = r"(?:i\s+am|i['’]m)"
_UNABLE = r"(?:am\s+(?:not\s+able|unable)|['’]m\s+(?:unable|not\s+able)|am\s+not\s+(?:allowed|permitted))\s+to"
_NOT = rf"(?:cannot|can\s+not|can['’]t|{_UNABLE})"
_DO = r"(?:fulfil+|assist|help\s+(?:you|with)|provide|generate|create|write|produce|comply|complete|engage|answer)"
# what only a model says of itself
_ITSELF = re.compile(
    rf"\bas\s+an?\s+(?:large\s+)?(?:ai|artificial\s+intelligence|language)(?:\s+(?:language\s+)?(?:model|assistant))?,?\s+(?:i\b|my\b)|"
    rf"\b{_AM}\s+(?:just\s+|only\s+)?an?\s+(?:large\s+)?(?:ai|language\s+model)\b|"
    r"\bmy\s+(?:training\s+data|knowledge\s+cut-?off)\b|\bas\s+of\s+my\s+last\s+(?:update|training)\b",
    re.IGNORECASE,
)
_DECLINES = re.compile(
    rf"\bi\s*{_NOT}\s+{_DO}\b|"
    rf"\b(?:{_AM}\s+|we\s+are\s+|we['’]re\s+)?(?:sorry|afraid),?\s+(?:but\s+|that\s+)?i\s*{_NOT}\b|"
    r"\bi\s+(?:do\s+not|don['’]t)\s+have\s+(?:access\s+to|personal|the\s+ability|real-?time)\b|"
    r"\b(?:goes\s+)?against\s+my\s+(?:guidelines|programming|policies)\b|\bviolates?\s+(?:my|our|the)\s+content\s+polic|"
    r"\b(?:please\s+)?(?:let\s+me\s+know|tell\s+me)\s+if\s+you(?:['’]d|\s+would)?\s+(?:need|like|want|have)\b|"
    r"\bi\s+hope\s+this\s+helps\b|\bis\s+there\s+anything\s+else\s+(?:i\s+can|you)\b",
    re.IGNORECASE,
)
_SHARE = 0.25  # of the words, in sentences that decline


def refusal(records: list[Record], context: CurationContext) -> Partition:
    """Real rows, and generated ones with less than 25% of their words in sentences that decline.

    A text in which the model names itself declines as a whole; quoted speech does not count.
    """

    def check(r: Record) -> Rejected | None:
        share, sentence = _find_refusal(r.text) if r.is_synthetic else (0.0, "")
        if share < _SHARE:
            return None
        excerpt = " ".join(sentence.split())[:80]
        reason = f"the model declines or speaks of itself in {share:.2f} of the text: {excerpt!r}"
        return Rejected(r, "refusal", reason, round(share, 4))

    return partition(records, check)


def _find_refusal(text: str) -> tuple[float, str]:
    """The share of the words in sentences that decline (1.0 where the model names itself), and one of them.

    Quoted speech does not count.
    """
    unquoted = _QUOTED.sub(" ", text)
    if itself := _ITSELF.search(unquoted):
        return 1.0, itself[0]
    if not _DECLINES.search(unquoted):
        return 0.0, ""
    sentences = [s for s in _SENTENCE.findall(unquoted) if _DECLINES.search(s)]
    share = sum(len(split_words(s)) for s in sentences) / max(1, len(split_words(text)))
    return min(1.0, share), next(iter(sentences), "")
