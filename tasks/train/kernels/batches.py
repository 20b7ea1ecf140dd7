"""Which rows make a step: as many tokens in each, the same rows for the same seed and epoch, a share for each process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.train.kernels.packing import FAMILIES, PackingCollator, pack, packs

if TYPE_CHECKING:
    import numpy as np


class TokenBatches:
    """A batch sampler: an epoch's rows in steps of about `tokens` tokens, or of as many as `rows` rows have on average; each
    step in `pieces` batches a process.

    Every row is in one batch of one process, or in more where there are fewer rows than batches; all processes and all
    epochs have the same number of batches. Which rows make a step does not depend on pieces and processes, where a batch
    is longer than the longest row. A batch has at most `most` tokens. The order is a function of the seed and the epoch
    alone, so that a run which resumes in mid-epoch skips what it has seen and goes on with what it has not.

    Rows are drawn at random; `grouped`, for batches that are padded, sorts them by length within 50 steps, as
    transformers' LengthGroupedSampler does. Where a batch is shorter than the longest row, rows are counted in place of
    tokens. Raises UserError when a batch is to have fewer tokens than the longest row.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        rows: int,
        tokens: int | None = None,
        pieces: int = 1,
        seed: int = 0,
        processes: int = 1,
        process: int = 0,
        grouped: bool = False,
    ) -> None:
        import numpy as np

        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.seed, self.epoch, self.grouped = seed, 0, grouped
        self.processes, self.process, self.pieces = processes, process, pieces
        total, longest = int(self.lengths.sum()), int(self.lengths.max())
        if tokens is not None and tokens // (processes * pieces) < longest:
            raise UserError(
                f"train.tokens_per_step leaves {tokens // (processes * pieces)} tokens a batch, but a row has {longest}: "
                f"give more, or lower train.max_length"
            )
        self.steps = math.ceil(len(self.lengths) / rows if tokens is None else total / tokens)
        self.parts = self.steps * pieces * processes
        self.mean = math.ceil(total / self.parts)
        self.by_rows = total / self.parts < longest
        fullest = -math.ceil(
            len(self.lengths) / self.parts
        )  # rows of a batch where rows are counted, from the end
        self.most = (
            int(np.sort(self.lengths)[fullest:].sum()) if self.by_rows else self.mean + longest
        )

    def sizes(self, n: int = 8) -> tuple[int, ...]:
        """At most `n` numbers of tokens, multiples of 64, from the mean of a batch to its most: each a same factor above the last."""
        steps = [self.mean * (self.most / self.mean) ** (i / (n - 1)) for i in range(n)]
        return tuple(sorted({-(-round(size) // 64) * 64 for size in [*steps[:-1], self.most]}))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.pieces

    def __iter__(self) -> Iterator[list[int]]:
        import numpy as np

        rng = np.random.default_rng([self.seed % 2**64, self.epoch])
        order = rng.permutation(len(self.lengths))
        if self.grouped:
            order = self._by_length(order)
        if len(order) < self.parts:  # a process without a batch would keep the others waiting
            order = np.resize(order, self.parts)
        starts = self._cut(self.lengths[order])
        turns = rng.permutation(self.steps) if self.grouped else np.arange(self.steps)
        for turn in turns:
            for piece in range(self.pieces):
                part = (turn * self.pieces + piece) * self.processes + self.process
                yield order[starts[part] : starts[part + 1]].tolist()

    def _by_length(self, order: np.ndarray) -> np.ndarray:
        """The order, sorted by length within windows of 50 steps: up, then down, so that neighbours are of like length."""
        import numpy as np

        window = math.ceil(50 * len(order) / self.steps)
        pieces = []
        for i, start in enumerate(range(0, len(order), window)):
            piece = order[start : start + window]
            piece = piece[np.argsort(self.lengths[piece], kind="stable")]
            pieces.append(piece[::-1] if i % 2 else piece)
        return np.concatenate(pieces)

    def _cut(self, lengths: np.ndarray) -> np.ndarray:
        """Where each part starts, and the end: a row belongs to the part that its middle token falls into.

        The middles of neighbours are no further apart than the longest row, so no part is empty that is longer.
        """
        import numpy as np

        weights = np.ones(len(lengths), dtype=np.int64) if self.by_rows else lengths
        ends = np.cumsum(weights)
        part = (2 * ends - weights) * self.parts // (2 * ends[-1])  # whole numbers: no rounding
        return np.searchsorted(part, np.arange(self.parts + 1))


def batched(trainer: Any) -> Any:
    """The Trainer class with batches of TokenBatches, packed where the model can (`packing` says so), padded otherwise.

    Its datasets are those of tasks/train/data.py. `tokens_per_step` is set on it after it is made, and `unpack()` gives
    the model back as it was. Dev rows are sorted by length. On CUDA, packed batches are filled up to one of a few sizes.
    """

    class Batched(trainer):  # type: ignore[misc]
        tokens_per_step: int | None = None

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.unpack: Any = lambda: None
            half = self.args.bf16 or self.args.fp16
            self.packing = packs(self.model, device=self.args.device.type, half=half)
            if self.packing:
                alone = self.args.world_size == 1 and not self.args.torch_compile
                self.unpack = pack(self.model, alone=alone)
                config = self.model.config
                self.data_collator = PackingCollator(
                    FAMILIES[config.model_type](config), int(config.pad_token_id or 0)
                )

        def get_train_dataloader(self) -> Any:
            from accelerate.data_loader import prepare_data_loader
            from torch.utils.data import DataLoader

            args, processes = self.args, self.args.world_size
            sampler = TokenBatches(
                lengths_of(self.train_dataset),
                rows=args.per_device_train_batch_size
                * args.gradient_accumulation_steps
                * processes,
                tokens=self.tokens_per_step,
                pieces=args.gradient_accumulation_steps,
                seed=args.seed if args.data_seed is None else args.data_seed,
                processes=processes,
                process=args.process_index,
                grouped=not self.packing,
            )
            loader = DataLoader(
                self._remove_unused_columns(self.train_dataset, description="training"),
                batch_sampler=sampler,  # type: ignore[arg-type]
                collate_fn=self._of_few_sizes(sampler) if self.packing else self.data_collator,
                num_workers=args.dataloader_num_workers,
                pin_memory=args.dataloader_pin_memory,
                persistent_workers=args.dataloader_persistent_workers,
            )
            # the sampler hands out shares itself: to accelerate this is one process
            return prepare_data_loader(
                loader, device=args.device, num_processes=1, process_index=0, put_on_device=True
            )

        def _of_few_sizes(self, sampler: TokenBatches) -> PackingCollator:
            collator: PackingCollator = self.data_collator
            if self.args.device.type != "cuda":
                return collator
            sizes, lengths = sampler.sizes(), sampler.lengths
            documents = sizes[-1] // int(lengths.min()) + 2
            return replace(collator, sizes=sizes, documents=documents, longest=int(lengths.max()))

        def _get_eval_sampler(self, eval_dataset: Any) -> Any:
            import numpy as np

            return np.argsort(-lengths_of(eval_dataset), kind="stable").tolist()

    return Batched


def lengths_of(dataset: Any) -> np.ndarray:
    """The tokens of each row of a dataset of tasks/train/data.py, from the lists' offsets: the ids stay on the disk."""
    import numpy as np
    import pyarrow.compute as pc

    return np.asarray(pc.list_value_length(dataset.data.column("input_ids")), dtype=np.int64)
