"""Calibration that is fitted on dev and folded into a model's head.

One temperature for labels; for label sets a temperature and a threshold per label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """The temperature in [0.05, 20] with the least log loss of `logits` (rows, labels) on labels `y`.

    Temperature scaling: Guo et al. 2017 (arXiv:1706.04599). The target is (rows + 1) / (rows + 2) in
    place of 1, as in Platt 1999, so a model that is right on every row is not taken to be certain.
    """
    import numpy as np
    from scipy.special import log_softmax

    n, labels = logits.shape
    target = np.full((n, labels), 1 / (n + 2) / max(1, labels - 1))
    target[np.arange(n), y] = (n + 1) / (n + 2)

    def loss(t: float) -> float:
        return -float((target * log_softmax(logits / t, axis=1)).sum(axis=1).mean())

    return _minimise(loss)


def fit_binary_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """As `fit_temperature`, for one label of a set: `logits` and `y` (0 and 1) of shape (rows,).

    The targets are Platt's own: (yes + 1) / (yes + 2) and 1 / (no + 2).
    """
    import numpy as np
    from scipy.special import log_expit

    yes = int(y.sum())
    target = np.where(y > 0, (yes + 1) / (yes + 2), 1 / (len(y) - yes + 2))

    def loss(t: float) -> float:
        z = logits / t
        return -float((target * log_expit(z) + (1 - target) * log_expit(-z)).mean())

    return _minimise(loss)


def _minimise(loss: Callable[[float], float]) -> float:
    """The temperature in [0.05, 20] at which `loss` is least, searched for on a log scale."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    bounds = (np.log(0.05), np.log(20))
    found = minimize_scalar(lambda log_t: loss(np.exp(log_t)), bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def fit_threshold(logits: np.ndarray, y: np.ndarray) -> float:
    """The logit from which a label is predicted with the best F1 on `y` (0 and 1, shape (rows,)).

    It is half-way between two logits, or 0; the one nearest to 0 of those with equal F1. So a label
    without a row, or one that 0 separates well, keeps a probability threshold of one half.
    """
    import numpy as np

    order = np.argsort(-logits, kind="stable")
    z, hits = logits[order], np.cumsum(y[order])
    last = np.append(np.flatnonzero(z[:-1] > z[1:]), len(z) - 1)  # the last predicted row per cut
    cuts = np.append((z[last[:-1]] + z[last[:-1] + 1]) / 2, z[-1] - 1.0)
    above_zero = int((z >= 0).sum())
    cuts, predicted = np.append(cuts, 0.0), np.append(last + 1, above_zero)
    true = np.append(hits[last], hits[above_zero - 1] if above_zero else 0)
    f1 = 2 * true / np.maximum(predicted + y.sum(), 1)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(cuts[best[np.abs(cuts[best]).argmin()]])


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibrated logits are logits / `temperature` - `shift`.

    For label sets both hold one number per label, and a label is predicted where its calibrated
    logit is 0 or more. Otherwise there is one temperature and no shift.
    """

    temperature: float | tuple[float, ...] = 1.0
    shift: tuple[float, ...] | None = None

    @classmethod
    def fit(cls, logits: np.ndarray, y: np.ndarray) -> Calibration:
        """Fitted on `logits` (rows, labels) and true labels: indices (rows,), or 0 and 1 as logits."""
        if y.ndim == 1:
            return cls(fit_temperature(logits, y))
        columns = list(zip(logits.T, y.T, strict=True))
        t = tuple(fit_binary_temperature(z, true) for z, true in columns)
        shift = tuple(fit_threshold(z / k, true) for (z, true), k in zip(columns, t, strict=True))
        return cls(t, shift)

    @classmethod
    def from_json(cls, metadata: dict[str, Any]) -> Calibration:
        """The calibration that a bundle's `reseed.json` records."""
        t, shift = metadata["temperature"], metadata.get("shift", {})
        if isinstance(t, dict):
            return cls(tuple(t.values()), tuple(shift.values()))
        return cls(float(t))

    def to_json(self, labels: list[str]) -> dict[str, Any]:
        """For `reseed.json`: `temperature`, and of label sets also `shift`, both by label."""
        if not isinstance(self.temperature, tuple):
            return {"temperature": self.temperature}
        shift = self.shift or (0.0,) * len(labels)
        return {
            "temperature": dict(zip(labels, self.temperature, strict=True)),
            "shift": dict(zip(labels, shift, strict=True)),
        }

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """The calibrated logits."""
        import numpy as np

        return logits / np.asarray(self.temperature) - np.asarray(self.shift or 0.0)

    def fold(self, model: Any) -> bool:
        """Make the last linear layer's output calibrated; False, without a change, where none fits."""
        head = self._head(model)
        if head is not None:
            self._scale(head, self.temperature, before=0.0, after=self.shift)
        return head is not None

    def unfold(self, model: Any) -> bool:
        """Undo `fold`; False where there is no such layer."""
        head, t = self._head(model), self.temperature
        if head is not None:
            inverse = tuple(1 / k for k in t) if isinstance(t, tuple) else 1 / t
            self._scale(head, inverse, before=self.shift, after=0.0)
        return head is not None

    def _head(self, model: Any) -> Any:
        """The last linear layer with one output per label, or None; a shift needs its bias."""
        from torch.nn import Linear

        outputs = model.config.num_labels
        heads = [m for m in model.modules() if isinstance(m, Linear) and m.out_features == outputs]
        return heads[-1] if heads and (self.shift is None or heads[-1].bias is not None) else None

    def _scale(self, head: Any, t: float | tuple[float, ...], *, before: Any, after: Any) -> None:
        """Make the output (output + `before`) / `t` - `after`; each a number or one per label."""
        import torch

        def tensor(value: Any) -> Any:
            return torch.tensor(value, dtype=head.weight.dtype, device=head.weight.device)

        with torch.no_grad():
            head.weight.div_(tensor(t)[:, None] if isinstance(t, tuple) else t)
            if head.bias is not None:
                if self.shift is not None:
                    head.bias.add_(tensor(before))
                head.bias.div_(tensor(t) if isinstance(t, tuple) else t)
                if self.shift is not None:
                    head.bias.sub_(tensor(after))


def predict_calibrated(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The codes (tasks/labels.py) that a model with these logits on dev answers once calibrated there.

    `logits` has the shape (rows, labels); `y` is the true labels. A temperature changes no label;
    label sets have their thresholds.
    """
    if y.ndim == 1:
        return logits.argmax(axis=1)
    logits = logits.astype("float64")
    codes: np.ndarray = (Calibration.fit(logits, y).apply(logits) >= 0).astype("int64")
    return codes
