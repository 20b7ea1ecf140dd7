"""Losses of one row each, as functions of (logits, labels, weights), and the weights of rows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tasks.train.data import RecordFile

    Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

from tasks.project.train import Train
from tasks.records import Record


def softmax_loss(logits: Tensor, labels: Tensor, weights: Tensor | None, *, smoothing: float, gamma: float) -> Tensor:
    """Shape (rows,): each row's weight times -sum_k t_k (1 - p_k)^gamma log p_k, in float32.

    `logits` (rows, labels), `labels` (rows,) of indices, `weights` (rows,) or None for 1. t is the one-hot target of which
    `smoothing` is spread evenly over all labels (Szegedy et al. 2016, arXiv:1512.00567); p is the softmax; gamma > 0 is
    the focal loss (Lin et al. 2017, arXiv:1708.02002), 0 the cross-entropy.
    """
    import torch

    log_p = torch.log_softmax(logits.float(), dim=-1)
    target = torch.full_like(log_p, smoothing / log_p.shape[-1])
    target.scatter_add_(1, labels.unsqueeze(1), torch.full_like(log_p[:, :1], 1 - smoothing))
    if gamma:
        # p = 1 would give 0 to a power below 1, whose slope is infinite
        target = target * (-torch.expm1(log_p)).clamp_min(1e-6) ** gamma
    losses = -(target * log_p).sum(dim=-1)
    return losses if weights is None else losses * weights.float()


def loss_of(settings: Train) -> Loss:
    """The loss that the settings ask for."""

    def loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        return softmax_loss(logits, labels, weights, smoothing=settings.label_smoothing, gamma=settings.focal_gamma)

    return loss


def row_weights(records: list[Record] | RecordFile, *, settings: Train) -> list[float] | None:
    """A weight a row, 1 on average; None where all are alike.

    The weight of its label times that of its source, divided by their mean over the rows, so that the learning rate keeps
    its meaning. `balanced` weighs a label by rows / (labels * rows of the label), as scikit-learn does.
    """
    per_label: dict[str, float] = {}
    if settings.class_weights == "balanced":
        counts = Counter(str(r.label) for r in records)
        per_label = {label: len(records) / (len(counts) * n) for label, n in counts.items()}
    elif settings.class_weights:
        per_label = dict(settings.class_weights)
    per_source: dict[Any, float] = dict(settings.source_weights)
    weights = [per_label.get(str(r.label), 1.0) * per_source.get(r.source, 1.0) for r in records]
    mean = sum(weights) / max(1, len(weights))
    return [w / mean for w in weights] if len(set(weights)) > 1 else None
