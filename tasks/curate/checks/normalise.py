"""Clean the wrapping of a text: Unicode form, control characters, HTML and Markdown around it, white space."""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from tasks.records import Record, Rejected, content_id

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

    from tasks.curate.context import Context

_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufffd]"
)
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_UNSEEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
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


def tidy(text: str) -> str:
    """NFC text without control characters or runs of white space; paragraphs stay lines."""
    text = _CONTROL.sub("", "\n".join(text.splitlines()))  # before NFC: they part what it joins
    return _LINES.sub("\n", _SPACES.sub(" ", unicodedata.normalize("NFC", text))).strip()


def _tags(text: str) -> str:
    if "<" not in text:
        return text
    text = _UNSEEN.sub(" ", text)
    closed = {name.lower() for name in _CLOSED.findall(text)}

    def without(found: re.Match[str]) -> str:
        block, inline = found[2], found[3]
        if block:
            return "\n"
        # `a <b> c` may be about b: an inline tag goes only where it is closed somewhere
        return "" if inline.lower() in closed or inline.lower() == "img" else found[0]

    return _TAG.sub(without, text)


@lru_cache(maxsize=1)
def _ftfy() -> TextFixerConfig:
    from ftfy import TextFixerConfig

    # what an author may have chosen is left: curly quotes, full-width letters, ligatures
    return TextFixerConfig(
        uncurl_quotes=False,
        fix_character_width=False,
        fix_latin_ligatures=False,
        fix_c1_controls=False,
        explain=False,
    )


def _unwrapped(text: str) -> str:
    """One pass over the wrapping of a generated text."""
    import ftfy

    text = "\n".join(text.splitlines())
    if not text.isascii():
        text = ftfy.fix_text(text, _ftfy())
    text = _tags(text)
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    text = _HEADING.sub(r"\1", _RULE.sub("", _FENCE.sub("", text)))
    text = _BOLD.sub(lambda found: found[1] or found[2], _LINK.sub(r"\1", text))
    return tidy(_CODE.sub(r"\1", _EMPHASIS.sub(r"\1", text)))


def clean(text: str) -> str:
    """The text without mojibake, HTML tags and entities, and Markdown (headings, bold, fences, links), tidied.

    Wrapping can hide in wrapping, so passes are made until nothing changes.
    """
    for _ in range(50):
        before, text = text, _unwrapped(text)
        if text == before:
            break
    return text


def normalise(records: list[Record], context: Context) -> tuple[list[Record], list[Rejected]]:
    """Every record with its text cleaned (real ones only tidied) and its id made anew; what has no text left is rejected."""
    kept, rejected = [], []
    for r in records:
        text = clean(r.text) if r.is_synthetic and context.settings.strip_markup else tidy(r.text)
        if text:
            kept.append(replace(r, text=text, id=content_id(text)))
        else:
            rejected.append(Rejected(r, "empty", "no text is left after cleaning"))
    return kept, rejected
