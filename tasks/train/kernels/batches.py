"""Batches of about as many tokens each: which rows make a step, and a Trainer that uses them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import Trainer

from tasks.errors import UserError
from tasks.train.kernels.packing import FIRST_POSITION, PackingCollator, can_pack, pack


class TokenBatches:
    """A batch sampler whose steps have about `tokens` tokens, or as many as `rows` rows on average.

    Each step is `accumulation` batches per process. Every row is in one batch of one process, or in
    more where there are fewer rows than batches; all processes and all epochs have the same number of
    batches. As long as a batch is longer than the longest row, the rows of a step do not depend on
    `accumulation` and `world_size`; otherwise rows are counted instead of tokens. A batch has at most
    `max_tokens` tokens. The order depends only on the seed and the epoch, so a run that resumes within
    an epoch continues with the rows that it has not seen.

    Rows are drawn at random; `grouped`, for padded batches, sorts them by length within 50 steps, as
    transformers' LengthGroupedSampler does. Raises UserError when `tokens` leaves a batch fewer tokens
    than the longest row has.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        rows: int,
        tokens: int | None = None,
        accumulation: int = 1,
        seed: int = 0,
        world_size: int = 1,
        rank: int = 0,
        grouped: bool = False,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.seed, self.epoch, self.grouped = seed, 0, grouped
        self.world_size, self.rank, self.accumulation = world_size, rank, accumulation
        total, longest = int(self.lengths.sum()), int(self.lengths.max())
        if tokens is not None and tokens // (world_size * accumulation) < longest:
            raise UserError(
                f"train.tokens_per_step leaves {tokens // (world_size * accumulation)} tokens per "
                f"batch, but a row has {longest}: raise it, or lower train.max_length"
            )
        self.steps = math.ceil(len(self.lengths) / rows if tokens is None else total / tokens)
        self.parts = self.steps * accumulation * world_size
        self.mean_tokens = math.ceil(total / self.parts)
        self.by_rows = total / self.parts < longest
        if self.by_rows:
            most_rows = math.ceil(len(self.lengths) / self.parts)
            self.max_tokens = int(np.sort(self.lengths)[-most_rows:].sum())
        else:
            self.max_tokens = self.mean_tokens + longest

    def sizes(self, n: int = 8) -> tuple[int, ...]:
        """At most `n` numbers of tokens, multiples of 64, evenly spaced in their logarithm.

        The first is the mean of a batch, the last its maximum.
        """
        ratio = self.max_tokens / self.mean_tokens
        steps = [self.mean_tokens * ratio ** (i / (n - 1)) for i in range(n - 1)]
        return tuple(sorted({math.ceil(round(s) / 64) * 64 for s in [*steps, self.max_tokens]}))

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed % 2**64, self.epoch])
        order = rng.permutation(len(self.lengths))
        if self.grouped:
            order = self._sort_within_windows(order)
        if len(order) < self.parts:  # a process without a batch would block the others
            order = np.resize(order, self.parts)
        starts = self._part_starts(self.lengths[order])
        steps = rng.permutation(self.steps) if self.grouped else np.arange(self.steps)
        for step in steps:
            for i in range(self.accumulation):
                part = (step * self.accumulation + i) * self.world_size + self.rank
                yield order[starts[part] : starts[part + 1]].tolist()

    def _sort_within_windows(self, order: np.ndarray) -> np.ndarray:
        """The order sorted by length within windows of 50 steps, ascending and descending in turn."""
        size = math.ceil(50 * len(order) / self.steps)
        windows = [order[start : start + size] for start in range(0, len(order), size)]
        sorted_windows = [w[np.argsort(self.lengths[w], kind="stable")] for w in windows]
        return np.concatenate([w[::-1] if i % 2 else w for i, w in enumerate(sorted_windows)])

    def _part_starts(self, lengths: np.ndarray) -> np.ndarray:
        """Where each part starts, and the end: a row belongs to the part that holds its middle token.

        Middles of neighbours are at most the longest row apart, so no longer part is empty.
        """
        weights = np.ones(len(lengths), dtype=np.int64) if self.by_rows else lengths
        ends = np.cumsum(weights)
        part = (2 * ends - weights) * self.parts // (2 * ends[-1])  # integers: no rounding
        return np.searchsorted(part, np.arange(self.parts + 1))


class BatchedTrainer(Trainer):
    """A Trainer with batches of TokenBatches: packed where the model can be, padded otherwise.

    Its datasets are those of tokens.py. `tokens_per_step` is set after construction, and
    `unpack()` restores the model. Dev rows are sorted by length. On CUDA, packed batches are padded
    to one of a few sizes.
    """

    tokens_per_step: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unpack: Any = lambda: None
        half = self.args.bf16 or self.args.fp16
        self.packing = can_pack(self.model, device=self.args.device.type, half=half)
        if self.packing:
            alone = self.args.world_size == 1 and not self.args.torch_compile
            self.unpack = pack(self.model, alone=alone)
            config = self.model.config
            first = FIRST_POSITION[config.model_type](config)
            self.data_collator = PackingCollator(first, int(config.pad_token_id or 0))

    def get_train_dataloader(self) -> Any:
        """The loader of this process's batches."""
        args = self.args
        step_batches = args.gradient_accumulation_steps * args.world_size
        sampler = TokenBatches(
            row_lengths(self.train_dataset),
            rows=args.per_device_train_batch_size * step_batches,
            tokens=self.tokens_per_step,
            accumulation=args.gradient_accumulation_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
            world_size=args.world_size,
            rank=args.process_index,
            grouped=not self.packing,
        )
        loader = DataLoader(
            self._remove_unused_columns(self.train_dataset, description="training"),
            batch_sampler=sampler,
            collate_fn=self._collator(sampler),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
        )
        # the sampler divides rows among processes itself: to accelerate this is one process
        return prepare_data_loader(
            loader, device=args.device, num_processes=1, process_index=0, put_on_device=True
        )

    def _collator(self, sampler: TokenBatches) -> Any:
        if not self.packing or self.args.device.type != "cuda":
            return self.data_collator
        sizes, lengths = sampler.sizes(), sampler.lengths
        documents = sizes[-1] // int(lengths.min()) + 2
        longest = int(lengths.max())
        return replace(self.data_collator, sizes=sizes, documents=documents, longest=longest)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return np.argsort(-row_lengths(eval_dataset), kind="stable").tolist()


def row_lengths(dataset: Any) -> np.ndarray:
    """The tokens of each row of a dataset of tokens.py.

    They are read from the lists' offsets: the ids stay on the disk.
    """
    return np.asarray(pc.list_value_length(dataset.data.column("input_ids")), dtype=np.int64)
