"""Rows in one sequence without padding: each document attends to itself alone, and its positions start anew.

A packed batch holds `input_ids` and `position_ids` of shape (1, tokens), the keyword arguments that transformers hands to
variable-length attention (`cu_seq_lens_q`, `max_length_q`, the same for k), and labels of shape (documents,). The
attention function below keeps documents apart; a hook on the base model hands its hidden states on by document, so that
the checkpoint's own head pools each of them as it would a padded row.

Position ids alone are not enough: under `sdpa`, transformers 5.23 lets the tokens of one document see the others'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tasks.train.kernels.attention import NAME, dropout_class, register
from tasks.train.kernels.embedding import embedding_class, keeps

# the position of a document's first token; all of these hand position ids and keyword arguments down to their attention
FAMILIES: dict[str, Callable[[Any], int]] = {
    "bert": lambda config: 0,
    "modernbert": lambda config: 0,
    "roberta": lambda config: int(config.pad_token_id) + 1,
    "xlm-roberta": lambda config: int(config.pad_token_id) + 1,
}


def packs(model: Any, *, device: str, half: bool) -> bool:
    """True where `model` trains packed as it would row by row, on `device` ("cpu" or "cuda"), `half` in 16 bits.

    On CUDA `torch.nn.attention.varlen` computes in 16 bits and has no dropout of attention: other models stay padded.
    """
    config = model.config
    if config.model_type not in FAMILIES or getattr(config, "is_decoder", False):
        return False
    dropout = getattr(
        config, "attention_probs_dropout_prob", getattr(config, "attention_dropout", 0.0)
    )
    return device == "cpu" or (device == "cuda" and half and not dropout)


def pack(model: Any, *, alone: bool = False) -> Callable[[], None]:
    """Make `model` take packed batches beside padded ones; what is returned makes it as it was.

    On the CPU its dropout layers draw their bits faster (see tasks/train/kernels/attention.py), and where it is trained `alone`, by one
    process and not compiled, its embeddings keep their gradients (tasks/train/kernels/embedding.py).
    """
    import torch

    register()
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    dropouts, embeddings = [], []
    if next(model.parameters()).device.type == "cpu":
        dropouts = [m for m in model.modules() if type(m) is torch.nn.Dropout]
        embeddings = [
            m for m in model.modules() if alone and type(m) is torch.nn.Embedding and keeps(m)
        ]
    for module in dropouts:
        module.__class__ = dropout_class()
    for module in embeddings:
        module.__class__ = embedding_class()
    hook = model.base_model.register_forward_hook(_by_document, with_kwargs=True)

    def undo() -> None:
        hook.remove()
        model.set_attn_implementation(before)
        for module in dropouts:
            module.__class__ = torch.nn.Dropout
        for module in embeddings:
            module.__class__ = torch.nn.Embedding
            vars(module).pop("kept", None)

    return undo


def _by_document(module: Any, _: Any, given: dict[str, Any], output: Any) -> Any:
    """The base model's output with hidden states of shape (documents, longest or 1, hidden)."""
    import torch

    if given.get("cu_seq_lens_q") is None:
        return output
    hidden, mask = output.last_hidden_state[0], given["attention_mask"]
    starts = given["cu_seq_lens_q"][: len(mask)].long()
    if getattr(module.config, "classifier_pooling", "cls") == "mean":
        at = starts[:, None] + torch.arange(mask.shape[1], device=starts.device)
        output.last_hidden_state = hidden[
            at.clamp(max=len(hidden) - 1)
        ]  # what lies beyond a document is masked
    else:
        output.last_hidden_state = hidden[starts][:, None]
    if getattr(module, "pooler", None) is not None:
        output.pooler_output = module.pooler(output.last_hidden_state)
    return output


@dataclass(frozen=True)
class PackingCollator:
    """Rows (`input_ids`, `labels`, maybe `weight`) to one packed batch; `first` is the position of a document's first token.

    With `sizes`, ascending, a batch has the smallest number of tokens among them that holds its rows: what is left over is
    padding in documents of its own at the end, which the head never sees, and `cu_seq_lens` is filled up to `documents` + 1
    with empty ones. So the encoder's shapes are few for compiled graphs; the head's follow the number of rows. Raises
    ValueError when the rows have more tokens than the largest.
    """

    first: int = 0
    pad: int = 0
    sizes: tuple[int, ...] = ()
    documents: int | None = None
    longest: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        lengths = [len(row["input_ids"]) for row in rows]
        longest = self.longest or max(lengths)
        tokens = sum(lengths)
        size = next((n for n in self.sizes if n >= tokens), None) if self.sizes else tokens
        if size is None:
            raise ValueError(f"{tokens} tokens do not fit into a packed batch of {self.sizes[-1]}")
        spare = size - tokens
        # cut, so that positions stay within what the model has
        pieces = [
            *lengths,
            *[longest] * (spare // longest),
            *[spare % longest] * (spare % longest > 0),
        ]
        pieces += [0] * ((self.documents or 0) - len(pieces))
        ids = [i for row in rows for i in row["input_ids"]] + [self.pad] * spare
        ends = torch.tensor([0, *pieces]).cumsum(0).to(torch.int32)
        batch = {
            # first, for the Trainer counts a batch's rows by its first tensor
            "labels": torch.tensor([row["labels"] for row in rows]),
            "input_ids": torch.tensor([ids]),
            "position_ids": torch.tensor(
                [[p for n in pieces for p in range(self.first, self.first + n)]]
            ),
            # for the head, by document; the attention reads cu_seq_lens alone
            "attention_mask": torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None],
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": longest,
            "max_length_k": longest,
        }
        return batch | (
            {"weight": torch.tensor([row["weight"] for row in rows])} if "weight" in rows[0] else {}
        )
