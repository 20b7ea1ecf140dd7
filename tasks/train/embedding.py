"""Embeddings on the CPU whose gradients are added up in place, in a tensor that is kept from step to step.

torch makes a tensor of the whole vocabulary for every batch's gradient: with MiniLM's 30,522 tokens and batches of 2,700 that is a
twelfth of a step, most of it for memory that is new each time. Here the rows that a batch has tokens of are added to the
gradient that is there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def keep_gradients(model: Any) -> Callable[[], None]:
    """Make the plain embeddings of `model` that are trained keep their gradients; what is returned makes them as they were.

    autograd's hooks on these weights are not called, so it is not for distributed training.
    """
    import torch

    own = [m for m in model.modules() if type(m) is torch.nn.Embedding and m.weight.requires_grad and _plain(m)]
    for module in own:
        module.__class__ = _embedding_class()

    def undo() -> None:
        for module in own:
            module.__class__ = torch.nn.Embedding
            vars(module).pop("kept", None)

    return undo


def _plain(module: Any) -> bool:
    return module.max_norm is None and not module.scale_grad_by_freq and not module.sparse


@functools.cache
def _embedding_class() -> Any:
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
            weight.grad.index_add_(0, ctx.ids, grad.reshape(len(ctx.ids), -1).to(weight.dtype))
            if module.padding_idx is not None:
                weight.grad[module.padding_idx] = 0
            return None, None, None

    class Embedding(torch.nn.Embedding):
        """torch.nn.Embedding with its gradient in `kept`."""

        kept: torch.Tensor | None = None

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return Lookup.apply(input, self.weight, self)  # type: ignore[no-any-return]

    return Embedding
