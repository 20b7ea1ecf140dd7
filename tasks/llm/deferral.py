"""Labels whose requests an endpoint put off for long: they come again after the others, or are closed."""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

T = TypeVar("T")


class DeferredLabels(Generic[T]):
    """What waits for each parked label (`asks`), and the sentence for each label that would wait too long (`closed`).

    A label's waits are added up: together they may last `longest` seconds.
    """

    def __init__(self, longest: float) -> None:
        self.asks: dict[str, list[T]] = {}
        self.closed: dict[str, str] = {}
        self._longest = longest
        self._until: dict[str, float] = {}
        self._waited: Counter[str] = Counter()

    def park(self, label: str, *, seconds: float, now: float, url: str) -> bool:
        """Whether the label is now parked; False when it is closed."""
        if label not in self.asks and label not in self.closed:
            waited = self._waited[label] + seconds
            if waited > self._longest:
                self.closed[label] = (
                    f"the endpoint {url} asked to wait {waited:.0f} s (Retry-After), longer than "
                    f"generate.deadline_seconds {self._longest:g}: ask again later; what was bought is kept"
                )
            else:
                self.asks[label], self._until[label] = [], now + seconds
                self._waited[label] = waited  # type: ignore[assignment]  # seconds have fractions
        return label in self.asks

    def first(self) -> tuple[float, list[T]]:
        """Take out the label whose time is over first: that time, and what waits for it."""
        label = min(self._until, key=self._until.__getitem__)
        return self._until.pop(label), self.asks.pop(label)
