"""Attention in an exported graph as one operator, which keeps the squares of scores in the caches.

The exporter writes two products with a softmax between them, and transpositions around. ONNX Runtime's
`MultiHeadAttention` computes the same without writing the scores of all heads to memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from tasks.model.inference.int8 import MICROSOFT


@dataclass(frozen=True)
class _Projection:
    """Queries, keys or values before they are split into heads, (1, tokens, width), and their scale."""

    value: Any
    heads: int
    scale: float


def fuse_attention(model: Any) -> int:
    """Rewrite `model` (an `onnx_ir.Model`) in place; returns the number of fused attentions.

    Only plain ones are: no mask, bias or rotation of queries and keys, as many heads for keys as for
    queries.
    """
    fused = sum(_fuse(model.graph, n) for n in list(model.graph) if n.op_type == "Softmax")
    if fused:
        model.opset_imports.setdefault(MICROSOFT, 1)
        RemoveUnusedNodesPass()(model)
    return fused


def _fuse(graph: Any, softmax: Any) -> bool:
    """Replace the attention around a softmax; False where it is not a plain one."""
    scores, weighted = softmax.inputs[0].producer(), _only_user(softmax, "MatMul")
    joined = _only_user(_only_user(weighted, "Transpose"), "Reshape")  # the heads, joined again
    if scores is None or scores.op_type != "MatMul" or joined is None:
        return False
    if weighted.inputs[0] is not softmax.outputs[0] or joined.outputs[0].shape is None:
        return False
    q, k, v = (_projection(value) for value in (*scores.inputs, weighted.inputs[1]))
    if q is None or k is None or v is None or v.scale != 1 or not q.heads == k.heads == v.heads:
        return False
    node = ir.node(
        "MultiHeadAttention",
        [q.value, k.value, v.value],
        domain=MICROSOFT,
        attributes={"num_heads": q.heads, "scale": q.scale * k.scale},
    )
    before, after = joined.outputs[0], node.outputs[0]
    after.shape, after.type = before.shape, before.type
    graph.insert_before(joined, [node])
    ir.convenience.replace_all_uses_with(before, after)
    return True


def _only_user(node: Any, kind: str) -> Any:
    """The node of this kind that alone uses the output of `node`, or None."""
    users = [user for user, _ in node.outputs[0].uses()] if node is not None else []
    return users[0] if len(users) == 1 and users[0].op_type == kind else None


def _projection(value: Any) -> _Projection | None:
    """The projection behind an input of a product.

    Only transpositions, reshapes and constant factors may be between them.
    """
    scale = 1.0
    while (node := value.producer()) is not None:
        value = node.inputs[0]
        if node.op_type == "Mul":
            factor = node.inputs[1].const_value
            if factor is None or factor.size != 1:
                return None
            scale *= float(factor.numpy())
        elif node.op_type == "Reshape":
            before, after = value.shape, node.outputs[0].shape
            if before is not None and after is not None and (len(before), len(after)) == (3, 4):
                heads, size = after[2], after[3]
                if isinstance(heads, int) and isinstance(size, int):
                    plain = before[2] == heads * size and before[0] == 1
                    return _Projection(value, heads, scale) if plain else None
        elif node.op_type != "Transpose":
            return None
    return None
