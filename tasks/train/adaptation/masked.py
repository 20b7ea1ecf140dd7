"""An encoder as a masked language model: load it, mask texts, measure its perplexity, save it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    set_seed,
)

from tasks.atomic import digest_of
from tasks.encoder.embed import has_bf16, max_input_length
from tasks.errors import UserError, one_line
from tasks.project import Adapt, Project
from tasks.train.load import CHECKPOINT, LOAD_ERRORS, LOCAL, check_weights, missing_weights

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class MaskedEncoder:
    """An encoder under a head that predicts masked tokens.

    `new_head` is true where the checkpoint has no such head.
    """

    model: Any
    tokenizer: Any
    settings: Adapt
    max_length: int
    bf16: bool
    new_head: bool

    def encode(self, texts: list[str]) -> Rows:
        """The token ids of each text, with a mask of the special ones, which are never masked."""
        rows = self.tokenizer(
            texts, truncation=True, max_length=self.max_length, return_special_tokens_mask=True
        )
        return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]

    def masker(self, **options: Any) -> Callable[[Rows], Any]:
        """A collator that masks `mlm_probability` of the tokens, as in BERT.

        80% of these become the mask token, 10% another token, 10% stay. The masks depend on the seed and
        on the texts of the batch: they change from epoch to epoch, and a training that resumes within an
        epoch draws those that it would have drawn.
        """
        seed = self.settings.seed
        collator = DataCollatorForLanguageModeling(
            self.tokenizer,
            mlm=True,
            mlm_probability=self.settings.mlm_probability,
            seed=seed,
            **options,
        )

        def mask(rows: Rows) -> Any:
            digest = digest_of([seed, [list(r["input_ids"]) for r in rows]])
            collator.generator = torch.Generator().manual_seed(int(digest[:15], 16))
            return collator(rows)

        return mask

    def perplexity(self, texts: list[str], batch_size: int = 32) -> float:
        """exp of the mean loss over the masked tokens of `texts`, the same at each call.

        A pseudo-perplexity: all masked tokens of a text are predicted at once, where Salazar et al. 2020
        (arXiv:1910.14659) mask one token at a time.
        """
        device = self.to_device().eval().device
        mask = self.masker(mask_replace_prob=1.0, random_replace_prob=0.0)
        rows, loss, tokens = self.encode(texts), 0.0, 0
        with torch.inference_mode(), self.autocast():
            for start in range(0, len(rows), batch_size):
                batch = mask(rows[start : start + batch_size]).to(device)
                labels = batch.pop("labels").flatten()
                logits = self.model(**batch).logits.float().flatten(0, 1)
                loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
                tokens += int((labels != -100).sum())
        return math.exp(min(loss / max(tokens, 1), 50.0))

    def to_device(self) -> Any:
        """The model, on the GPU where there is one."""
        return self.model.to("cuda" if torch.cuda.is_available() else "cpu")

    def autocast(self) -> Any:
        """A context in which the model computes in its precision."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16)

    def head_parameters(self) -> list[Any]:
        """The parameters of the head alone; not a decoder that is tied to the word embeddings."""
        encoder = {id(p) for p in self.model.base_model.parameters()}
        return [p for p in self.model.parameters() if id(p) not in encoder]

    def save(self, directory: Path, *, original: Path) -> None:
        """Write the encoder and its tokenizer.

        The weights of `original` that a masked language model lacks are added: BERT's pooler, which a
        classifier reads.
        """
        model = self.model.to("cpu")
        weights, prefix = model.state_dict(), model.base_model_prefix + "."
        complete = AutoModel.from_pretrained(original, use_safetensors=True, **LOCAL).state_dict()
        added = {prefix + k: v for k, v in complete.items() if prefix + k not in weights}
        model.save_pretrained(directory, state_dict={**weights, **added}, safe_serialization=True)
        self.tokenizer.save_pretrained(directory)


def load_masked(encoder: Path, project: Project) -> MaskedEncoder:
    """The encoder with its head for masked tokens, or a new one.

    Raises UserError where it cannot be a masked language model.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    set_seed(project.adapt.seed)  # of a new head
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder, **LOCAL)
        model, info = AutoModelForMaskedLM.from_pretrained(encoder, **CHECKPOINT)
    except LOAD_ERRORS as e:
        raise UserError(
            f"train.model {encoder} can't be adapted: {one_line(e)}; set "
            f"adapt.epochs to 0, or use an encoder that transformers knows as a masked language model"
        ) from None
    if tokenizer.mask_token is None:
        raise UserError(
            f"train.model {encoder} has no mask token, so it cannot predict masked words: set "
            f"adapt.epochs to 0"
        )
    check_weights(model, info, encoder=encoder)
    prefix = model.base_model_prefix + "."
    new_head = any(not key.startswith(prefix) for key in missing_weights(info))
    if new_head and model.get_output_embeddings() is not None:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    max_length = min(project.train.max_length, max_input_length(model, tokenizer))
    bf16 = project.train.precision != "fp32" and has_bf16()
    return MaskedEncoder(model, tokenizer, project.adapt, max_length, bf16, new_head)
