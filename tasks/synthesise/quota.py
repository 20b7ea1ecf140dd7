"""How many rows to ask for next, so that each label gets exactly its quota of accepted rows."""

from __future__ import annotations

import math

from tasks.project import Generate

ASSUMED_ACCEPTANCE = 0.95  # before any was measured
MIN_TRIED = 10  # rows before the measured acceptance is used
GIVE_UP_AFTER, MIN_ACCEPTANCE = 200, 0.05  # rows, and the share of them that must be accepted
REQUESTS_PER_ROW = 10  # the budget of requests where the project sets none


def missing_rows(quota: dict[str, int], accepted: dict[str, int]) -> dict[str, int]:
    """Rows that each label lacks; labels with their quota are left out."""
    return {label: n for label, rows in quota.items() if (n := rows - accepted.get(label, 0)) > 0}


def give_up_reason(label: str, *, tried: dict[str, int], accepted: dict[str, int]) -> str | None:
    """Why the label is given up, or None. `tried` counts the rows whose requests were answered."""
    n, passed = tried.get(label, 0), accepted.get(label, 0)
    if n < GIVE_UP_AFTER or passed >= MIN_ACCEPTANCE * n:
        return None
    return (
        f"the label {label!r} accepted {passed} of {n} rows, under {MIN_ACCEPTANCE:.0%}: make its "
        f"description more concrete, or try another generate.model"
    )


def rows_to_request(
    lacking: dict[str, int], *, tried: dict[str, int], accepted: dict[str, int], budget: int
) -> dict[str, int]:
    """Rows per label to ask for next: what is lacking over the label's acceptance, within `budget`.

    Acceptance is over the rows `tried`, whose requests were answered. A label whose acceptance is
    not known to be above MIN_ACCEPTANCE is asked for at most up to GIVE_UP_AFTER rows. A budget too
    small for all is shared in proportion, by largest remainder.
    """
    needed = {}
    for label, n in lacking.items():
        n_tried = tried.get(label, 0)
        measured = n_tried >= MIN_TRIED
        rate = accepted.get(label, 0) / n_tried if measured else ASSUMED_ACCEPTANCE
        needed[label] = math.ceil(n / max(rate, MIN_ACCEPTANCE))
        if rate <= MIN_ACCEPTANCE:
            needed[label] = min(needed[label], max(GIVE_UP_AFTER - n_tried, n))
    total, budget = sum(needed.values()), max(budget, 0)
    if total <= budget:
        return needed
    shared = {label: n * budget // total for label, n in needed.items()}
    by_remainder = sorted(needed, key=lambda label: -(needed[label] * budget % total))
    for label in by_remainder[: budget - sum(shared.values())]:
        shared[label] += 1
    return {label: n for label, n in shared.items() if n}


def request_budget(generate: Generate, quota: dict[str, int]) -> int:
    """The number of answered requests that one challenger may have."""
    rows = sum(quota.values())
    return generate.budget.requests or math.ceil(REQUESTS_PER_ROW * rows / generate.rows_per_reply)


def split_quota(quota: dict[str, int], rounds: int) -> list[dict[str, int]]:
    """`rounds` + 1 growing quotas, the last one whole; dev decides the focus between them."""
    parts = rounds + 1
    return [
        {label: math.ceil(n * (i + 1) / parts) for label, n in quota.items()} for i in range(parts)
    ]
