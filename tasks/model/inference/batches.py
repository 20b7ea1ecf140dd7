"""Batches of similar length under a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence


def token_batches(lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """The indices of `lengths` (tokens a row), each once, in batches of ascending length.

    A batch holds at most `tokens` tokens with its padding (rows times its longest row); a row that is longer stands alone.
    """
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if found and lengths[i] * (len(found[-1]) + 1) <= tokens:
            found[-1].append(i)
        else:
            found.append([i])
    return found
