"""An ONNX graph whose matrix products run on 8-bit integers, with a scale of its own for every token.

ONNX Runtime's dynamic quantisation takes one scale for a whole tensor of activations, so a text's scores move with the
texts beside it (by 0.10 in a batch of 32) and one outlying token costs all others their precision. Here each row of
activations (a token) has its own symmetric scale, each column of weights another: LLM.int8(), Dettmers et al. 2022
(arXiv:2208.07339), without its outlier columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MICROSOFT = "com.microsoft"


def quantise_columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`weight` (inputs, outputs) as int8 of the same shape and float32 scales (outputs,): weight is about int8 times scale."""
    import numpy as np

    scale = np.abs(weight).max(axis=0) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


class _Rewrite:
    """The graph with its constants and, for inputs that several products share, their quantised form."""

    def __init__(self, graph: Any) -> None:
        import numpy as np

        self.graph, self.count = graph, 0
        self.seen: dict[Any, tuple[Any, Any]] = {}
        self.one = self.constant(np.array(1, np.float32))
        self.tiny = self.constant(np.array(1e-12, np.float32))
        self.step = self.constant(np.array(1 / 127, np.float32))
        self.middle = self.constant(np.array(128, np.uint8))
        self.last = self.constant(np.array([-1], np.int64))
        self.first = self.constant(np.array([0], np.int64))

    def constant(self, array: np.ndarray) -> Any:
        import onnx_ir as ir

        self.count += 1
        name = f"int8_{self.count}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value

    def add(
        self, before: Any, op: str, inputs: list[Any], domain: str = "", **attributes: Any
    ) -> Any:
        import onnx_ir as ir

        node = ir.node(op, inputs, domain=domain, attributes=attributes)
        self.graph.insert_before(before, [node])
        return node.outputs[0]

    def quantised(self, x: Any, before: Any, width: int) -> tuple[Any, Any]:
        """`x` as rows of uint8 around 128, and each row's scale, of `x`'s rank. The rows have the shape of `x` where it is one text's,
        (tokens, width) otherwise."""
        import numpy as np

        if x not in self.seen:
            largest = self.add(
                before, "ReduceMax", [self.add(before, "Abs", [x]), self.last], keepdims=1
            )
            scale = self.add(
                before, "Mul", [self.add(before, "Max", [largest, self.tiny]), self.step]
            )
            if _one_text(x):
                rows, axis = x, len(x.shape) - 2
            else:
                rows, axis = (
                    self.add(
                        before, "Reshape", [x, self.constant(np.array([-1, width], np.int64))]
                    ),
                    0,
                )
            scales = self.add(before, "Reshape", [scale, self.last])
            middles = self.add(before, "Expand", [self.middle, self.add(before, "Shape", [scales])])
            self.seen[x] = (
                self.add(before, "QuantizeLinear", [rows, scales, middles], axis=axis),
                scale,
            )
        return self.seen[x]

    def product(self, node: Any, weight: np.ndarray) -> None:
        """Replace the MatMul `node` with constant `weight` by one on integers."""
        import numpy as np
        import onnx_ir as ir

        x = node.inputs[0]
        whole, scale = quantise_columns(weight)
        rows, row_scale = self.quantised(x, node, weight.shape[0])
        inputs = [rows, self.constant(whole), self.one, self.constant(scale), self.middle]
        y = self.add(node, "MatMulIntegerToFloat", inputs, MICROSOFT)
        if not _one_text(x):
            batch = self.add(node, "Slice", [self.add(node, "Shape", [x]), self.first, self.last])
            shape = self.add(
                node,
                "Concat",
                [batch, self.constant(np.array([weight.shape[1]], np.int64))],
                axis=0,
            )
            y = self.add(node, "Reshape", [y, shape])
        y = self.add(node, "Mul", [y, row_scale])
        ir.convenience.replace_all_uses_with(node.outputs[0], y)
        self.graph.remove(node, safe=True)


def _one_text(x: Any) -> bool:
    """Whether all dimensions of `x` but the last two are known to be 1."""
    return x.shape is not None and len(x.shape) >= 2 and all(d == 1 for d in list(x.shape)[:-2])


def quantise_products(model: Any) -> int:
    """Rewrite `model` (an `onnx_ir.Model`) in place; returns how many products run on integers.

    Only products of activations with constant matrices: attention's own products, and Gemm (the head, where it is
    one), stay in float32.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    rewrite, done = _Rewrite(model.graph), 0
    model.opset_imports.setdefault(MICROSOFT, 1)
    for node in list(model.graph):
        if node.op_type != "MatMul" or node.inputs[1].const_value is None:
            continue
        weight = node.inputs[1].const_value.numpy()
        if weight.ndim == 2:
            rewrite.product(node, weight)
            done += 1
    RemoveUnusedNodesPass()(model)
    return done
