"""An ONNX graph whose matrix products run on 8-bit integers, with one scale per token.

ONNX Runtime's dynamic quantisation uses one scale for a whole tensor of activations, so a text's scores
depend on the other texts (by 0.10 in a batch of 32), and one outlying token costs all others their
precision. Here each row of activations (a token) and each column of weights has its own symmetric
scale: LLM.int8(), Dettmers et al. 2022 (arXiv:2208.07339), without its outlier columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

MICROSOFT = "com.microsoft"


def quantise_columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`weight` (inputs, outputs) as int8 of that shape and float32 scales (outputs,).

    Their product is about `weight`.
    """
    scale = np.abs(weight).max(axis=0) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


def quantise_products(model: Any) -> int:
    """Rewrite `model` (an `onnx_ir.Model`) in place; returns the number of products on integers.

    Only products of activations with constant matrices: those of attention, and Gemm (the head, in some
    models), stay in float32.
    """
    rewrite, count = _Rewrite(model.graph), 0
    model.opset_imports.setdefault(MICROSOFT, 1)
    for node in list(model.graph):
        if node.op_type == "MatMul" and node.inputs[1].const_value is not None:
            weight = node.inputs[1].const_value.numpy()
            if weight.ndim == 2:
                rewrite.replace_product(node, weight)
                count += 1
    RemoveUnusedNodesPass()(model)
    return count


class _Rewrite:
    """The graph with its new constants, and the quantised form of inputs that products share."""

    def __init__(self, graph: Any) -> None:
        self._graph, self._constants = graph, 0
        self._quantised: dict[Any, tuple[Any, Any]] = {}
        self._one = self._constant(1, np.float32)
        self._tiny = self._constant(1e-12, np.float32)
        self._step = self._constant(1 / 127, np.float32)
        self._zero_point = self._constant(128, np.uint8)
        self._last = self._constant([-1], np.int64)
        self._first = self._constant([0], np.int64)

    def _constant(self, values: Any, dtype: Any) -> Any:
        self._constants += 1
        array, name = np.array(values, dtype), f"int8_{self._constants}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        self._graph.register_initializer(value)
        return value

    def _insert(
        self, before: Any, op: str, *inputs: Any, domain: str = "", **attributes: Any
    ) -> Any:
        """The output of a new node."""
        node = ir.node(op, inputs, domain=domain, attributes=attributes)
        self._graph.insert_before(before, [node])
        return node.outputs[0]

    def _quantise(self, x: Any, before: Any, width: int) -> tuple[Any, Any]:
        """`x` as rows of uint8 around 128, and the scale of each row, of the rank of `x`.

        The rows have the shape of `x` where it is one text's, (tokens, width) otherwise.
        """
        if x not in self._quantised:
            absolute = self._insert(before, "Abs", x)
            largest = self._insert(before, "ReduceMax", absolute, self._last, keepdims=1)
            positive = self._insert(before, "Max", largest, self._tiny)
            scale = self._insert(before, "Mul", positive, self._step)
            rows, axis = x, len(x.shape) - 2 if _is_one_text(x) else 0
            if not _is_one_text(x):
                shape = self._constant([-1, width], np.int64)
                rows = self._insert(before, "Reshape", x, shape)
            scales = self._insert(before, "Reshape", scale, self._last)
            shape = self._insert(before, "Shape", scales)
            zero_points = self._insert(before, "Expand", self._zero_point, shape)
            rows = self._insert(before, "QuantizeLinear", rows, scales, zero_points, axis=axis)
            self._quantised[x] = rows, scale
        return self._quantised[x]

    def replace_product(self, node: Any, weight: np.ndarray) -> None:
        """Replace the MatMul `node` with constant `weight` by one on integers."""
        x = node.inputs[0]
        integers, scale = quantise_columns(weight)
        rows, row_scale = self._quantise(x, node, weight.shape[0])
        inputs = (
            rows,
            self._constant(integers, np.int8),
            self._one,
            self._constant(scale, np.float32),
            self._zero_point,
        )
        y = self._insert(node, "MatMulIntegerToFloat", *inputs, domain=MICROSOFT)
        if not _is_one_text(x):
            shape = self._insert(node, "Shape", x)
            batch = self._insert(node, "Slice", shape, self._first, self._last)
            width = self._constant([weight.shape[1]], np.int64)
            shape = self._insert(node, "Concat", batch, width, axis=0)
            y = self._insert(node, "Reshape", y, shape)
        y = self._insert(node, "Mul", y, row_scale)
        ir.convenience.replace_all_uses_with(node.outputs[0], y)
        self._graph.remove(node, safe=True)


def _is_one_text(x: Any) -> bool:
    """True where all dimensions of `x` but the last two are known to be 1."""
    return x.shape is not None and len(x.shape) >= 2 and all(d == 1 for d in list(x.shape)[:-2])
