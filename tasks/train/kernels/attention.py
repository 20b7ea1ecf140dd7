"""Attention within each document of a packed sequence: our own on the CPU, `varlen_attn` on CUDA.

It is registered with transformers under NAME. Batches without `cu_seq_lens_q` go to `sdpa`.

On the CPU, `sdpa` with dropout draws one random number per element, which is most of its time. Here
one draw of 64 bits decides four elements, dropped elements are multiplied by 0 (a masked fill takes
six times as long), and forward and backward compute only the scores within a document.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "reseed_packed"


def register() -> None:
    """Make the attention and its masks known to transformers."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(*, batch_size: int, q_length: int, attention_mask: Any = None, **options: Any) -> Any:
    if attention_mask is not None and tuple(attention_mask.shape) != (batch_size, q_length):
        return None  # a packed batch: the mask is the head's, by document
    return sdpa_mask(
        batch_size=batch_size, q_length=q_length, attention_mask=attention_mask, **options
    )


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Each document's attention to itself, (1, tokens, heads, size).

    Queries, keys and values are (1, heads, tokens, size). `options` are transformers' `dropout` and
    `scaling`. A token sees those fewer than `sliding_window` positions away. Source of the CUDA kernel,
    which has no dropout: FlashAttention 2 (arXiv:2307.08691).
    """
    if cu_seq_lens_q is None:
        states = (query, key, value, attention_mask)
        return sdpa_attention_forward(module, *states, is_causal=False, **options)
    scaling, dropout = options.get("scaling"), options.get("dropout", 0.0)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = query[0], key[0], value[0]
    if not query.is_cuda:
        lengths = cu_seq_lens_q.diff().tolist()
        out = DocumentAttention.apply(q, k, v, lengths, scale, sliding_window, dropout)
        return out.transpose(0, 1)[None].contiguous(), None
    assert not dropout, "varlen attention has no dropout"
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    window = (-1, -1) if sliding_window is None else (sliding_window - 1, sliding_window - 1)
    ends, longest = cu_seq_lens_q, int(max_length_q or query.shape[2])
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=window)
    return out[None], None


def keep_mask(x: Tensor, p: float) -> Tensor:
    """A tensor like `x` that is 0 with probability `p`, in steps of 1/65536, and 1 otherwise.

    torch's generator draws a seed; the bits come from NumPy's SFC64, which is twice as fast.
    """
    n = x.numel()
    seed = int(torch.empty((), dtype=torch.int64).random_(0, None))
    drawn = torch.from_numpy(np.random.SFC64(seed).random_raw((n + 3) // 4).view(np.int16))
    return torch.ge(drawn[:n].view(x.shape), round(p * 65536) - 32768, out=torch.empty_like(x))


class FastDropout(torch.nn.Dropout):
    """torch.nn.Dropout on the CPU, which draws the bits of four elements at a time."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` with elements dropped while training."""
        if not self.training or not self.p:
            return x
        return (x * keep_mask(x, self.p)).mul(1 / (1 - self.p))


class DocumentAttention(torch.autograd.Function):
    """softmax(q k' scale) v within each document, with dropout of the softmax.

    Tensors are (heads, tokens, size).
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        lengths: list[int],
        scale: float,
        window: int | None,
        p: float,
    ) -> Tensor:
        """The attention of documents of these lengths; `p` is the probability of dropout."""
        # both factors are applied to small tensors, not to the squares of scores
        q, k, v = (q * scale).contiguous(), k.contiguous(), (v / (1 - p)).contiguous()
        out, squares, start = torch.empty_like(v), [], 0
        for n in lengths:
            at = slice(start, start + n)
            weights = torch.softmax(_scores(q[:, at], k[:, at], window), -1)
            keep = keep_mask(weights, p) if p else None
            torch.bmm(weights if keep is None else weights * keep, v[:, at], out=out[:, at])
            squares.append((at, weights, keep))
            start += n
        ctx.save_for_backward(q, k, v)
        ctx.squares, ctx.scale, ctx.p = squares, scale, p
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """The gradients of q, k and v."""
        q, k, v = ctx.saved_tensors
        grad = grad.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for at, weights, keep in ctx.squares:
            g = grad[:, at]
            torch.bmm((weights if keep is None else weights * keep).mT, g, out=dv[:, at])
            dw = torch.bmm(g, v[:, at].mT)
            if keep is not None:
                dw.mul_(keep)
            ds = torch._softmax_backward_data(dw, weights, -1, weights.dtype)
            torch.bmm(ds, k[:, at], out=dq[:, at])
            torch.bmm(ds.mT, q[:, at], out=dk[:, at])
        return dq.mul_(ctx.scale), dk, dv.div_(1 - ctx.p), None, None, None, None


def _scores(q: Tensor, k: Tensor, window: int | None) -> Tensor:
    scores = torch.bmm(q, k.mT)
    n = scores.shape[-1]
    if window is not None and n > window:
        at = torch.arange(n)
        scores.masked_fill_((at[:, None] - at).abs() >= window, -torch.inf)
    return scores
