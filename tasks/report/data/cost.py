"""What the rows cost, and how many rows of each generator, subtopic and attribute were accepted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from tasks.llm.request import Usage
from tasks.records import Record, label_text
from tasks.report.data.diversity import name_of_round
from tasks.report.data.rows import RetrainRows

# what a row's lineage holds besides the attributes that were drawn for it
NOT_DRAWN = frozenset(
    {
        "generator",
        "id",
        "measured",
        "place",
        "prompt",
        "request",
        "reviewed",
        "round",
        "row",
        "seeds",
        "tokens",
        "usd",
    }
)
MOST_VALUES = 40  # of an attribute, in the report


def drawn_attributes(record: Record) -> dict[str, str]:
    """What was drawn for the row's request: topic, style, attributes, and the label it is close to."""
    return {k: v for k, v in record.lineage.items() if k not in NOT_DRAWN and isinstance(v, str)}


def cost_figures(g: RetrainRows, labels: list[str]) -> dict[str, Any]:
    """Tokens and dollars in all, and by generator, label and round with the acceptance.

    The totals are what the rounds counted; each part sums its texts' shares of their replies, rejected
    texts included. `measured` is False where an endpoint reported no tokens, so that they were
    estimated, and None where that is not known.
    """
    usage = Usage.total(g.rounds)
    accepted = len(g.accepted)
    return {
        "tokens": {
            "prompt": usage.prompt_tokens,
            "completion": usage.completion_tokens,
            "total": usage.tokens,
        },
        "usd": round(usage.usd, 6) if g.rounds else None,
        "measured": usage.measured if g.rounds else None,
        "requests": usage.requests,
        "replies": sum(r.replies for r in g.rounds),
        "lost": usage.lost,
        "stopped": [r.stopped for r in g.rounds if r.stopped],
        "accepted": accepted,
        "tokens_per_accepted": _per(usage.tokens, accepted),
        "usd_per_accepted": _per(usage.usd, accepted) if g.rounds else None,
        "generator": _parts(g, lambda r: str(r.lineage.get("generator", "unknown"))),
        "label": _parts(g, lambda r: label_text(r.label), labels),
        "round": _parts(g, lambda r: name_of_round(r.lineage.get("round"))),
    }


def _per(value: float | None, rows: int) -> float | None:
    return round(value / rows, 6) if rows and value is not None else None


def _texts(g: RetrainRows) -> Iterable[Record]:
    yield from g.written
    yield from (r.record for r in g.unusable)


def _parts(
    g: RetrainRows, part: Callable[[Record], str], names: list[str] | None = None
) -> list[dict[str, Any]]:
    """One row per part: texts, accepted, their share, tokens and dollars, and those per accepted row."""
    empty = {"texts": 0, "accepted": 0, "tokens": 0.0, "usd": None, "measured": None}
    parts: dict[str, dict[str, Any]] = {name: {**empty} for name in names or []}
    for r in _texts(g):
        row = parts.setdefault(part(r), {**empty})
        row["texts"] += 1
        row["tokens"] += sum(r.lineage.get("tokens") or [])
        if r.lineage.get("usd") is not None:
            row["usd"] = (row["usd"] or 0.0) + r.lineage["usd"]
        if r.lineage.get("measured") is not None:
            row["measured"] = row["measured"] is not False and r.lineage["measured"]
    for r in g.accepted:
        if part(r) in parts:  # a person may have given it a label that was never requested
            parts[part(r)]["accepted"] += 1
    return [
        {
            "name": name,
            **row,
            "tokens": round(row["tokens"]),
            "share": _per(row["accepted"], row["texts"]),
            "tokens_per_accepted": _per(row["tokens"], row["accepted"]),
            "usd_per_accepted": _per(row["usd"], row["accepted"]),
        }
        for name, row in (parts.items() if names else sorted(parts.items()))
    ]


def acceptance_by_attribute(g: RetrainRows) -> list[dict[str, Any]]:
    """Each attribute with its values, {value, label, texts, accepted, share}, the least accepted first.

    A subtopic is counted per label, other values over all labels. At most 40 values per attribute.
    """
    made: dict[str, dict[tuple[str, str | None], list[int]]] = defaultdict(
        lambda: defaultdict(lambda: [0, 0])
    )
    for at, rows in enumerate((_texts(g), g.accepted)):
        for r in rows:
            for name, value in drawn_attributes(r).items():
                made[name][value, label_text(r.label) if name == "topic" else None][at] += 1
    return [
        {"name": name, "of": len(values), "values": _values(values)}
        for name, values in sorted(made.items(), key=_first)
    ]


def _first(item: tuple[str, Any]) -> tuple[bool, str]:
    return item[0] != "topic", item[0]


def _values(values: dict[tuple[str, str | None], list[int]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "value": value,
            "label": label,
            "texts": texts,
            "accepted": kept,
            "share": _per(kept, texts),
        }
        for (value, label), (texts, kept) in values.items()
        if texts
    ]
    rows.sort(key=lambda row: (row["share"], -row["texts"], row["value"], str(row["label"])))
    return rows[:MOST_VALUES]
