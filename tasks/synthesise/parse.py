"""Rows from an LLM's replies. What is broken is set aside with its reason, never mended into a label."""

from __future__ import annotations

import json
import re
from typing import Any

from tasks.llm.request import Reply
from tasks.records import Label, Record, Rejected, label_text
from tasks.text.tokens import replace_surrogates, words

_REFUSAL = re.compile(
    r"^\W*(i['’]?m sorry|i am sorry|sorry,|i can(?:no|['’])t|i am unable|i['’]m unable|as an ai\b|as a language model|"
    r"i do not have (?:access|personal)|i don['’]t have (?:access|personal))",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^\W*(?:sure|certainly|of course|here(?:['’]s| is| are)|okay)\b[^\n]{0,160}?[:!]\s*\n+",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^(?:#+ .*|\*{0,2}(?:title|headline|subject)\s*:.*)\n+", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"\[[A-Z][A-Za-z' /]{1,30}\]|\{[a-z_]+\}|<(?:name|date|place|city|company|location)>|(?i:lorem ipsum)"
)
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)|[。！？][”’」』）]*")
_CHAT = re.compile(
    r"<\|?/?(?:im_start|im_end|endoftext|start_of_turn|end_of_turn|eos|bos|s|assistant|user|system)\|?>"
)
_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?```\s*$", re.DOTALL | re.IGNORECASE)

Row = Record | Rejected


class _Broken(ValueError):
    """(check, reason) of a reply that holds no rows."""


def parse_reply(reply: Reply, *, min_words: int) -> list[Row]:
    """The rows in a reply: records, and what was set aside with its reason. At least one of either.

    From plain text only the wrapping is taken off: a preamble line, a heading, and a last sentence that the token limit cut.
    JSON is read strictly: a reply that is broken, truncated or repeats a key gives no row.
    """
    tag = reply.request.tag
    lineage = {k: v for k, v in tag.items() if k not in {"label", "labels", "rows"}} | {
        "request": reply.key
    }
    raw = replace_surrogates(reply.text or "")
    if not raw.strip():
        return [_rejected(raw, tag, _cost(lineage, reply, 1), "empty_reply", _none_sent(reply))]
    if reply.finish_reason == "content_filter" or _REFUSAL.match(raw):
        return [_rejected(raw, tag, _cost(lineage, reply, 1), "refusal", "the model declined")]
    if reply.request.schema is None:
        return [
            _text_row(
                raw,
                tag,
                _cost(lineage, reply, 1),
                cut=reply.finish_reason == "length",
                min_words=min_words,
            )
        ]
    try:
        rows = _json_rows(raw, cut=reply.finish_reason == "length")
    except _Broken as e:
        check, reason = e.args
        return [_rejected(raw, tag, _cost(lineage, reply, 1), check, reason)]
    lineage = _cost(lineage, reply, len(rows))
    return [
        _json_row(row, tag, {**lineage, "row": i}, min_words=min_words)
        if i < tag["rows"]
        else _rejected(
            _text_of(row),
            tag,
            {**lineage, "row": i},
            "unasked",
            f"{tag['rows']} rows were asked for",
        )
        for i, row in enumerate(rows)
    ]


def _cost(lineage: dict[str, Any], reply: Reply, rows: int) -> dict[str, Any]:
    """The lineage with this row's part of what the reply cost."""
    tokens = [round(reply.prompt_tokens / rows, 2), round(reply.completion_tokens / rows, 2)]
    return lineage | {
        "tokens": tokens,
        "usd": round(reply.usd / rows, 9),
        "measured": reply.measured,
    }


def _none_sent(reply: Reply) -> str:
    return f"the model sent no text (finish_reason {reply.finish_reason})"


def _rejected(
    text: str,
    tag: dict[str, Any],
    lineage: dict[str, Any],
    check: str,
    reason: str,
    value: float | None = None,
) -> Rejected:
    return Rejected(Record.create(text, _label(tag), "synthetic", **lineage), check, reason, value)


def _text_row(
    raw: str, tag: dict[str, Any], lineage: dict[str, Any], *, cut: bool, min_words: int
) -> Row:
    text = _HEADING.sub("", _PREAMBLE.sub("", raw.strip() + "\n")).strip().strip("*").strip()
    if cut:
        ends = list(_SENTENCE_END.finditer(text))
        text = text[: ends[-1].end()] if ends else ""
    return _row(text, raw, tag, lineage, min_words=min_words)


def _row(
    text: str, raw: str, tag: dict[str, Any], lineage: dict[str, Any], *, min_words: int
) -> Row:
    n = len(words(text))
    if n < min_words:
        return _rejected(
            raw, tag, lineage, "fragment", f"{n} whole words are fewer than {min_words}", n
        )
    holes = _PLACEHOLDER.findall(text)
    if holes:
        return _rejected(
            raw,
            tag,
            lineage,
            "placeholder",
            f"a template's hole was left: {holes[0]!r}",
            len(holes),
        )
    marks = _CHAT.findall(text)
    if marks:
        return _rejected(
            raw,
            tag,
            lineage,
            "chat_markup",
            f"the chat's own markup was left: {marks[0]!r}",
            len(marks),
        )
    return Record.create(text, _label(tag), "synthetic", **lineage)


def _label(tag: dict[str, Any]) -> Label:
    """What the row is labelled: what was asked for, in a multi-label project all of it."""
    return tuple(tag["labels"]) if "labels" in tag else str(tag["label"])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [k for k, _ in pairs]
    if len(set(keys)) < len(keys):
        twice = next(k for k in keys if keys.count(k) > 1)
        raise _Broken("duplicate_key", f"the key {twice!r} stands twice in one object")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise _Broken("broken_json", f"{name} is no JSON value")


def _json_rows(raw: str, *, cut: bool) -> list[Any]:
    if cut:
        raise _Broken(
            "truncated",
            "the token limit cut the JSON: raise generate.max_tokens or lower rows_per_reply",
        )
    fence = _FENCE.match(raw)
    try:
        found = json.loads(
            fence.group(1) if fence else raw, object_pairs_hook=_once, parse_constant=_no_constant
        )
    except _Broken:
        raise
    except (ValueError, RecursionError) as e:
        raise _Broken(
            "broken_json", f"the reply is not JSON: {' '.join(str(e).split())[:120]}"
        ) from None
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or set(found) != {"rows"}:
        raise _Broken("wrong_shape", "the reply is not an object with the one key `rows`, a list")
    if not rows:
        raise _Broken("empty_reply", "the list of rows is empty")
    return rows


def _text_of(row: Any) -> str:
    text = row.get("text") if isinstance(row, dict) else None
    return replace_surrogates(
        text if isinstance(text, str) else json.dumps(row, ensure_ascii=False)
    )


def _wrong_shape(row: Any, *, several: bool) -> str | None:
    """Why the row can't be read, if so."""
    fields = {"text", "labels" if several else "label"}
    if isinstance(row, dict) and set(row) == fields and isinstance(row["text"], str):
        label = row["labels"] if several else [row["label"]]
        if isinstance(label, list) and all(isinstance(v, str) for v in label):
            return None
    if several:
        return "the row is not an object of `text` and the list `labels`"
    return "the row is not an object of the texts `text` and `label`"


def _json_row(row: Any, tag: dict[str, Any], lineage: dict[str, Any], *, min_words: int) -> Row:
    text = _text_of(row)
    shape = _wrong_shape(row, several="labels" in tag)
    if shape:
        return _rejected(text, tag, lineage, "wrong_shape", shape)
    wanted, said = (
        _label(tag),
        row["label"] if "label" in row else tuple(sorted(set(row["labels"]))),
    )
    if said != wanted:
        reason = f"asked for {label_text(wanted)!r}, the model labelled it {replace_surrogates(label_text(said))[:60]!r}"
        return _rejected(text, tag, lineage, "mislabelled", reason)
    if not text.strip():
        return _rejected(text, tag, lineage, "empty_reply", "the row's text is empty")
    if _REFUSAL.match(text):
        return _rejected(text, tag, lineage, "refusal", "the model declined")
    return _row(text.strip(), text, tag, lineage, min_words=min_words)
