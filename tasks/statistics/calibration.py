"""What is fitted on dev and folded into the head: a temperature; for label sets one a label, and a threshold a label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """The temperature in [0.05, 20] that minimises the log loss of `logits` (rows, labels) on the true labels `y`.

    Temperature scaling: Guo et al. 2017 (arXiv:1706.04599). The targets are (rows + 1) / (rows + 2) in place of 1, as in
    Platt 1999: a model that is right on every row is not taken to be right for ever.
    """
    import numpy as np
    from scipy.special import log_softmax

    n, labels = logits.shape
    target = np.full((n, labels), 1 / (n + 2) / max(1, labels - 1))
    target[np.arange(n), y] = (n + 1) / (n + 2)

    def loss(t: float) -> float:
        return -float((target * log_softmax(logits / t, axis=1)).sum(axis=1).mean())

    return _least(loss)


def binary_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """As `temperature`, for one label of a set: `logits` and `y` (0 and 1) of shape (rows,).

    The targets are Platt's own: (yes + 1) / (yes + 2) and 1 / (no + 2).
    """
    import numpy as np
    from scipy.special import log_expit

    yes = int(y.sum())
    target = np.where(y > 0, (yes + 1) / (yes + 2), 1 / (len(y) - yes + 2))

    def loss(t: float) -> float:
        z = logits / t
        return -float((target * log_expit(z) + (1 - target) * log_expit(-z)).mean())

    return _least(loss)


def _least(loss: Callable[[float], float]) -> float:
    """The temperature in [0.05, 20] at which `loss` is least, searched for by its logarithm."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    bounds = (np.log(0.05), np.log(20))
    return float(
        np.exp(
            minimize_scalar(lambda log_t: loss(np.exp(log_t)), bounds=bounds, method="bounded").x
        )
    )


def threshold(logits: np.ndarray, y: np.ndarray) -> float:
    """The logit from which a label is given, such that its F1 on `y` (0 and 1, shape (rows,)) is best.

    It lies half-way between two logits, or is 0; of those that are as good, the one nearest to 0. So a label that no row has,
    or one that 0 parts well, keeps a probability of one half.
    """
    import numpy as np

    order = np.argsort(-logits, kind="stable")
    z, hits = logits[order], np.cumsum(y[order])
    at = np.append(np.flatnonzero(z[:-1] > z[1:]), len(z) - 1)  # the last row given, for each cut
    cuts = np.append((z[at[:-1]] + z[at[:-1] + 1]) / 2, z[-1] - 1.0)
    given = at + 1
    inside = int((z >= 0).sum())
    cuts, given = np.append(cuts, 0.0), np.append(given, inside)
    true = np.append(hits[at], hits[inside - 1] if inside else 0)
    f1 = 2 * true / np.maximum(given + y.sum(), 1)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(cuts[best[np.abs(cuts[best]).argmin()]])


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the head's logits become: logits / `temperature` - `shift`. For label sets both hold a number a label, and a label is
    given where its logit is then 0 or more; otherwise one temperature serves all labels, and there is no shift."""

    temperature: float | tuple[float, ...] = 1.0
    shift: tuple[float, ...] | None = None

    @classmethod
    def fitted(cls, logits: np.ndarray, y: np.ndarray) -> Calibration:
        """From `logits` (rows, labels) on dev and the true labels: indices (rows,), or 0 and 1 (rows, labels)."""
        if y.ndim == 1:
            return cls(temperature(logits, y))
        t = tuple(binary_temperature(z, own) for z, own in zip(logits.T, y.T, strict=True))
        shift = tuple(threshold(z / k, own) for z, own, k in zip(logits.T, y.T, t, strict=True))
        return cls(t, shift)

    @classmethod
    def of(cls, about: dict[str, Any]) -> Calibration:
        """The one that a bundle's `reseed.json` tells of."""
        t, shift = about["temperature"], about.get("shift", {})
        return (
            cls(tuple(t.values()), tuple(shift.values())) if isinstance(t, dict) else cls(float(t))
        )

    def told(self, labels: list[str]) -> dict[str, Any]:
        """For `reseed.json`: `temperature`, and of label sets `shift`, each by label."""
        if not isinstance(self.temperature, tuple):
            return {"temperature": self.temperature}
        shift = self.shift or (0.0,) * len(labels)
        return {
            "temperature": dict(zip(labels, self.temperature, strict=True)),
            "shift": dict(zip(labels, shift, strict=True)),
        }

    def applied(self, logits: np.ndarray) -> np.ndarray:
        import numpy as np

        return logits / np.asarray(self.temperature) - np.asarray(self.shift or 0.0)

    def fold(self, model: Any) -> bool:
        """Make the last linear layer's output that; False, with nothing changed, where there is no such layer."""
        head = self._head(model)
        return head is not None and self._scaled(
            head, self.temperature, before=0.0, after=self.shift
        )

    def unfold(self, model: Any) -> bool:
        """Take it out of the last linear layer again."""
        head, t = self._head(model), self.temperature
        back = tuple(1 / k for k in t) if isinstance(t, tuple) else 1 / t
        return head is not None and self._scaled(head, back, before=self.shift, after=0.0)

    def _head(self, model: Any) -> Any:
        from torch.nn import Linear

        heads = [
            m
            for m in model.modules()
            if isinstance(m, Linear) and m.out_features == model.config.num_labels
        ]
        # a shift is one of the bias
        return heads[-1] if heads and (self.shift is None or heads[-1].bias is not None) else None

    def _scaled(self, head: Any, t: float | tuple[float, ...], *, before: Any, after: Any) -> bool:
        """The layer's output plus `before`, over `t`, less `after`; each a number or one a label."""
        import torch

        def own(value: Any) -> Any:
            return torch.tensor(value, dtype=head.weight.dtype, device=head.weight.device)

        with torch.no_grad():
            head.weight.div_(own(t)[:, None] if isinstance(t, tuple) else t)
            if head.bias is not None:
                if self.shift is not None:
                    head.bias.add_(own(before))
                head.bias.div_(own(t) if isinstance(t, tuple) else t)
                if self.shift is not None:
                    head.bias.sub_(own(after))
        return True


def as_served(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The codes (tasks/labels.py) that a model of these logits on dev, shape (rows, labels), would say there once calibrated on
    the true `y`: a temperature changes no label, and label sets have their thresholds."""
    if y.ndim == 1:
        return logits.argmax(axis=1)
    logits = logits.astype("float64")
    said: np.ndarray = (Calibration.fitted(logits, y).applied(logits) >= 0).astype("int64")
    return said
