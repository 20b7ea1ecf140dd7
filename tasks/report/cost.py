"""What a challenger's LLM requests cost, and what became of each generator's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Self

from tasks.figures import Figures
from tasks.llm.budget import Spent
from tasks.llm.request import RowUsage, Usage


class GeneratorRows(Figures):
    """One generator's requests, rows, accepted rows and cost."""

    requests: int
    rows: int
    tokens: int
    usd: float
    accepted: int


class Tokens(Figures):
    """Tokens of the prompts and of the replies."""

    prompt: int
    completion: int
    total: int

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """The tokens of a usage."""
        return cls(
            prompt=usage.prompt_tokens, completion=usage.completion_tokens, total=usage.tokens
        )


class Cost(Figures):
    """What a challenger's LLM requests cost, in all and per accepted row.

    `measured` is False where any part was estimated.
    """

    spent: Spent
    tokens: int
    usd: float
    measured: bool
    tokens_per_accepted_row: float | None
    usd_per_accepted_row: float | None

    @classmethod
    def of(cls, spent: Spent, *, accepted: int) -> Self:
        """The cost of what was spent, for `accepted` rows."""
        return cls(
            spent=spent,
            tokens=spent.tokens,
            usd=round(spent.usd, 6),
            measured=spent.measured,
            tokens_per_accepted_row=round(spent.tokens / accepted, 1) if accepted else None,
            usd_per_accepted_row=round(spent.usd / accepted, 8) if accepted else None,
        )

    def line(self) -> str:
        """Tokens, and dollars where there is a price, in all and per accepted row."""
        dollars = f"${self.usd:.4f} and " if self.usd else ""
        line = f"{dollars}{self.tokens:,} tokens {'measured' if self.measured else 'estimated'}"
        if self.tokens_per_accepted_row is None:
            return line
        dollars = f"${self.usd_per_accepted_row:.6f} and " if self.usd else ""
        return f"{line}; {dollars}{self.tokens_per_accepted_row:,} tokens per accepted row"


def rows_by_generator(
    accepted: Iterable[str], usage: Iterable[Mapping[str, RowUsage]]
) -> dict[str, GeneratorRows]:
    """What became of each generator's rows.

    `accepted` names the generator of each accepted row; `usage` is, for each stage, what it asked
    of each generator.
    """
    kept = Counter(accepted)
    totals: dict[str, GeneratorRows] = {}
    for part in usage:
        for name, u in part.items():
            before = totals.get(name) or GeneratorRows(
                requests=0, rows=0, tokens=0, usd=0.0, accepted=kept[name]
            )
            totals[name] = GeneratorRows(
                requests=before.requests + u.requests,
                rows=before.rows + u.rows,
                tokens=before.tokens + u.tokens,
                usd=round(before.usd + u.usd, 9),
                accepted=before.accepted,
            )
    return totals
