"""A bundle's model as an ONNX graph, through transformers.exporters."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILES = {"onnx": "model.onnx", "onnx-int8": "model-int8.onnx"}
EXTERNAL_FROM = 1_500_000_000  # bytes: a graph in one file ends at 2 GB
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class CannotExport(RuntimeError):
    """This model, or this machine, gives no graph; the message says why."""


def export_graphs(bundle: Path, into: Path, *, kinds: list[str]) -> dict[str, Path]:
    """The graphs of `bundle` written into the directory `into`, by kind (keys of FILES).

    Inputs: the tokenizer's names without the attention mask, int64, shape (1, tokens). Output: `logits`, float32, shape
    (1, labels). One text at a time needs no mask, and without one attention is a third faster.
    Raises CannotExport.
    """
    missing = _missing()
    if missing:
        raise CannotExport(f"{', '.join(missing)} not installed: pip install {' '.join(missing)}")
    import onnx_ir as ir

    from tasks.model.inference.attention import fuse_attention
    from tasks.model.inference.int8 import quantise_products

    try:
        with _quiet():
            graph = _graph(bundle)
        fuse_attention(graph)
    except Exception as e:  # an architecture that the exporter does not know fails in as many ways as there are ones
        raise CannotExport(
            f"transformers.exporters: {type(e).__name__}: {' '.join(str(e).split())[:200]}"
        ) from e
    found = {}
    for kind in sorted(
        kinds, key=["onnx", "onnx-int8"].index
    ):  # quantising changes the graph in place
        if kind == "onnx-int8" and not quantise_products(graph):
            raise CannotExport("no product with constant weights was found to quantise")
        path = found[kind] = into / FILES[kind]
        size = sum(v.const_value.nbytes for v in graph.graph.initializers.values())
        ir.save(graph, path, external_data=f"{path.name}.data" if size > EXTERNAL_FROM else None)
    return found


def _missing() -> list[str]:
    from importlib.util import find_spec

    return [name for name in NEEDED if find_spec(name) is None]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports each of its steps on standard output, where answers belong, and warns of what it patches."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _graph(bundle: Path) -> Any:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.exporters import OnnxConfig, OnnxExporter

    local = {"local_files_only": True, "trust_remote_code": False}
    model = AutoModelForSequenceClassification.from_pretrained(
        bundle, use_safetensors=True, **local
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle, **local)
    sample = dict(tokenizer("some words of any kind to trace the graph with", return_tensors="pt"))
    del sample["attention_mask"]
    _without_mask(model)
    return OnnxExporter().export(model, sample, config=OnnxConfig(dynamic=True)).program


def _without_mask(model: Any) -> None:
    """Attention without the mask that transformers makes where none is given; sliding windows keep theirs."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    windows = ("sliding_window", "local_attention", "layer_types")
    if model.config._attn_implementation == "sdpa" and not any(
        getattr(model.config, w, None) for w in windows
    ):
        AttentionInterface.register("unmasked", sdpa_attention_forward)
        AttentionMaskInterface.register("unmasked", lambda *_, **__: None)
        model.set_attn_implementation("unmasked")
