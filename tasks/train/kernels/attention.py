"""Attention among documents that lie one behind the other: exact on the CPU, `torch.nn.attention.varlen` on CUDA.

Registered with transformers under NAME. Batches without `cu_seq_lens_q` go to `sdpa`, as they would without it.

On the CPU, `sdpa` with dropout takes its slow route, whose largest cost is one random number an element. Here a draw of
64 bits decides four elements, what is dropped is multiplied by 0 (a masked fill takes six times as long), and forward and backward
work on each document's own square.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "reseed_packed"


def register() -> None:
    """Make the attention and its masks known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(*, batch_size: int, q_length: int, attention_mask: Any = None, **rest: Any) -> Any:
    from transformers.masking_utils import sdpa_mask

    if attention_mask is not None and tuple(attention_mask.shape) != (batch_size, q_length):
        return None  # packed: it is the head's mask, by document
    return sdpa_mask(
        batch_size=batch_size, q_length=q_length, attention_mask=attention_mask, **rest
    )


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Each document's attention to itself, (1, tokens, heads, size), from queries, keys and values (1, heads, tokens, size).

    `sliding_window` is transformers' figure: a token sees those less than so many places away. Source of the CUDA
    kernel: FlashAttention 2 (arXiv:2307.08691), which has no dropout here.
    """
    if cu_seq_lens_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=False,
            **rest,
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        assert not dropout, "varlen attention has no dropout"
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        window = (-1, -1) if sliding_window is None else (sliding_window - 1, sliding_window - 1)
        ends, longest = cu_seq_lens_q, int(max_length_q or query.shape[2])
        return varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=window)[
            None
        ], None
    lengths = cu_seq_lens_q.diff().tolist()
    found = documents_class().apply(
        query[0], key[0], value[0], lengths, scale, sliding_window, dropout
    )
    return found.transpose(0, 1)[None].contiguous(), None


def kept(x: torch.Tensor, p: float) -> torch.Tensor:
    """A tensor like `x` of 0 with the probability `p`, in steps of 1/65536, and 1 otherwise.

    A number of torch's own generator seeds the bits, which come from NumPy's SFC64, as they are twice as fast there.
    """
    import numpy as np
    import torch

    n = x.numel()
    seed = int(torch.empty((), dtype=torch.int64).random_(0, None))
    drawn = torch.from_numpy(np.random.SFC64(seed).random_raw((n + 3) // 4).view(np.int16))
    return torch.ge(drawn[:n].view(x.shape), round(p * 65536) - 32768, out=torch.empty_like(x))


@functools.cache
def dropout_class() -> Any:
    """The class, made here because importing torch takes seconds."""
    import torch

    class Dropout(torch.nn.Dropout):
        """torch.nn.Dropout on the CPU, with its bits drawn four at a time."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training or not self.p:
                return x
            return (x * kept(x, self.p)).mul(1 / (1 - self.p))

    return Dropout


@functools.cache
def documents_class() -> Any:
    import torch

    class Documents(torch.autograd.Function):
        """softmax(q k' scale) v by document, with dropout of the softmax. Tensors are (heads, tokens, size)."""

        @staticmethod
        def forward(
            ctx: Any,
            q: torch.Tensor,
            k: torch.Tensor,
            v: torch.Tensor,
            lengths: list[int],
            scale: float,
            window: int | None,
            p: float,
        ) -> torch.Tensor:
            # both factors belong to small tensors here, not to the squares
            q, k, v = (q * scale).contiguous(), k.contiguous(), (v / (1 - p)).contiguous()
            out, squares, start = torch.empty_like(v), [], 0
            for n in lengths:
                here = slice(start, start + n)
                scores = torch.bmm(q[:, here], k[:, here].mT)
                if window is not None and n > window:
                    at = torch.arange(n)
                    scores.masked_fill_((at[:, None] - at).abs() >= window, -torch.inf)
                weights = torch.softmax(scores, -1)
                keep = kept(weights, p) if p else None
                torch.bmm(weights if keep is None else weights * keep, v[:, here], out=out[:, here])
                squares.append((here, weights, keep))
                start += n
            ctx.save_for_backward(q, k, v)
            ctx.squares, ctx.scale, ctx.p = squares, scale, p
            return out

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
            q, k, v = ctx.saved_tensors
            grad = grad.contiguous()
            dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
            for here, weights, keep in ctx.squares:
                g = grad[:, here]
                torch.bmm((weights if keep is None else weights * keep).mT, g, out=dv[:, here])
                dw = torch.bmm(g, v[:, here].mT)
                if keep is not None:
                    dw.mul_(keep)
                ds = torch._softmax_backward_data(dw, weights, -1, weights.dtype)
                torch.bmm(ds, k[:, here], out=dq[:, here])
                torch.bmm(ds.mT, q[:, here], out=dk[:, here])
            return dq.mul_(ctx.scale), dk, dv.div_(1 - ctx.p), None, None, None, None

    return Documents
