"""What the rows cost, and how many rows of each generator, subtopic and attribute were accepted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from tasks.llm.request import Usage
from tasks.records import Record, label_text
from tasks.report.cost import Tokens
from tasks.report.data.diversity import name_of_round
from tasks.report.data.figures import DrawnAttribute, DrawnValue, PartCost, RowCost
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
    """What was drawn for the row's request: topic, style, attributes, and the label near it."""
    return {k: v for k, v in record.lineage.items() if k not in NOT_DRAWN and isinstance(v, str)}


def cost_figures(g: RetrainRows, labels: list[str]) -> RowCost:
    """Tokens and dollars in all, and by generator, label and round with the acceptance.

    The totals are what the rounds counted; each part sums its texts' shares of their replies,
    rejected texts included.
    """
    usage = Usage.total(g.rounds)
    accepted = len(g.accepted)
    return RowCost(
        tokens=Tokens.of(usage),
        usd=round(usage.usd, 6) if g.rounds else None,
        measured=usage.measured if g.rounds else None,
        requests=usage.requests,
        replies=sum(r.replies for r in g.rounds),
        lost=usage.lost,
        stopped=[r.stopped for r in g.rounds if r.stopped],
        accepted=accepted,
        tokens_per_accepted=_per(usage.tokens, accepted),
        usd_per_accepted=_per(usage.usd, accepted) if g.rounds else None,
        generator=_parts(g, lambda r: str(r.lineage.get("generator", "unknown"))),
        label=_parts(g, lambda r: label_text(r.label), labels),
        round=_parts(g, lambda r: name_of_round(r.lineage.get("round"))),
    )


def _per(value: float | None, rows: int) -> float | None:
    return round(value / rows, 6) if rows and value is not None else None


def _texts(g: RetrainRows) -> Iterable[Record]:
    yield from g.written
    yield from (r.record for r in g.unusable)


def _parts(
    g: RetrainRows, part: Callable[[Record], str], names: list[str] | None = None
) -> list[PartCost]:
    """The cost of each part: of `names` and then others, or sorted by name."""
    parts: dict[str, list[Record]] = {name: [] for name in names or []}
    for r in _texts(g):
        parts.setdefault(part(r), []).append(r)
    # a person may have given a row a label that was never requested: it is no part
    accepted = Counter(part(r) for r in g.accepted)
    return [
        _part(name, parts[name], accepted[name]) for name in (parts if names else sorted(parts))
    ]


def _part(name: str, texts: list[Record], accepted: int) -> PartCost:
    tokens = sum(sum(r.lineage.get("tokens") or []) for r in texts)
    prices = [r.lineage["usd"] for r in texts if r.lineage.get("usd") is not None]
    measured = [r.lineage["measured"] for r in texts if r.lineage.get("measured") is not None]
    usd = sum(prices) if prices else None
    return PartCost(
        name=name,
        texts=len(texts),
        accepted=accepted,
        tokens=round(tokens),
        usd=usd,
        measured=all(measured) if measured else None,
        share=_per(accepted, len(texts)),
        tokens_per_accepted=_per(tokens, accepted),
        usd_per_accepted=_per(usd, accepted),
    )


def acceptance_by_attribute(g: RetrainRows) -> list[DrawnAttribute]:
    """Each attribute with its values, the least accepted first, at most 40; topics come first.

    A subtopic is counted per label, other values over all labels.
    """
    texts, accepted = _count_drawn(_texts(g)), _count_drawn(g.accepted)
    found: dict[str, list[DrawnValue]] = defaultdict(list)
    for key in texts | accepted:
        name, value, label = key
        found[name].append(
            DrawnValue(
                value=value,
                label=label,
                texts=texts[key],
                accepted=accepted[key],
                share=_per(accepted[key], texts[key]),
            )
        )
    return [
        DrawnAttribute(name=name, of=len(found[name]), values=_least_accepted(found[name]))
        for name in sorted(found, key=lambda name: (name != "topic", name))
    ]


def _count_drawn(rows: Iterable[Record]) -> Counter[tuple[str, str, str | None]]:
    """Rows by attribute and value, and by label where the attribute is the topic."""
    return Counter(
        (name, value, label_text(r.label) if name == "topic" else None)
        for r in rows
        for name, value in drawn_attributes(r).items()
    )


def _least_accepted(values: list[DrawnValue]) -> list[DrawnValue]:
    drawn = [v for v in values if v.texts]
    drawn.sort(key=lambda v: (v.share or 0.0, -v.texts, v.value, str(v.label)))
    return drawn[:MOST_VALUES]
