"""Clean texts: Unicode form, control characters, white space, and the HTML and Markdown of an LLM."""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from tasks.curate.context import CurationContext
from tasks.records import Partition, Record, Rejected, content_id

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffd]"
)
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_INVISIBLE = re.compile(
    r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE
)
_BLOCK = "p|br|hr|div|h[1-6]|ul|ol|li|table|tr|td|th|thead|tbody|blockquote|pre|html|head|body|article|section|header|footer"
_INLINE = "a|b|i|u|s|em|strong|span|code|sup|sub|small|mark|font|center|title|cite|q|del|ins|kbd|figure|figcaption|main"
_ATTRIBUTES = r"(?:\s+[A-Za-z_:][\w:.-]*\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>\"']+))*\s*/?"
_TAG = re.compile(rf"<(/?)(?:({_BLOCK})|({_INLINE}|img)){_ATTRIBUTES}>", re.IGNORECASE)
_CLOSED = re.compile(rf"</({_INLINE})>", re.IGNORECASE)

_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*[\w+#.-]*[ \t]*$\n?", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*$\n?", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+(?=\S)(.*?)(?:[ \t]+#+)?[ \t]*$", re.MULTILINE)
_LINK = re.compile(
    r"!?\[([^\[\]\n]*)\]\((?:https?://|mailto:|www\.|/|#)[^\s()]*(?:[ \t]+\"[^\"\n]*\")?\)"
)
_BOLD = re.compile(
    r"\*\*(?=[^\s*])(.+?)(?<=[^\s*])\*\*|(?<!\w)__(?=[^\s_])((?:(?!__)\S)+\s(?:(?!__).)*?)(?<=[^\s_])__(?!\w)"
)
_EMPHASIS = re.compile(r"(?<![\w*\\])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])")
_CODE = re.compile(r"(?<![`\w])`(?=[^\s`])([^`\n]+?)(?<=[^\s`])`(?![`\w])")


def normalise(records: list[Record], context: CurationContext) -> Partition:
    """Every row with its text cleaned and its id computed anew; a row without text is rejected.

    Real texts are only tidied, as are all where `curate.strip_markup` is off.
    """
    strip = context.settings.strip_markup
    texts = [clean(r.text) if r.is_synthetic and strip else tidy(r.text) for r in records]
    pairs = list(zip(records, texts, strict=True))
    kept = [replace(r, text=text, id=content_id(text)) for r, text in pairs if text]
    empty = [r for r, text in pairs if not text]
    return kept, [Rejected(r, "empty", "no text is left after cleaning") for r in empty]


def clean(text: str) -> str:
    """The text without mojibake, HTML tags and entities, and Markdown (headings, bold, links), tidied.

    Markup can hide in markup, so passes are made until nothing changes.
    """
    for _ in range(50):
        before, text = text, _strip_markup(text)
        if text == before:
            break
    return text


def tidy(text: str) -> str:
    """NFC text without control characters or runs of white space; paragraphs stay lines."""
    # control characters go before NFC: they separate what it joins
    text = _CONTROL.sub("", "\n".join(text.splitlines()))
    return _LINES.sub("\n", _SPACES.sub(" ", unicodedata.normalize("NFC", text))).strip()


def _strip_markup(text: str) -> str:
    """One pass over the markup of a generated text."""
    import ftfy

    text = "\n".join(text.splitlines())
    if not text.isascii():
        text = ftfy.fix_text(text, _ftfy_config())
    text = _strip_tags(text)
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    text = _HEADING.sub(r"\1", _RULE.sub("", _FENCE.sub("", text)))
    text = _BOLD.sub(lambda match: match[1] or match[2], _LINK.sub(r"\1", text))
    return tidy(_CODE.sub(r"\1", _EMPHASIS.sub(r"\1", text)))


def _strip_tags(text: str) -> str:
    if "<" not in text:
        return text
    text = _INVISIBLE.sub(" ", text)
    closed = {name.lower() for name in _CLOSED.findall(text)}

    def replacement(tag: re.Match[str]) -> str:
        block, inline = tag[2], tag[3]
        if block:
            return "\n"
        # `a <b> c` may be about b: an inline tag goes only where it is closed somewhere
        return "" if inline.lower() in closed or inline.lower() == "img" else tag[0]

    return _TAG.sub(replacement, text)


@lru_cache(maxsize=1)
def _ftfy_config() -> TextFixerConfig:
    from ftfy import TextFixerConfig

    # an author may have chosen curly quotes, full-width letters and ligatures
    return TextFixerConfig(
        uncurl_quotes=False,
        fix_character_width=False,
        fix_latin_ligatures=False,
        fix_c1_controls=False,
        explain=False,
    )
