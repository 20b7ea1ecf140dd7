"""Rows from an LLM's replies. Broken ones are rejected with a reason; no label is guessed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tasks.llm.request import Reply
from tasks.records import Label, Record, Rejected, label_text
from tasks.text.tokens import replace_surrogates, split_words

_REFUSAL = re.compile(
    r"^\W*(i['’]?m sorry|i am sorry|sorry,|i can(?:no|['’])t|i am unable|i['’]m unable|as an ai\b|"
    r"as a language model|i do not have (?:access|personal)|i don['’]t have (?:access|personal))",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^\W*(?:sure|certainly|of course|here(?:['’]s| is| are)|okay)\b[^\n]{0,160}?[:!]\s*\n+",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^(?:#+ .*|\*{0,2}(?:title|headline|subject)\s*:.*)\n+", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"\[[A-Z][A-Za-z' /]{1,30}\]|\{[a-z_]+\}|<(?:name|date|place|city|company|location)>|"
    r"(?i:lorem ipsum)"
)
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)|[。！？][”’」』）]*")
_CHAT_MARKUP = re.compile(
    r"<\|?/?(?:im_start|im_end|endoftext|start_of_turn|end_of_turn|eos|bos|s|assistant|user|system)"
    r"\|?>"
)
_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?```\s*$", re.DOTALL | re.IGNORECASE)
_NOT_IN_LINEAGE = {"label", "labels", "rows"}

ParsedRow = Record | Rejected


def parse_reply(reply: Reply, *, min_words: int) -> list[ParsedRow]:
    """The rows in a reply, accepted or rejected; at least one.

    Only the wrapping of plain text is removed: a preamble line, a heading, and a last sentence that
    the token limit cut. JSON is read strictly: a reply that is broken, truncated or repeats a key
    gives no row.
    """
    raw = replace_surrogates(reply.text or "")
    is_cut = reply.finish_reason == "length"
    only = _Row(reply, min_words)
    if not raw.strip():
        reason = f"the model sent no text (finish_reason {reply.finish_reason})"
        return [only.reject(raw, "empty_reply", reason)]
    if reply.finish_reason == "content_filter" or _REFUSAL.match(raw):
        return [only.reject(raw, "refusal", "the model declined")]
    if reply.request.schema is None:
        return [only.check(_unwrap(raw, is_cut=is_cut), raw)]
    try:
        items = _read_json(raw, is_cut=is_cut)
    except _InvalidReply as e:
        return [only.reject(raw, *e.args)]
    return [_Row(reply, min_words, len(items), i).from_json(item) for i, item in enumerate(items)]


class _InvalidReply(ValueError):
    """(check, reason) of a reply that holds no rows."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a reply, which carries an equal part of what the reply cost."""

    reply: Reply
    min_words: int
    rows: int = 1
    number: int | None = None

    @property
    def label(self) -> Label:
        """What was asked for, in a multi-label project all of it."""
        tag = self.reply.request.tag
        return tuple(tag["labels"]) if "labels" in tag else str(tag["label"])

    def create(self, text: str) -> Record:
        reply, tag = self.reply, self.reply.request.tag
        tokens = [round(n / self.rows, 2) for n in (reply.prompt_tokens, reply.completion_tokens)]
        lineage = {k: v for k, v in tag.items() if k not in _NOT_IN_LINEAGE} | {
            "request": reply.key,
            "tokens": tokens,
            "usd": round(reply.usd / self.rows, 9),
            "measured": reply.measured,
        }
        if self.number is not None:
            lineage["row"] = self.number
        return Record.create(text, self.label, "synthetic", **lineage)

    def reject(self, text: str, check: str, reason: str, value: float | None = None) -> Rejected:
        return Rejected(self.create(text), check, reason, value)

    def check(self, text: str, raw: str) -> ParsedRow:
        """The row with the text; the whole `raw` text is kept where it is rejected."""
        n = len(split_words(text))
        if n < self.min_words:
            reason = f"{n} whole words are fewer than {self.min_words} (curate.min_words)"
            return self.reject(raw, "fragment", reason, n)
        if matches := _PLACEHOLDER.findall(text):
            reason = f"the text has an unfilled placeholder: {matches[0]!r}"
            return self.reject(raw, "placeholder", reason, len(matches))
        if matches := _CHAT_MARKUP.findall(text):
            reason = f"the text has the chat template's markup: {matches[0]!r}"
            return self.reject(raw, "chat_markup", reason, len(matches))
        return self.create(text)

    def from_json(self, item: Any) -> ParsedRow:
        """The row of one item in the reply's list."""
        asked = self.reply.request.tag["rows"]
        text = _text_of(item)
        if self.number is not None and self.number >= asked:
            return self.reject(text, "unasked", f"{asked} rows were asked for")
        label = _label_of(item, multi_label=isinstance(self.label, tuple))
        if label is None:
            several = isinstance(self.label, tuple)
            fields = "the list `labels`" if several else "the text `label`"
            reason = f"the row is not an object of the text `text` and {fields}"
            return self.reject(text, "wrong_shape", reason)
        if label != self.label:
            written = replace_surrogates(label_text(label))[:60]
            reason = f"asked for {label_text(self.label)!r}, the model labelled it {written!r}"
            return self.reject(text, "mislabelled", reason)
        if not text.strip():
            return self.reject(text, "empty_reply", "the row's text is empty")
        if _REFUSAL.match(text):
            return self.reject(text, "refusal", "the model declined")
        return self.check(text.strip(), text)


def _unwrap(raw: str, *, is_cut: bool) -> str:
    text = _HEADING.sub("", _PREAMBLE.sub("", raw.strip() + "\n")).strip().strip("*").strip()
    if is_cut:
        ends = list(_SENTENCE_END.finditer(text))
        text = text[: ends[-1].end()] if ends else ""
    return text


def _read_json(raw: str, *, is_cut: bool) -> list[Any]:
    """The items of the reply's list `rows`. Raises _InvalidReply."""
    if is_cut:
        reason = "the token limit cut the JSON: raise generate.max_tokens or lower rows_per_reply"
        raise _InvalidReply("truncated", reason)
    fence = _FENCE.match(raw)
    text = fence.group(1) if fence else raw
    try:
        reply = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except _InvalidReply:
        raise
    except (ValueError, RecursionError) as e:
        detail = " ".join(str(e).split())[:120]
        raise _InvalidReply("broken_json", f"the reply is not JSON: {detail}") from None
    rows = reply.get("rows") if isinstance(reply, dict) else None
    if not isinstance(rows, list) or set(reply) != {"rows"}:
        reason = "the reply is not an object with the one key `rows`, a list"
        raise _InvalidReply("wrong_shape", reason)
    if not rows:
        raise _InvalidReply("empty_reply", "the list of rows is empty")
    return rows


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [k for k, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            reason = f"the key {key!r} is duplicated in one object"
            raise _InvalidReply("duplicate_key", reason)
    return dict(pairs)


def _refuse_constant(name: str) -> Any:
    raise _InvalidReply("broken_json", f"{name} is not a JSON value")


def _text_of(item: Any) -> str:
    text = item.get("text") if isinstance(item, dict) else None
    if not isinstance(text, str):
        text = json.dumps(item, ensure_ascii=False)
    return replace_surrogates(text)


def _label_of(item: Any, *, multi_label: bool) -> Label | None:
    """The item's own label; None where it is of another shape."""
    name = "labels" if multi_label else "label"
    if not (isinstance(item, dict) and set(item) == {"text", name}):
        return None
    labels = item[name] if multi_label else [item[name]]
    if not isinstance(labels, list) or not all(isinstance(v, str) for v in [item["text"], *labels]):
        return None
    return tuple(sorted(set(labels))) if multi_label else labels[0]
