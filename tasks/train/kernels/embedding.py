"""Embeddings on the CPU that add up their gradient in place, in one tensor for all steps.

torch makes a gradient of the whole vocabulary for every batch: with MiniLM's 30,522 tokens and
batches of 2,700 that is a twelfth of a step, most of it for fresh memory. Here only the rows of a
batch's tokens are added to the existing gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def can_accumulate(module: Any) -> bool:
    """True where an embedding is trained and has no special option.

    autograd's hooks on its weight are not called, so it does not serve distributed training.
    """
    plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
    return plain and bool(module.weight.requires_grad)


class _Lookup(torch.autograd.Function):
    """Rows of the module's weight, which is an input only so that autograd calls backward."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, module: Any) -> Tensor:
        ctx.ids, ctx.module = ids.reshape(-1), module
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        module, weight = ctx.module, ctx.module.weight
        if weight.grad is None:
            module.buffer = torch.empty_like(weight) if module.buffer is None else module.buffer
            weight.grad = module.buffer.zero_()
        rows = grad.reshape(len(ctx.ids), -1).to(weight.dtype)
        if module.padding_idx is not None:
            rows = rows.masked_fill((ctx.ids == module.padding_idx)[:, None], 0)
        weight.grad.index_add_(0, ctx.ids, rows)
        return None, None, None


class AccumulatingEmbedding(torch.nn.Embedding):
    """torch.nn.Embedding whose gradient lives in `buffer` from step to step."""

    buffer: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """The rows of these ids."""
        return _Lookup.apply(input, self.weight, self)
