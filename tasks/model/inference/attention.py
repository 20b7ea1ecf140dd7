"""Attention in an exported graph as one operator of ONNX Runtime's, which keeps the squares of scores in the caches.

The exporter spells attention out: two products with a softmax between them, and transpositions around. `MultiHeadAttention`
computes the same without writing the scores of all heads to memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.model.inference.int8 import MICROSOFT


@dataclass(frozen=True)
class _Side:
    """Queries, keys or values before they are parted into heads, (1, tokens, width); and what scales them on the way."""

    value: Any
    heads: int
    scale: float


def fuse_attention(model: Any) -> int:
    """Rewrite `model` (an `onnx_ir.Model`) in place; returns how many attentions became one operator.

    Only plain ones: no mask, no bias, no rotation of queries and keys, as many heads for keys as for queries. Others stay as they are.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    done = 0
    for node in list(model.graph):
        found = _around(node) if node.op_type == "Softmax" else None
        if found is None:
            continue
        (q, k, v), last = found
        own = {"num_heads": q.heads, "scale": q.scale * k.scale}
        fused = ir.node(
            "MultiHeadAttention", [q.value, k.value, v.value], domain=MICROSOFT, attributes=own
        )
        before, after = last.outputs[0], fused.outputs[0]
        after.shape, after.type = before.shape, before.type
        model.graph.insert_before(last, [fused])
        ir.convenience.replace_all_uses_with(before, after)
        done += 1
    if done:
        model.opset_imports.setdefault(MICROSOFT, 1)
        RemoveUnusedNodesPass()(model)
    return done


def _around(softmax: Any) -> tuple[tuple[_Side, _Side, _Side], Any] | None:
    """Queries, keys and values of the attention around a softmax, and the node that joins its heads again."""
    scores, answers = softmax.inputs[0].producer(), _next(softmax, "MatMul")
    if (
        scores is None
        or scores.op_type != "MatMul"
        or answers is None
        or answers.inputs[0] is not softmax.outputs[0]
    ):
        return None
    turned = _next(answers, "Transpose")
    joined = _next(turned, "Reshape") if turned is not None else None
    q, k, v = (_side(value) for value in (*scores.inputs, answers.inputs[1]))
    if joined is None or q is None or k is None or v is None or v.scale != 1:
        return None
    alike = q.heads == k.heads == v.heads
    return ((q, k, v), joined) if alike and joined.outputs[0].shape is not None else None


def _next(node: Any, kind: str) -> Any:
    """The one node of this kind that uses what `node` gives, or None."""
    users = [user for user, _ in node.outputs[0].uses()]
    return users[0] if len(users) == 1 and users[0].op_type == kind else None


def _side(value: Any) -> _Side | None:
    """From what the product takes back to the projection, through transpositions, reshapes and constant factors alone."""
    scale = 1.0
    while (node := value.producer()) is not None:
        value = node.inputs[0]
        if node.op_type == "Mul":
            factor = node.inputs[1].const_value
            if factor is None or factor.size != 1:
                return None
            scale *= float(factor.numpy())
        elif node.op_type == "Reshape":
            whole, parted = value.shape, node.outputs[0].shape
            if whole is not None and parted is not None and len(whole) == 3 and len(parted) == 4:
                heads, size = parted[2], parted[3]
                if isinstance(heads, int) and isinstance(size, int):
                    return (
                        _Side(value, heads, scale)
                        if whole[2] == heads * size and whole[0] == 1
                        else None
                    )
        elif node.op_type != "Transpose":
            return None
    return None
