"""What makes a step: each row once, like tokens, the same for a seed and epoch; and rows on the disk."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.records import Record, write_records
from tasks.train.kernels.batches import BatchedTrainer, TokenBatches, row_lengths
from tasks.train.kernels.tokens import RowEncoding, tokenise
from tasks.train.task import RecordFile
from tests.kit import toy

Lengths = st.lists(st.integers(1, 60), min_size=1, max_size=120)


def shares(lengths: Any, processes: int = 1, epoch: int = 0, **how: Any) -> list[list[list[int]]]:
    """Each process's batches."""
    found = []
    for process in range(processes):
        sampler = TokenBatches(
            np.array(lengths), world_size=processes, rank=process, **{"rows": 8, **how}
        )
        sampler.set_epoch(epoch)
        found.append(list(sampler))
        assert len(found[-1]) == len(sampler)
    return found


class TestBatches:
    @given(
        Lengths,
        st.integers(1, 40),
        st.integers(1, 4),
        st.integers(1, 3),
        st.booleans(),
        st.integers(0, 3),
    )
    @settings(max_examples=200, deadline=None)
    def test_each_row_once_and_as_many_batches_everywhere(
        self,
        lengths: list[int],
        rows: int,
        processes: int,
        accumulation: int,
        grouped: bool,
        epoch: int,
    ) -> None:
        found = shares(
            lengths, processes, epoch, rows=rows, accumulation=accumulation, grouped=grouped
        )
        assert len({len(batches) for batches in found}) == 1
        assert len(found[0]) == accumulation * -(-len(lengths) // rows), "steps of so many rows"
        every = [batch for batches in found for batch in batches]
        assert all(every), "a batch without rows"
        seen = [i for batch in every for i in batch]
        if len(lengths) >= processes * len(found[0]):
            assert sorted(seen) == list(range(len(lengths)))
        else:
            assert set(seen) == set(range(len(lengths)))

    @given(Lengths, st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.booleans())
    @settings(max_examples=200, deadline=None)
    def test_a_step_has_the_same_rows_however_it_is_cut(
        self, lengths: list[int], rows: int, processes: int, accumulation: int, grouped: bool
    ) -> None:
        how: dict[str, Any] = {"rows": rows, "grouped": grouped}
        whole = TokenBatches(np.array(lengths), **how)
        cut = TokenBatches(
            np.array(lengths), world_size=processes, accumulation=accumulation, **how
        )
        if (cut.by_rows and not whole.by_rows) or len(lengths) < cut.parts:
            return  # a batch would be shorter than the longest row
        found = shares(lengths, processes, accumulation=accumulation, **how)
        steps = [
            sorted(
                i
                for own in found
                for batch in own[k * accumulation : (k + 1) * accumulation]
                for i in batch
            )
            for k in range(whole.steps)
        ]
        assert steps == [sorted(batch) for batch in whole]

    @given(Lengths, st.integers(1, 400), st.integers(1, 3), st.integers(1, 3), st.booleans())
    @settings(max_examples=200, deadline=None)
    def test_a_budget_of_tokens(
        self, lengths: list[int], more: int, processes: int, accumulation: int, grouped: bool
    ) -> None:
        tokens = 60 * processes * accumulation + more
        found = shares(
            lengths, processes, tokens=tokens, accumulation=accumulation, grouped=grouped
        )
        sampler = TokenBatches(
            np.array(lengths),
            rows=8,
            tokens=tokens,
            world_size=processes,
            accumulation=accumulation,
        )
        sums = [sum(lengths[i] for i in batch) for batches in found for batch in batches]
        assert max(sums) <= sampler.max_tokens
        assert len(found[0]) == accumulation * -(-sum(lengths) // tokens)

    @given(Lengths, st.integers(1, 40), st.integers(1, 4), st.integers(1, 3))
    @settings(max_examples=200, deadline=None)
    def test_a_few_sizes_hold_every_batch(
        self, lengths: list[int], rows: int, processes: int, accumulation: int
    ) -> None:
        sampler = TokenBatches(
            np.array(lengths), rows=rows, world_size=processes, accumulation=accumulation
        )
        sizes = sampler.sizes()
        assert (
            len(sizes) <= 8
            and sizes == tuple(sorted(set(sizes)))
            and not any(size % 64 for size in sizes)
        )
        found = shares(lengths, processes, rows=rows, accumulation=accumulation)
        assert (
            max(sum(lengths[i] for i in batch) for batches in found for batch in batches)
            <= sizes[-1]
        )

    @pytest.mark.parametrize(
        ("name", "rows", "processes", "share"),
        [
            ("one long", 16, 1, 0.8),
            ("one long", 16, 4, 0.5),
            ("tail", 16, 1, 0.75),
            ("news", 16, 1, 0.9),
            ("news", 16, 4, 0.8),
        ],
    )
    def test_little_of_the_sizes_is_padding(
        self, name: str, rows: int, processes: int, share: float
    ) -> None:
        rng = np.random.default_rng(0)
        lengths = {
            "one long": np.append(rng.integers(5, 31, 1999), 256),
            "tail": np.minimum(rng.lognormal(5.5, 1.1, 2000).astype(int) + 8, 8192),
            "news": np.where(
                rng.random(2000) < 0.5, rng.integers(55, 150, 2000), rng.integers(108, 513, 2000)
            ),
        }[name]
        sampler = TokenBatches(lengths, rows=rows, world_size=processes)
        sizes, filled = sampler.sizes(), 0
        for batches in shares(lengths.tolist(), processes, rows=rows):
            sums = [int(lengths[batch].sum()) for batch in batches]
            filled += sum(next(size for size in sizes if size >= n) for n in sums)
        assert lengths.sum() / filled > share

    def test_batches_are_of_like_size(self) -> None:
        rng = np.random.default_rng(0)
        lengths = rng.integers(10, 257, 3000)
        for grouped in (False, True):
            (batches,) = shares(lengths, tokens=4096, grouped=grouped)
            sums = np.array([lengths[b].sum() for b in batches])
            assert sums.mean() > 0.98 * 4096 and (abs(sums - sums.mean()) <= 256).all()
        padded = np.array([lengths[b].max() * len(b) for b in batches])
        assert sums.sum() / padded.sum() > 0.95, "grouped batches are mostly padding-free"

    def test_the_seed_and_the_epoch_decide(self) -> None:
        lengths = np.random.default_rng(0).integers(5, 50, 200)
        sampler = TokenBatches(lengths, rows=8, seed=1)
        first = list(sampler)
        sampler.set_epoch(1)
        second = list(sampler)
        assert first != second and len(first) == len(second)
        again = TokenBatches(lengths, rows=8, seed=1)
        again.set_epoch(1)
        assert list(again) == second == list(again)
        assert list(TokenBatches(lengths, rows=8, seed=2)) != first

    def test_a_row_beyond_the_budget_is_said(self) -> None:
        with pytest.raises(
            UserError, match=r"train.tokens_per_step leaves 40 tokens per batch, but a row has 41"
        ):
            TokenBatches(np.array([5, 41]), rows=2, tokens=40)


def records(n: int, seed: int = 0) -> list[Record]:
    rng, kinds = random.Random(seed), list(toy.LABELS)
    return [
        Record.create(
            toy.sentence(toy.WRITTEN[kinds[i % 3]], rng, n=rng.randint(3, 20)),
            kinds[i % 3],
            "synthetic",
        )
        for i in range(n)
    ]


@pytest.fixture(scope="session")
def tokenizer(encoder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(encoder, local_files_only=True)


class TestRowsOnTheDisk:
    def test_they_are_what_the_tokeniser_says(self, tmp_path: Path, tokenizer: Any) -> None:
        rows = records(2100)  # more than are tokenised at once
        weights = np.array([1 + i % 3 / 2 for i in range(len(rows))])
        encoding = RowEncoding(list(toy.LABELS), tokenizer, 12)
        made = tokenise(rows, encoding, folder=tmp_path, weights=weights)
        plain = tokenizer([r.text for r in rows], truncation=True, max_length=12)["input_ids"]
        assert made["input_ids"][:] == plain and made["weight"][:] == weights.tolist()
        assert made["labels"][:] == [i % 3 for i in range(len(rows))]
        assert row_lengths(made).tolist() == [len(ids) for ids in plain]
        assert made.cache_files, "it is not read from a file"

    def test_they_are_made_once_for_the_same_rows(self, tmp_path: Path, tokenizer: Any) -> None:
        write_records(tmp_path / "rows.jsonl", records(30))
        stream = RecordFile(tmp_path / "rows.jsonl")
        assert len(stream) == 30 and list(stream) == records(30) == list(stream)
        encoding = RowEncoding(list(toy.LABELS), tokenizer, 12)
        tokenise(stream, encoding, folder=tmp_path)
        (first,) = tmp_path.glob("*.arrow")
        made = first.stat().st_mtime_ns
        tokenise(records(30), encoding, folder=tmp_path)
        assert first.stat().st_mtime_ns == made and len(list(tmp_path.glob("*.arrow"))) == 1
        tokenise(records(30), replace(encoding, max_length=11), folder=tmp_path)
        tokenise(records(29), encoding, folder=tmp_path)
        for heavy in (2.0, 3.0):
            weights = np.array([heavy] + [1.0] * 29)
            tokenise(stream, encoding, folder=tmp_path, weights=weights)
        assert len(list(tmp_path.glob("*.arrow"))) == 5 and not list(tmp_path.glob("*.tmp"))

    @pytest.mark.slow
    def test_memory_does_not_grow_with_rows(self) -> None:
        from bench.train import memory

        few, many = memory(None)
        assert (few["rows"], many["rows"]) == (20_000, 200_000)
        grown = [row["built_mb"] - row["before_mb"] for row in (few, many)]
        assert grown[1] < grown[0] + 25, (
            "the ids alone of 180,000 more rows are 11 MB, as Python lists 100"
        )


class TestTrainer:
    @pytest.mark.parametrize("packing", [True, False])
    def test_it_goes_on_in_mid_epoch_with_what_it_has_not_seen(
        self,
        packing: bool,
        tmp_path: Path,
        encoder: Path,
        tokenizer: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Steps 1 to 10 at once, and 1 to 7 and then 8 to 10 from a checkpoint: the same weights, bit for bit."""
        import torch
        from transformers import (
            AutoModelForSequenceClassification,
            DataCollatorWithPadding,
            set_seed,
        )
        from transformers import TrainingArguments as Arguments

        from tasks.train.kernels import batches

        if not packing:
            monkeypatch.setattr(batches, "can_pack", lambda *_, **__: False)
        encoding = RowEncoding(list(toy.LABELS), tokenizer, 32)
        rows = tokenise(records(40), encoding, folder=tmp_path / "rows")

        def train(work: str, *, resume: str | None = None) -> Any:
            set_seed(0)
            trainer = BatchedTrainer(
                model=AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3),
                args=Arguments(
                    output_dir=str(tmp_path / work), per_device_train_batch_size=8, num_train_epochs=2, save_steps=7,
                    use_cpu=True, disable_tqdm=True, report_to="none", learning_rate=1e-3,
                ),
                train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer), processing_class=tokenizer,
            )  # fmt: skip
            assert trainer.packing is packing
            trainer.train(resume_from_checkpoint=resume)
            trainer.unpack()
            assert trainer.state.global_step == 10
            return trainer.model.state_dict()

        whole = train("whole")
        resumed = train("resumed", resume=str(tmp_path / "whole" / "checkpoint-7"))
        assert whole.keys() == resumed.keys() and all(
            torch.equal(v, resumed[k]) for k, v in whole.items()
        )
