"""Embeddings on the CPU whose gradients are added up in place, in a tensor that is kept from step to step.

torch makes a tensor of the whole vocabulary for every batch's gradient: with MiniLM's 30,522 tokens and batches of 2,700 that is a
twelfth of a step, most of it for memory that is new each time. Here the rows that a batch has tokens of are added to the
gradient that is there.
"""

from __future__ import annotations

import functools
from typing import Any


def keeps(module: Any) -> bool:
    """Whether an embedding is trained, and plainly. autograd's hooks on its weight are not called: not for distributed training."""
    plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
    return plain and bool(module.weight.requires_grad)


@functools.cache
def embedding_class() -> Any:
    """The class, made here because importing torch takes seconds."""
    import torch

    class Lookup(torch.autograd.Function):
        """Rows of the module's weight. The weight stands among the inputs so that autograd comes back here."""

        @staticmethod
        def forward(ctx: Any, ids: torch.Tensor, weight: torch.Tensor, module: Any) -> torch.Tensor:
            ctx.ids, ctx.module = ids.reshape(-1), module
            return torch.nn.functional.embedding(ids, weight)

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
            module, weight = ctx.module, ctx.module.weight
            if weight.grad is None:
                module.kept = torch.empty_like(weight) if module.kept is None else module.kept
                weight.grad = module.kept.zero_()
            rows = grad.reshape(len(ctx.ids), -1).to(weight.dtype)
            if module.padding_idx is not None:
                rows = rows.masked_fill((ctx.ids == module.padding_idx)[:, None], 0)
            weight.grad.index_add_(0, ctx.ids, rows)
            return None, None, None

    class Embedding(torch.nn.Embedding):
        """torch.nn.Embedding with its gradient in `kept`."""

        kept: torch.Tensor | None = None

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return Lookup.apply(input, self.weight, self)  # type: ignore[no-any-return]

    return Embedding
