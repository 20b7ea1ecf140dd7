"""A checkpoint as a classifier: any Hugging Face encoder, and none of the code that comes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from tasks import atomic
from tasks.encoder.embed import max_input_length
from tasks.errors import UserError, one_line
from tasks.labels import MULTI_LABEL
from tasks.train.task import TrainingTask

LOCAL = {"local_files_only": True, "trust_remote_code": False}
# options of a model's from_pretrained, which then returns what it did not load
CHECKPOINT = {
    "use_safetensors": True,
    "ignore_mismatched_sizes": True,
    "output_loading_info": True,
    **LOCAL,
}
LOAD_ERRORS = (OSError, ValueError, KeyError, SafetensorError)
# the names of our dropout settings in the families' configs
DROPOUT = {
    "dropout": ("hidden_dropout_prob", "dropout", "mlp_dropout", "embedding_dropout"),
    "attention_dropout": ("attention_probs_dropout_prob", "attention_dropout"),
    "classifier_dropout": (
        "classifier_dropout",
        "seq_classif_dropout",
        "cls_dropout",
        "classifier_dropout_prob",
    ),
}


def load_classifier(task: TrainingTask) -> tuple[Any, Any]:
    """(model, tokenizer): the task's encoder under a new head for its labels.

    Raises UserError when the checkpoint cannot be loaded as a classifier, or does not fit the settings.
    """
    encoder, max_length = task.encoder, task.settings.max_length
    try:
        config = _config(task)
        tokenizer = AutoTokenizer.from_pretrained(encoder, **LOCAL)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            encoder, config=config, **CHECKPOINT
        )
        check_weights(model, info, encoder=encoder)
        # without a vocabulary transformers makes a tokenizer of special tokens only
        if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
            raise ValueError("its tokenizer has no vocabulary")
        if tokenizer.pad_token_id is None:
            raise ValueError("its tokenizer has no padding token, so texts cannot be batched")
    except UserError:
        raise
    except LOAD_ERRORS as e:
        raise UserError(
            f"train.model {encoder} can't be loaded as a classifier: "
            f"{one_line(e)}; it must be a Hugging Face directory with config.json, "
            f"model.safetensors and a tokenizer, and no custom code"
        ) from None
    longest = max_input_length(model, tokenizer)
    if max_length > longest:
        raise UserError(
            f"train.max_length is {max_length}, but {encoder} reads at most {longest} tokens: lower it"
        )
    tokenizer.model_max_length = max_length
    return model, tokenizer


def missing_weights(info: dict[str, Any]) -> list[str]:
    """The weights that are random because the checkpoint has none, or some of another shape."""
    return sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})


def check_weights(model: Any, info: dict[str, Any], *, encoder: Path) -> None:
    """Raises UserError when a weight of the encoder was not loaded.

    A head may be new, and BERT's pooler, which a masked language model lacks.
    """
    prefix = model.base_model_prefix + "."
    learned = {prefix + name for name, _ in model.base_model.named_parameters()}
    missing = [
        k for k in missing_weights(info) if k in learned and not k.startswith(prefix + "pooler.")
    ]
    if missing:
        raise UserError(
            f"train.model {encoder} has weights that do not fit its config.json: {len(missing)} of the "
            f"encoder's {len(learned)} are missing or of another shape, such as "
            f"{', '.join(missing[:3])}, and would be random: use the complete checkpoint, with the "
            f"config.json that it was saved with"
        )


def _config(task: TrainingTask) -> Any:
    """The model's config with our labels and dropout. Raises ValueError."""
    _check_type(task.encoder)
    config = transformers.AutoConfig.from_pretrained(
        task.encoder,
        num_labels=len(task.labels),
        id2label=dict(enumerate(task.labels)),
        label2id={label: i for i, label in enumerate(task.labels)},
        **LOCAL,
    )
    if hasattr(config, "auto_map"):  # transformers has this type: the bundle must not name code
        del config.auto_map
    if task.multi_label:
        config.problem_type = MULTI_LABEL
    for key, names in DROPOUT.items():
        _set_dropout(config, key, names, getattr(task.settings, key))
    return config


def _check_type(encoder: Path) -> None:
    """Raises ValueError for a type of model that transformers cannot load as a classifier."""
    path = encoder / "config.json"
    config = atomic.read_json(path) if path.is_file() else {}
    model_type = config.get("model_type")
    if not model_type or model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return
    version = f"transformers {transformers.__version__}"
    if model_type in transformers.CONFIG_MAPPING:
        raise ValueError(f"{version} has no classification head for its type {model_type!r}")
    if config.get("auto_map"):
        raise ValueError(f"its type {model_type!r} is custom code (auto_map), which is never run")
    raise ValueError(f"{version} does not know its type {model_type!r}")


def _set_dropout(config: Any, key: str, names: tuple[str, ...], value: float | None) -> None:
    if value is None:
        return
    is_deberta = "deberta" in config.model_type  # whose config may lack cls_dropout
    known = [n for n in names if hasattr(config, n) or (n == "cls_dropout" and is_deberta)]
    if not known:
        raise UserError(
            f"train.{key} is {value}, but a {config.model_type} model has no such setting: leave it out"
        )
    for name in known:
        setattr(config, name, value)
