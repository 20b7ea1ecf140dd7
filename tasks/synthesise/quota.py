"""How many rows to ask for next, so that each label ends with exactly its quota of accepted ones."""

from __future__ import annotations

import math

from tasks.project import Generate

ASSUMED_ACCEPTANCE = 0.95  # acceptance assumed before any was measured
ENOUGH_TRIES = 10  # before the measured acceptance is believed
HOPELESS_TRIES, HOPELESS = 200, 0.05  # a label that accepts less after so many rows is given up
REQUESTS_A_ROW = 10  # the budget of requests where the project names none


def missing_rows(quota: dict[str, int], accepted: dict[str, int]) -> dict[str, int]:
    """Rows that each label still lacks of its quota; labels that have it are left out."""
    return {label: n for label, want in quota.items() if (n := want - accepted.get(label, 0)) > 0}


def give_up_reason(label: str, *, tried: dict[str, int], accepted: dict[str, int]) -> str | None:
    """Why the label is given up, or None while it is worth asking for. `tried` are the rows whose requests were answered."""
    n, had = tried.get(label, 0), accepted.get(label, 0)
    if n < HOPELESS_TRIES or had >= HOPELESS * n:
        return None
    return (
        f"the label {label!r} accepted {had} of {n} rows, under {HOPELESS:.0%}: make its description more concrete, "
        f"or try another generate.model"
    )


def rows_to_request(
    lacking: dict[str, int], *, tried: dict[str, int], accepted: dict[str, int], budget: int
) -> dict[str, int]:
    """Rows a label to ask for in the next round: what is missing over the label's measured acceptance, within `budget`.

    Acceptance is over the rows `tried`, whose requests were answered. A label whose acceptance is not known to be above
    HOPELESS is asked for at most up to HOPELESS_TRIES rows. A budget too small for all is shared in proportion, by largest
    remainder.
    """
    wanted = {}
    for label, n in lacking.items():
        n_tried = tried.get(label, 0)
        rate = accepted.get(label, 0) / n_tried if n_tried >= ENOUGH_TRIES else ASSUMED_ACCEPTANCE
        wanted[label] = math.ceil(n / max(rate, HOPELESS))
        if rate <= HOPELESS:
            wanted[label] = min(wanted[label], max(HOPELESS_TRIES - n_tried, n))
    total, budget = sum(wanted.values()), max(budget, 0)
    if total <= budget:
        return wanted
    shared = {label: n * budget // total for label, n in wanted.items()}
    by_remainder = sorted(wanted, key=lambda label: -(wanted[label] * budget % total))
    for label in by_remainder[: budget - sum(shared.values())]:
        shared[label] += 1
    return {label: n for label, n in shared.items() if n}


def request_budget(generate: Generate, quota: dict[str, int]) -> int:
    """Answered requests that one challenger may have."""
    return generate.budget.requests or math.ceil(
        REQUESTS_A_ROW * sum(quota.values()) / generate.rows_per_reply
    )


def split_quota(quota: dict[str, int], rounds: int) -> list[dict[str, int]]:
    """Growing quotas, the last one whole: `rounds` times the dev set may tell in between what to ask for."""
    parts = rounds + 1
    return [
        {label: math.ceil(n * (i + 1) / parts) for label, n in quota.items()} for i in range(parts)
    ]
