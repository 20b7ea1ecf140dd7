"""Any JSON object as tables, for figures whose names the page need not know."""

from __future__ import annotations

from typing import Any

INTERVAL = {"value", "ci_low", "ci_high"}


def blocks(found: Any, title: str = "") -> list[dict[str, Any]]:
    """Tables {title, head, rows}, in the order of `found`: what stands alone as one table of two columns, a list of objects or an
    object of like objects as a table, anything deeper under a title of its own."""
    if isinstance(found, list):
        found = dict(enumerate(found)) if found and not all(map(_flat, found)) else found
    if isinstance(found, list):
        return [_table(title, None, dict(enumerate(found)))] if found else []
    if not isinstance(found, dict):
        return [{"title": title, "head": [], "rows": [[cell(found)]]}]
    if found and all(map(_flat, found.values())) and len({tuple(v) for v in found.values()}) <= 2:
        return [_table(title, "", found)]
    alone = {k: v for k, v in found.items() if _single(v)}
    made = (
        [{"title": title, "head": [], "rows": [[said(k), cell(v)] for k, v in alone.items()]}]
        if alone
        else []
    )
    for k, v in found.items():
        if k not in alone and v:
            made += blocks(v, f"{title}: {said(k)}" if title else said(k))
    return made


def cell(value: Any) -> str:
    """A figure, an interval, or a text as a person reads it."""
    if isinstance(value, dict):
        low, high = value.get("ci_low"), value.get("ci_high")
        own = cell(value.get("value"))
        return own if low is None or high is None else f"{own} ({cell(low)} to {cell(high)})"
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
    return ", ".join(map(cell, value)) if isinstance(value, (list, tuple)) else str(value)


def said(name: Any) -> str:
    """A key in words."""
    return str(name).replace("_", " ").replace("f1", "F1")


def _single(value: Any) -> bool:
    if isinstance(value, dict):
        return set(value) <= INTERVAL and "value" in value
    return not isinstance(value, list) or not any(isinstance(v, (dict, list)) for v in value)


def _flat(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and not _single(value)
        and all(map(_single, value.values()))
    )


def _table(title: str, corner: str | None, rows: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """A row an object; `corner` heads the column of their names, which there is none of where it is None."""
    columns = list(dict.fromkeys(k for row in rows.values() for k in row))
    first = [] if corner is None else [corner]
    body = [
        [
            *([said(name)] if corner is not None else []),
            *(cell(row[k]) if k in row else "–" for k in columns),
        ]
        for name, row in rows.items()
    ]
    return {"title": title, "head": [*first, *map(said, columns)], "rows": body}
