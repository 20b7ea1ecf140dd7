"""Which weights learn, and how fast: frozen layers, and a learning rate that falls layer by layer."""

from __future__ import annotations

import re
from typing import Any

from tasks.errors import UserError
from tasks.project.train import Train

# encoder.layer.3. (BERT, RoBERTa, DeBERTa), transformer.layer.3. (DistilBERT), layers.3. (ModernBERT), h.3. and the like
LAYER = re.compile(r"(?:^|[._])(?:layers?|blocks?|h)\.(\d+)\.")


def layer_depth(name: str, *, base: str, layers: int) -> int:
    """How far from the text a parameter is: 0 embeddings, n the n-th layer, `layers` + 1 all that comes after.

    `base` is the name of the encoder in the model (`base_model_prefix`), `layers` their number.
    """
    if not name.startswith(f"{base}."):
        return layers + 1
    if found := LAYER.search(name):
        return int(found[1]) + 1
    return 0 if "embedding" in name else layers + 1


def count_layers(model: Any) -> int:
    """The number of the encoder's layers, by the names of its parameters; 0 where they are not numbered."""
    base = model.base_model_prefix
    found = [LAYER.search(n) for n, _ in model.named_parameters() if n.startswith(f"{base}.")]
    return max((int(m[1]) + 1 for m in found if m), default=0)


def freeze(model: Any, *, settings: Train) -> None:
    """Take the embeddings and the first layers out of training. Raises UserError when there are fewer layers."""
    if not (settings.freeze_embeddings or settings.freeze_layers):
        return
    layers = _layers(model, "freeze_layers") if settings.freeze_layers else count_layers(model)
    if settings.freeze_layers > layers:
        raise UserError(
            f"train.freeze_layers is {settings.freeze_layers}, but the encoder has {layers} layers: lower it"
        )
    for name, parameter in model.named_parameters():
        if layer_depth(name, base=model.base_model_prefix, layers=layers) <= settings.freeze_layers:
            parameter.requires_grad_(False)


def _layers(model: Any, key: str) -> int:
    layers = count_layers(model)
    if not layers:
        raise UserError(
            f"train.{key} is set, but the layers of {type(model).__name__} can't be told by their names: leave it out"
        )
    return layers


def parameter_groups(model: Any, *, decayed: set[str], settings: Train) -> list[dict[str, Any]]:
    """Parameter groups for the optimiser, the head's first: lr = learning_rate * layer_decay^(layers + 1 - depth).

    Layer-wise learning-rate decay as in ELECTRA (Clark et al. 2020, arXiv:2003.10555). `decayed` are the parameters that
    weight decay applies to. Frozen ones are left out.
    """
    layers = _layers(model, "layer_decay")
    found: dict[tuple[int, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (
                layers + 1 - layer_depth(name, base=model.base_model_prefix, layers=layers),
                name not in decayed,
            )
            found.setdefault(key, []).append(parameter)
    return [
        {
            "params": found[key],
            "lr": settings.learning_rate * settings.layer_decay ** key[0],
            "weight_decay": 0.0 if key[1] else settings.weight_decay,
        }
        for key in sorted(found)
    ]
