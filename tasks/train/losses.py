"""Losses of one row each, as functions of (logits, labels, weights), and the weights of rows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor

    from tasks.train.data import RecordFile

    Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

from tasks.project.train import Train
from tasks.records import Record


def softmax_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None, *, smoothing: float, gamma: float
) -> Tensor:
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


def sigmoid_loss(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    *,
    smoothing: float,
    gamma: float,
    positive: list[float] | None = None,
) -> Tensor:
    """Shape (rows,): each row's weight times the mean over labels of the binary cross-entropy, in float32:
    -(w t (1 - p)^gamma log p + (1 - t) p^gamma log(1 - p)).

    `logits` and `labels` (0 and 1) are of shape (rows, labels); p is the sigmoid. t is the target of which `smoothing` is
    spread evenly over yes and no: t (1 - smoothing) + smoothing / 2. `positive` holds w, a weight of the yes for each label, as
    torch's `pos_weight`; gamma > 0 is the focal loss (Lin et al. 2017, arXiv:1708.02002).
    """
    import torch
    from torch.nn.functional import logsigmoid

    yes, no = logsigmoid(logits.float()), logsigmoid(-logits.float())
    target = labels.float() * (1 - smoothing) + smoothing / 2
    gain, loss = target * yes, (1 - target) * no
    if gamma:
        # as in softmax_loss: 0 to a power below 1 has an infinite slope
        gain = gain * no.exp().clamp_min(1e-6) ** gamma
        loss = loss * yes.exp().clamp_min(1e-6) ** gamma
    if positive is not None:
        gain = gain * torch.tensor(positive, device=logits.device)
    losses = -(gain + loss).mean(dim=-1)
    return losses if weights is None else losses * weights.float()


def loss_of(
    settings: Train, *, positive: list[float] | None = None, multi_label: bool = False
) -> Loss:
    """The loss that the settings ask for; `positive` as in sigmoid_loss."""
    how: dict[str, Any] = {"smoothing": settings.label_smoothing, "gamma": settings.focal_gamma}

    def loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        if multi_label:
            return sigmoid_loss(logits, labels, weights, positive=positive, **how)
        return softmax_loss(logits, labels, weights, **how)

    return loss


def row_weights(records: list[Record] | RecordFile, *, settings: Train) -> np.ndarray | None:
    """A weight a row, 1 on average, shape (rows,) in float64; None where all are alike.

    The weight of its label times that of its source, divided by their mean over the rows, so that the learning rate keeps
    its meaning. `balanced` weighs a label by rows / (labels * rows of the label), as scikit-learn does. Of label sets the
    source alone counts: `positive_weights` has the labels'.
    """
    import numpy as np

    if not settings.class_weights and not settings.source_weights:
        return None
    per_label: dict[str, float] = {}
    if settings.class_weights == "balanced":
        counts = Counter(label for r in records for label in r.labels)
        per_label = {label: len(records) / (len(counts) * n) for label, n in counts.items()}
    elif settings.class_weights:
        per_label = dict(settings.class_weights)
    per_source: dict[Any, float] = dict(settings.source_weights)
    each = (
        (per_label.get(r.label, 1.0) if isinstance(r.label, str) else 1.0)
        * per_source.get(r.source, 1.0)
        for r in records
    )
    weights = np.fromiter(each, dtype=np.float64, count=len(records))
    return weights / weights.mean() if len(weights) and weights.min() < weights.max() else None


def positive_weights(
    records: list[Record] | RecordFile, labels: list[str], *, settings: Train
) -> list[float] | None:
    """The weight of the yes of each label, for rows with label sets; None where all are alike.

    `balanced`: rows without the label over rows with it, so that yes and no weigh alike; 1 where a label has no row.
    """
    if settings.class_weights == "balanced":
        counts, rows = Counter(label for r in records for label in r.labels), len(records)
        weights = [(rows - counts[k]) / counts[k] if 0 < counts[k] < rows else 1.0 for k in labels]
    else:
        weights = [(settings.class_weights or {}).get(label, 1.0) for label in labels]
    return weights if set(weights) != {1.0} else None
