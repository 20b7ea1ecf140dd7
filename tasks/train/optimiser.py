"""Which weights learn, and how fast: frozen layers, and layer-wise learning-rate decay."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from tasks.errors import UserError
from tasks.project.train import Train

# encoder.layer.3. (BERT, RoBERTa, DeBERTa), transformer.layer.3. (DistilBERT), layers.3. (ModernBERT)
_LAYER = re.compile(r"(?:^|[._])(?:layers?|blocks?|h)\.(\d+)\.")


def layer_depth(name: str, *, base: str, layers: int) -> int:
    """The depth of a parameter: 0 for embeddings, n for the n-th layer, `layers` + 1 for the rest.

    `base` is the name of the encoder in the model (`base_model_prefix`), `layers` its number of layers.
    """
    if not name.startswith(f"{base}."):
        return layers + 1
    if match := _LAYER.search(name):
        return int(match[1]) + 1
    return 0 if "embedding" in name else layers + 1


def count_layers(model: Any) -> int:
    """The encoder's number of layers, from its parameters' names; 0 where they are not numbered."""
    base = model.base_model_prefix
    names = [name for name, _ in model.named_parameters() if name.startswith(f"{base}.")]
    return max((int(m[1]) + 1 for m in map(_LAYER.search, names) if m), default=0)


def freeze(model: Any, *, settings: Train) -> None:
    """Stop training the embeddings and the first layers. Raises UserError when there are fewer."""
    if not (settings.freeze_embeddings or settings.freeze_layers):
        return
    layers = _require_layers(model, "freeze_layers") if settings.freeze_layers else 0
    if settings.freeze_layers > layers:
        raise UserError(
            f"train.freeze_layers is {settings.freeze_layers}, but the encoder has {layers} layers: "
            f"lower it"
        )
    for name, parameter in model.named_parameters():
        if layer_depth(name, base=model.base_model_prefix, layers=layers) <= settings.freeze_layers:
            parameter.requires_grad_(False)


def parameter_groups(model: Any, *, decayed: set[str], settings: Train) -> list[dict[str, Any]]:
    """The optimiser's parameter groups, the head's first; frozen parameters are not in them.

    lr = learning_rate * layer_decay^(layers + 1 - depth): layer-wise learning-rate decay as in ELECTRA
    (Clark et al. 2020, arXiv:2003.10555). `decayed` are the parameters that weight decay applies to.
    """
    layers = _require_layers(model, "layer_decay")
    parameters: dict[tuple[int, bool], list[Any]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = layer_depth(name, base=model.base_model_prefix, layers=layers)
            parameters[layers + 1 - depth, name not in decayed].append(parameter)
    return [
        {
            "params": parameters[exponent, undecayed],
            "lr": settings.learning_rate * settings.layer_decay**exponent,
            "weight_decay": 0.0 if undecayed else settings.weight_decay,
        }
        for exponent, undecayed in sorted(parameters)
    ]


def _require_layers(model: Any, key: str) -> int:
    layers = count_layers(model)
    if not layers:
        raise UserError(
            f"train.{key} is set, but the parameters of {type(model).__name__} have no layer numbers "
            f"in their names: leave it out"
        )
    return layers
