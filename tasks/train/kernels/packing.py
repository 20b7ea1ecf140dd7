"""Rows in one sequence without padding: each document attends to itself, its positions start anew.

A packed batch holds `input_ids` and `position_ids` of shape (1, tokens), the keyword arguments that
transformers passes to variable-length attention (`cu_seq_lens_q`, `max_length_q`, the same for k), and
labels of shape (documents,). Our attention keeps documents apart; a hook on the base model returns its
hidden states by document, so that the checkpoint's own head pools each of them like a padded row.

Position ids alone are not enough: under `sdpa`, transformers 5.23 lets the tokens of one document see
the others'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tasks.train.kernels.attention import NAME, FastDropout, register
from tasks.train.kernels.embedding import AccumulatingEmbedding, can_accumulate

# the position of a document's first token, for the families that pass position ids and keyword
# arguments on to their attention
FIRST_POSITION: dict[str, Callable[[Any], int]] = {
    "bert": lambda config: 0,
    "modernbert": lambda config: 0,
    "roberta": lambda config: int(config.pad_token_id) + 1,
    "xlm-roberta": lambda config: int(config.pad_token_id) + 1,
}


def can_pack(model: Any, *, device: str, half: bool) -> bool:
    """True where `model` trains packed as it would row by row.

    `device` is "cpu" or "cuda", `half` says whether it computes in 16 bits. On CUDA,
    `torch.nn.attention.varlen` has 16 bits only and no dropout: other models stay padded.
    """
    config = model.config
    if config.model_type not in FIRST_POSITION or getattr(config, "is_decoder", False):
        return False
    dropout = getattr(
        config, "attention_probs_dropout_prob", getattr(config, "attention_dropout", 0.0)
    )
    return device == "cpu" or (device == "cuda" and half and not dropout)


def pack(model: Any, *, alone: bool = False) -> Callable[[], None]:
    """Make `model` take packed batches as well as padded ones; returns a function that undoes it.

    On the CPU its dropout layers become FastDropout and, where one process trains it `alone` and
    uncompiled, its embeddings AccumulatingEmbedding.
    """
    register()
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    on_cpu = next(model.parameters()).device.type == "cpu"
    modules = list(model.modules()) if on_cpu else []
    dropouts = [m for m in modules if type(m) is torch.nn.Dropout]
    plain = [m for m in modules if type(m) is torch.nn.Embedding and can_accumulate(m)]
    embeddings = plain if alone else []
    for module in dropouts:
        module.__class__ = FastDropout
    for module in embeddings:
        module.__class__ = AccumulatingEmbedding
    hook = model.base_model.register_forward_hook(_split_documents, with_kwargs=True)

    def undo() -> None:
        hook.remove()
        model.set_attn_implementation(before)
        for module in dropouts:
            module.__class__ = torch.nn.Dropout
        for module in embeddings:
            module.__class__ = torch.nn.Embedding
            vars(module).pop("buffer", None)

    return undo


def _split_documents(module: Any, _: Any, inputs: dict[str, Any], output: Any) -> Any:
    """The base model's output with hidden states of shape (documents, longest or 1, hidden)."""
    if inputs.get("cu_seq_lens_q") is None:
        return output
    hidden, mask = output.last_hidden_state[0], inputs["attention_mask"]
    starts = inputs["cu_seq_lens_q"][: len(mask)].long()
    if getattr(module.config, "classifier_pooling", "cls") == "mean":
        at = starts[:, None] + torch.arange(mask.shape[1], device=starts.device)
        # the head masks what is beyond a document's end
        output.last_hidden_state = hidden[at.clamp(max=len(hidden) - 1)]
    else:
        output.last_hidden_state = hidden[starts][:, None]
    if getattr(module, "pooler", None) is not None:
        output.pooler_output = module.pooler(output.last_hidden_state)
    return output


@dataclass(frozen=True)
class PackingCollator:
    """Packs rows (`input_ids`, `labels` and optionally `weight`) into one batch.

    `first` is the position of a document's first token. With `sizes`, ascending, a batch has the
    smallest of these numbers of tokens that holds its rows. The rest is padding, in documents of its
    own at the end that the head never sees, and `cu_seq_lens` is filled up to `documents` + 1 with
    empty ones. So a compiled encoder meets few shapes. Raises ValueError when rows have more tokens
    than the largest size.
    """

    first: int = 0
    pad: int = 0
    sizes: tuple[int, ...] = ()
    documents: int | None = None
    longest: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The packed batch of these rows."""
        lengths = [len(row["input_ids"]) for row in rows]
        longest = self.longest or max(lengths)
        padding = self._size(sum(lengths)) - sum(lengths)
        pieces = [*lengths, *self._padding_documents(padding, longest)]
        pieces += [0] * ((self.documents or 0) - len(pieces))
        ids = [i for row in rows for i in row["input_ids"]] + [self.pad] * padding
        positions = [p for n in pieces for p in range(self.first, self.first + n)]
        ends = torch.tensor([0, *pieces]).cumsum(0).to(torch.int32)
        batch = {
            # labels come first: Trainer counts a batch's rows by its first tensor
            "labels": torch.tensor([row["labels"] for row in rows]),
            "input_ids": torch.tensor([ids]),
            "position_ids": torch.tensor([positions]),
            # for the head, by document; the attention reads only cu_seq_lens
            "attention_mask": torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None],
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }
        if "weight" in rows[0]:
            batch["weight"] = torch.tensor([row["weight"] for row in rows])
        return batch

    def _size(self, tokens: int) -> int:
        if not self.sizes:
            return tokens
        size = next((n for n in self.sizes if n >= tokens), None)
        if size is None:
            raise ValueError(f"{tokens} tokens do not fit into a packed batch of {self.sizes[-1]}")
        return size

    @staticmethod
    def _padding_documents(tokens: int, longest: int) -> list[int]:
        """The padding in documents that are no longer than the model's positions reach."""
        full, rest = divmod(tokens, longest)
        return [longest] * full + [rest] * (rest > 0)
