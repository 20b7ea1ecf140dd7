"""A bundle's model as an ONNX graph, through transformers.exporters."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.errors import one_line

FILES = {"onnx": "model.onnx", "onnx-int8": "model-int8.onnx"}
EXTERNAL_FROM = 1_500_000_000  # bytes: a graph in one file is limited to 2 GB
NEEDED = ("onnx", "onnxscript", "onnxruntime")


class CannotExport(RuntimeError):
    """No graph of this model, or on this machine; the message has the reason."""


def export_graphs(bundle: Path, directory: Path, *, kinds: list[str]) -> dict[str, Path]:
    """Write the graphs of `bundle` into `directory`; returns them by kind (keys of FILES).

    Inputs: the tokenizer's without the attention mask, int64, shape (1, tokens). Output: `logits`,
    float32, shape (1, labels). One text at a time needs no mask, and without one attention is a third
    faster. Raises CannotExport.
    """
    if missing := missing_packages():
        raise CannotExport(f"{', '.join(missing)} not installed: pip install {' '.join(missing)}")
    import onnx_ir as ir

    from tasks.model.inference.attention import fuse_attention
    from tasks.model.inference.int8 import quantise_products

    try:
        with _quiet():
            graph = trace(bundle)
        fuse_attention(graph)
    except Exception as e:  # an architecture that the exporter does not know may fail in any way
        raise CannotExport(f"transformers.exporters: {type(e).__name__}: {one_line(e)}") from e
    paths = {}
    for kind in (k for k in FILES if k in kinds):  # int8 is last: it changes the graph in place
        if kind == "onnx-int8" and not quantise_products(graph):
            raise CannotExport("it has no product with constant weights to quantise")
        path = paths[kind] = directory / FILES[kind]
        size = sum(v.const_value.nbytes for v in graph.graph.initializers.values())
        ir.save(graph, path, external_data=f"{path.name}.data" if size > EXTERNAL_FROM else None)
    return paths


def missing_packages() -> list[str]:
    """The packages that an export needs and this machine lacks."""
    return [name for name in NEEDED if find_spec(name) is None]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints its steps to standard output and warns of its patches."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def trace(bundle: Path) -> Any:
    """The model of `bundle` as an `onnx_ir.Model`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.exporters import OnnxConfig, OnnxExporter

    local = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(bundle, **local)
    model = AutoModelForSequenceClassification.from_pretrained(
        bundle, use_safetensors=True, **local
    ).eval()
    sample = dict(tokenizer("some words of any kind to trace the graph with", return_tensors="pt"))
    del sample["attention_mask"]
    _remove_mask(model)
    return OnnxExporter().export(model, sample, config=OnnxConfig(dynamic=True)).program


def _remove_mask(model: Any) -> None:
    """Stop transformers from making a mask where none is given, except for sliding windows."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    windows = ("sliding_window", "local_attention", "layer_types")
    plain = not any(getattr(model.config, w, None) for w in windows)
    if plain and model.config._attn_implementation == "sdpa":
        AttentionInterface.register("unmasked", sdpa_attention_forward)
        AttentionMaskInterface.register("unmasked", lambda *_, **__: None)
        model.set_attn_implementation("unmasked")
