"""Losses per row, as functions of (logits, labels, weights), and the weights of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.project.train import Train
from tasks.train.task import Records

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def softmax_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None, *, smoothing: float, gamma: float
) -> Tensor:
    """Shape (rows,): each row's weight times -sum_k t_k (1 - p_k)^gamma log p_k, in float32.

    `logits` (rows, labels), `labels` (rows,) of indices, `weights` (rows,) or None for 1. p is the
    softmax; t is the one-hot target of which `smoothing` is spread evenly over all labels (Szegedy et
    al. 2016, arXiv:1512.00567); gamma > 0 is the focal loss (Lin et al. 2017, arXiv:1708.02002), 0 the
    cross-entropy.
    """
    log_p = torch.log_softmax(logits.float(), dim=-1)
    target = torch.full_like(log_p, smoothing / log_p.shape[-1])
    target.scatter_add_(1, labels.unsqueeze(1), torch.full_like(log_p[:, :1], 1 - smoothing))
    if gamma:
        # at p = 1 the slope of 0 to a power below 1 is infinite
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
    """Shape (rows,): each row's weight times the mean over labels of the binary cross-entropy.

    -(w t (1 - p)^gamma log p + (1 - t) p^gamma log(1 - p)), in float32. `logits` and `labels` (0 and 1)
    are (rows, labels); p is the sigmoid, t = label (1 - smoothing) + smoothing / 2. `positive` holds w
    for each label, as torch's `pos_weight`; gamma > 0 is the focal loss (Lin et al. 2017,
    arXiv:1708.02002).
    """
    yes, no = logsigmoid(logits.float()), logsigmoid(-logits.float())
    target = labels.float() * (1 - smoothing) + smoothing / 2
    positives, negatives = target * yes, (1 - target) * no
    if gamma:  # clamped as in softmax_loss
        positives = positives * no.exp().clamp_min(1e-6) ** gamma
        negatives = negatives * yes.exp().clamp_min(1e-6) ** gamma
    if positive is not None:
        positives = positives * torch.tensor(positive, device=logits.device)
    losses = -(positives + negatives).mean(dim=-1)
    return losses if weights is None else losses * weights.float()


def loss_function(
    settings: Train, *, positive: list[float] | None = None, multi_label: bool = False
) -> Loss:
    """The loss of these settings; `positive` as in sigmoid_loss."""
    smoothing, gamma = settings.label_smoothing, settings.focal_gamma
    if multi_label:
        return partial(sigmoid_loss, smoothing=smoothing, gamma=gamma, positive=positive)
    return partial(softmax_loss, smoothing=smoothing, gamma=gamma)


def row_weights(records: Records, *, settings: Train) -> np.ndarray | None:
    """A weight per row, 1 on average, shape (rows,) in float64; None where all are equal.

    The weight of its label times that of its source, divided by their mean over the rows, so that the
    learning rate keeps its meaning. `balanced` weights a label by rows / (labels * rows of the label), as
    scikit-learn does. For label sets only the source counts: `positive_weights` has the labels'.
    """
    if not settings.class_weights and not settings.source_weights:
        return None
    by_label: dict[str, float] = {}
    if settings.class_weights == "balanced":
        counts = Counter(label for r in records for label in r.labels)
        by_label = {label: len(records) / (len(counts) * n) for label, n in counts.items()}
    elif settings.class_weights:
        by_label = dict(settings.class_weights)
    by_source: dict[str, float] = {str(k): v for k, v in settings.source_weights.items()}
    products = (
        (by_label.get(r.label, 1.0) if isinstance(r.label, str) else 1.0)
        * by_source.get(r.source, 1.0)
        for r in records
    )
    weights = np.fromiter(products, dtype=np.float64, count=len(records))
    return weights / weights.mean() if len(weights) and weights.min() < weights.max() else None


def positive_weights(records: Records, labels: list[str], *, settings: Train) -> list[float] | None:
    """The weight of each label's positives, for rows with label sets; None where all are 1.

    `balanced`: rows without the label over rows with it, so that positives and negatives count equally;
    1 where a label has no rows, or all.
    """
    if settings.class_weights == "balanced":
        counts, rows = Counter(label for r in records for label in r.labels), len(records)
        weights = [(rows - counts[k]) / counts[k] if 0 < counts[k] < rows else 1.0 for k in labels]
    else:
        weights = [(settings.class_weights or {}).get(label, 1.0) for label in labels]
    return weights if set(weights) != {1.0} else None
