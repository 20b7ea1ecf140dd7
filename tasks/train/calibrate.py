"""One temperature for the head, fitted on dev and folded into the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """The temperature in [0.5, 8] that minimises the log loss of `logits` (rows, labels) on the true labels `y`.

    Temperature scaling: Guo et al. 2017 (arXiv:1706.04599).
    """
    import numpy as np
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(y))

    def loss(log_t: float) -> float:
        return float(-log_softmax(logits / np.exp(log_t), axis=1)[rows, y].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.5), np.log(8)), method="bounded").x))


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
