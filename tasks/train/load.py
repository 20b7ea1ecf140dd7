"""A checkpoint as a classifier: any Hugging Face encoder, and no code that comes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks import atomic
from tasks.encoder.embed import max_input_length
from tasks.errors import UserError
from tasks.labels import MULTI_LABEL
from tasks.project.train import Train

# what the families call it: BERT and RoBERTa, DistilBERT, ModernBERT, DeBERTa
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
REMEDY = "it must be a Hugging Face directory with config.json, model.safetensors and a tokenizer, and no custom code"


def load_classifier(
    encoder: Path, labels: list[str], *, settings: Train, multi_label: bool = False
) -> tuple[Any, Any]:
    """(model, tokenizer): the encoder under a new head of `labels`, of which a text has one, or with `multi_label` any. Raises
    UserError when it can't be one."""
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = _config(encoder, labels, settings)
        if multi_label:
            config.problem_type = MULTI_LABEL
        tokenizer = AutoTokenizer.from_pretrained(encoder, **local)
        options = {
            "use_safetensors": True,
            "ignore_mismatched_sizes": True,
            "output_loading_info": True,
        }
        model, info = AutoModelForSequenceClassification.from_pretrained(
            encoder, config=config, **options, **local
        )
        check_weights(model, info, encoder=encoder)
        if tokenizer.vocab_size <= len(
            tokenizer.all_special_ids
        ):  # what transformers makes up where there is none
            raise ValueError("its tokenizer knows no words")
        if tokenizer.pad_token_id is None:
            raise ValueError("its tokenizer has no padding token, so texts can't be batched")
    except UserError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as e:
        raise UserError(
            f"train.model {encoder} can't be loaded as a classifier: {' '.join(str(e).split())[:300]}; {REMEDY}"
        ) from None
    most = max_input_length(model, tokenizer)
    if settings.max_length > most:
        raise UserError(
            f"train.max_length is {settings.max_length}, but {encoder} reads at most {most} tokens: lower it"
        )
    tokenizer.model_max_length = settings.max_length
    return model, tokenizer


def missing_weights(info: dict[str, Any]) -> list[str]:
    """The weights that transformers made at random, the checkpoint having none or some of another shape, in order."""
    return sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})


def check_weights(model: Any, info: dict[str, Any], *, encoder: Path) -> None:
    """Raises UserError when a weight of the encoder was not loaded. A head may be new, and BERT's pooler, which a masked
    language model leaves out."""
    prefix = model.base_model_prefix + "."
    whole = {
        prefix + name for name, _ in model.base_model.named_parameters()
    }  # buffers are not learned
    lost = [k for k in missing_weights(info) if k in whole and not k.startswith(prefix + "pooler.")]
    if lost:
        raise UserError(
            f"train.model {encoder} has weights that don't fit its config.json: {len(lost)} of the encoder's {len(whole)} "
            f"are missing or of another shape, such as {', '.join(lost[:3])}, and would be random: give the whole "
            f"checkpoint, with the config.json it was saved with"
        )


def _config(encoder: Path, labels: list[str], settings: Train) -> Any:
    """The model's config with our labels and dropout. Raises ValueError."""
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN,
    )

    raw = atomic.read_json(encoder / "config.json") if (encoder / "config.json").is_file() else {}
    kind = raw.get("model_type")
    if kind and kind not in KNOWN:
        known = kind in transformers.CONFIG_MAPPING
        if raw.get("auto_map") and not known:
            raise ValueError(f"its type {kind!r} is code of its own (auto_map), which is never run")
        raise ValueError(
            f"transformers {transformers.__version__} has no classification head for its type {kind!r}"
            if known
            else f"transformers {transformers.__version__} does not know its type {kind!r}"
        )
    config = transformers.AutoConfig.from_pretrained(
        encoder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        local_files_only=True,
        trust_remote_code=False,
    )
    if hasattr(config, "auto_map"):  # transformers has the type itself: a bundle must not name code
        del config.auto_map
    _set_dropout(config, settings)
    return config


def _set_dropout(config: Any, settings: Train) -> None:
    for key, names in DROPOUT.items():
        value = getattr(settings, key)
        if value is None:
            continue
        there = [
            n
            for n in names
            if hasattr(config, n) or (n == "cls_dropout" and "deberta" in config.model_type)
        ]
        if not there:
            raise UserError(
                f"train.{key} is {value}, but a {config.model_type} model has no such setting: leave it out"
            )
        for name in there:
            setattr(config, name, value)
