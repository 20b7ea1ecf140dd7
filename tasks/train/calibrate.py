"""One temperature for the head, fitted on dev and folded into the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """The temperature in [0.05, 20] that minimises the log loss of `logits` (rows, labels) on the true labels `y`.

    Temperature scaling: Guo et al. 2017 (arXiv:1706.04599). The targets are (rows + 1) / (rows + 2) in place of 1, as in
    Platt 1999: a model that is right on every row is not taken to be right for ever.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    n, labels = logits.shape
    target = np.full((n, labels), 1 / (n + 2) / max(1, labels - 1))
    target[np.arange(n), y] = (n + 1) / (n + 2)

    def loss(log_t: float) -> float:
        return -float((target * log_softmax(logits / np.exp(log_t), axis=1)).sum(axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def fold(model: Any, t: float) -> bool:
    """Divide the last linear layer's weight and bias by `t`; False, with nothing changed, where there is no such layer."""
    import torch

    head = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == model.config.num_labels]
    if not head:
        return False
    with torch.no_grad():
        head[-1].weight.div_(t)
        if head[-1].bias is not None:
            head[-1].bias.div_(t)
    return True
