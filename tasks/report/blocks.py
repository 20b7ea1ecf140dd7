"""Any JSON object as tables, for figures whose names the page does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INTERVAL = {"value", "ci_low", "ci_high"}


@dataclass(frozen=True, slots=True)
class Block:
    """A table of texts; `title` and `head` may be empty."""

    title: str
    head: list[str]
    rows: list[list[str]]


def to_blocks(value: Any, title: str = "") -> list[Block]:
    """The tables that show a JSON value, in its order.

    Single figures make one table of two columns; a list of objects, or an object of like objects,
    is a table; anything deeper has a title of its own.
    """
    if isinstance(value, list):
        if all(map(_is_row, value)):
            return [_table(title, None, dict(enumerate(value)))] if value else []
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return [Block(title, [], [[format_figure(value)]])]
    keys = {tuple(v) for v in value.values()} if all(map(_is_row, value.values())) else set()
    if 0 < len(keys) <= 2:
        return [_table(title, "", value)]
    single = {k: v for k, v in value.items() if _is_single(v)}
    rows = [[name_in_words(k), format_figure(v)] for k, v in single.items()]
    made = [Block(title, [], rows)] if rows else []
    for k, v in value.items():
        if k not in single and v:
            words = name_in_words(k)
            made += to_blocks(v, f"{title}: {words}" if title else words)
    return made


def format_figure(value: Any) -> str:
    """A figure, an interval, or a text as a person reads it."""
    if isinstance(value, dict):
        low, high = value.get("ci_low"), value.get("ci_high")
        point = format_figure(value.get("value"))
        if low is None or high is None:
            return point
        return f"{point} ({format_figure(low)} to {format_figure(high)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, float):
        if value.is_integer() and abs(value) > 1:
            return f"{value:,.0f}"
        return f"{value:.3f}" if abs(value) >= 5e-4 or not value else f"{value:.1e}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(format_figure, value)) if isinstance(value, (list, tuple)) else str(value)


def name_in_words(name: Any) -> str:
    """The name of a figure in words: `f1_macro` is `F1 macro`."""
    return str(name).replace("_", " ").replace("f1", "F1")


def _is_single(value: Any) -> bool:
    if isinstance(value, dict):
        return set(value) <= INTERVAL and "value" in value
    return not isinstance(value, list) or not any(isinstance(v, (dict, list)) for v in value)


def _is_row(value: Any) -> bool:
    """True for an object of single figures that is no interval."""
    if not isinstance(value, dict) or not value or _is_single(value):
        return False
    return all(map(_is_single, value.values()))


def _table(title: str, corner: str | None, rows: Mapping[Any, dict[str, Any]]) -> Block:
    """A row per object; `corner` heads the column of their names, which None leaves out."""
    columns = list(dict.fromkeys(k for row in rows.values() for k in row))
    body = []
    for name, row in rows.items():
        names = [] if corner is None else [name_in_words(name)]
        body.append(names + [format_figure(row[k]) if k in row else "–" for k in columns])
    head = [] if corner is None else [corner]
    return Block(title, head + [name_in_words(k) for k in columns], body)
