"""Kills, signals, several processes, numbers that are none and too little memory: the training ends as it would have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import atomic
from tasks.errors import UserError
from tasks.train import trainer as trainers
from tasks.train.__main__ import main
from tasks.train.resume import ATTEMPT, Attempt, list_checkpoints
from tests.conftest import ROOT
from tests.kit.training import BATCHES, TRAIN, Stopped, Tune, chosen, same, stop_after, write_data

MID: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}


def curves(trained: Any) -> list[Any]:
    # not train.loss: the Trainer averages it since it last logged, or since it resumed
    return [h for h in trained.history if h[1] != "train.loss"]


class TestMidEpoch:
    @pytest.mark.parametrize(
        ("changes", "stopped", "at"),
        [
            (MID, 5, 10),
            (MID, 6, 12),  # the epoch's last step: saved once, after the epoch's evaluation
            ({**MID, "eval_strategy": "steps", "eval_steps": 4, "save_steps": 3}, 3, 6),
            (
                {
                    **MID,
                    "lr_scheduler_type": "cosine",
                    "gradient_accumulation_steps": 2,
                    "batch_size": 4,
                },
                4,
                8,
            ),
            ({**MID, "max_steps": 15}, 8, 15),  # all is learned, and the bundle is not written
            ({**MID, "load_best_model_at_end": False}, 4, 8),
        ],
    )
    def test_it_ends_bit_for_bit_as_an_uninterrupted_run(
        self,
        changes: dict[str, Any],
        stopped: int,
        at: int,
        tune: Tune,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        whole = tune("whole", **changes)
        with monkeypatch.context() as m:
            stop_after(m, stopped)
            with pytest.raises(Stopped):
                tune("stopped", **changes)
        resumed = tune("stopped", **changes)
        assert (resumed.resumed_from, resumed.steps) == (at, whole.steps)
        assert same(resumed, whole) and resumed.temperature == whole.temperature
        assert curves(resumed) == curves(whole)

    @pytest.mark.parametrize(
        ("changes", "steps"),
        [
            ({}, 2 * BATCHES),
            ({**MID, "eval_strategy": "steps", "eval_steps": 4, "save_steps": 4}, 8),
        ],
    )
    def test_it_had_stopped_early(
        self, changes: dict[str, Any], steps: int, tune: Tune, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed after the checkpoint at which patience ended, at an epoch's end or within one: nothing more is learned."""
        given = {"epochs": 8, "learning_rate": 1e-9, "patience": 1, **changes}
        whole = tune("whole", **given)
        with monkeypatch.context() as m:
            stop_after(m, 2)
            with pytest.raises(Stopped):
                tune("stopped", **given)
        resumed = tune("stopped", **given)
        assert resumed.resumed_from == resumed.steps == whole.steps == steps
        assert same(resumed, whole) and curves(resumed) == curves(whole)

    def test_only_so_many_checkpoints_are_kept(self, tune: Tune, tmp_path: Path) -> None:
        tune("few", epochs=1, **MID)
        assert [p.name for p in list_checkpoints(tmp_path / "few")] == ["checkpoint-6"]
        tune("more", epochs=1, save_total_limit=3, **MID)
        assert [p.name for p in list_checkpoints(tmp_path / "more")] == [
            "checkpoint-6",
            "checkpoint-4",
            "checkpoint-2",
        ]


# sends the signal to itself when step 8 ends, in mid-epoch
AT_STEP_8 = """
import os, signal
import sys
from tasks.train.trainer import Reporter
report = Reporter.on_step_end
def on_step_end(self, args, state, control, **kwargs):
    report(self, args, state, control, **kwargs)
    if state.global_step == 8: os.kill(os.getpid(), signal.{signal})
Reporter.on_step_end = on_step_end
from tasks.train.__main__ import main
sys.exit(main())
"""


def command(folder: Path, encoder: Path, out: str, **options: Any) -> list[str]:
    quick = {
        "epochs": 3,
        "learning_rate": 3e-3,
        "max_length": 32,
        "batch_size": 8,
        "precision": "fp32",
        **options,
    }
    given = [f"--{name.replace('_', '-')}={value}" for name, value in quick.items()]
    return [
        "--data",
        str(folder / "data"),
        "--out",
        str(folder / out),
        "--model",
        str(encoder),
        *given,
    ]


def ran(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        arguments, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment
    ) as process:
        try:
            out, err = process.communicate(timeout=800)
        except BaseException:
            process.terminate()  # torchrun then ends its workers, which a kill would leave behind
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.mark.slow
@pytest.mark.timeout(1700)
@pytest.mark.parametrize(("how", "at"), [("SIGTERM", 8), ("SIGKILL", 7)])
def test_a_process_that_is_killed_goes_on(how: str, at: int, tmp_path: Path, encoder: Path) -> None:
    write_data(tmp_path / "data")
    given = command(tmp_path, encoder, "out", save_strategy="steps", save_steps=7)
    first = ran([sys.executable, "-c", AT_STEP_8.format(signal=how), *given])
    assert first.returncode == -getattr(signal, how), first.stderr[-3000:]
    (work,) = tmp_path.glob(".out.*.work")
    assert list_checkpoints(work)[0].name == f"checkpoint-{at}"
    assert main(given) == 0
    assert main(command(tmp_path, encoder, "whole", save_strategy="steps", save_steps=7)) == 0
    one, other = (
        atomic.read_json(tmp_path / out / "manifest.json")["figures"] for out in ("out", "whole")
    )
    assert one["resumed_from"] == at and one["bundle"] == other["bundle"], (
        "every byte of the bundle is the same"
    )


@pytest.mark.slow
@pytest.mark.timeout(1700)
def test_two_processes_learn_what_one_does(tmp_path: Path, encoder: Path) -> None:
    """Without dropout, of which each process draws its own. The last step of an epoch has as many rows as the others."""
    write_data(tmp_path / "data")
    still = {
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "class_weights": '{"metal": 2.0}',
        "logging_steps": 1,
    }
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    two = ran([*torchrun, "-m", "tasks.train", *command(tmp_path, encoder, "two", **still)])
    assert two.returncode == 0, two.stderr[-3000:]
    assert main(command(tmp_path, encoder, "one", **still)) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"data", "one", "two"}
    a, b = (atomic.read_json(tmp_path / out / "history.json") for out in ("one", "two"))
    assert [h[:2] for h in a] == [h[:2] for h in b] and len(a) == 3 * (3 * BATCHES) + 2 * 3
    for (step, name, x), (_, _, y) in zip(a, b, strict=True):
        # of dev's last batch Trainer takes the mean of one process for all
        assert x == pytest.approx(y, rel=2e-2 if name == "dev.loss" else 1e-3, abs=1e-4), (
            step,
            name,
        )
    figures = [atomic.verify(tmp_path / out)["figures"] for out in ("one", "two")]
    assert figures[0]["dev_f1_macro"] == figures[1]["dev_f1_macro"] > 0.9


def spoiled(monkeypatch: pytest.MonkeyPatch, *, when: Any) -> None:
    """Losses are not finite where `when(trainer)` is true."""

    class Spoiled(trainers.FineTuneTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            return loss * float("nan") if self.model.training and when(self) else loss

    monkeypatch.setattr("tasks.train.fine_tune.FineTuneTrainer", Spoiled)


def test_a_gpu_is_waited_for_every_tenth_step_and_before_all_that_is_told() -> None:
    from transformers import TrainerControl

    assert [step for step in range(1, 31) if trainers.reads_device(step, TrainerControl())] == [
        10,
        20,
        30,
    ]
    for told in ("should_log", "should_evaluate", "should_save", "should_training_stop"):
        assert trainers.reads_device(3, TrainerControl(**{told: True})), told


class TestNotFinite:
    def test_it_goes_back_and_on_in_fp32(
        self, tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("tasks.train.arguments.has_bf16", lambda: True)
        spoiled(monkeypatch, when=lambda t: t.args.bf16 and t.state.global_step == 8)
        trained = tune(precision="bf16", save_strategy="steps", save_steps=4)
        assert (
            trained.precision == "fp32"
            and trained.resumed_from == 8
            and trained.steps == 3 * BATCHES
        )
        assert trained.attempt.notes == (
            "the loss was not a number at step 9 in bf16: resumed from the last checkpoint in fp32",
        )
        assert atomic.read_json(tmp_path / "work" / ATTEMPT)["precision"] == "fp32", (
            "a restart must not fail anew"
        )
        assert all(v == v for _, _, v in trained.history)

    def test_in_fp32_it_fails_in_a_sentence(
        self, tune: Tune, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spoiled(monkeypatch, when=lambda t: t.state.global_step == 3)
        with pytest.raises(
            UserError,
            match=r"the loss was not a number at step 4 in fp32; lower train.learning_rate",
        ):
            tune()

    def test_weights_that_are_no_numbers_are_not_saved(self, tune: Tune, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"not a number at step .* in fp32"):
            tune(
                learning_rate=1e38, max_grad_norm=0.0, warmup=0, save_strategy="steps", save_steps=1
            )
        import torch
        from safetensors.torch import load_file

        for checkpoint in list_checkpoints(tmp_path / "work"):
            assert all(
                bool(torch.isfinite(v).all())
                for v in load_file(checkpoint / "model.safetensors").values()
            )


class TestMemory:
    def test_fewer_rows_at_a_time_and_as_many_a_step(
        self, tune: Tune, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import torch
        from transformers.models.bert.modeling_bert import BertEmbeddings

        still = {"dropout": 0.0, "attention_dropout": 0.0, "logging_steps": 1}
        plain = tune("plain", **still)
        real, tried = BertEmbeddings.forward, []

        def forward(self: Any, input_ids: Any, *given: Any, **named: Any) -> Any:
            if torch.is_grad_enabled():
                tried.append(input_ids.numel())  # rows of 17 tokens, packed into one
                if input_ids.numel() > 2 * 17:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return real(self, input_ids, *given, **named)

        monkeypatch.setattr(BertEmbeddings, "forward", forward)
        trained = tune("small", **still)
        assert (trained.attempt.batch_size, trained.attempt.accumulation) == (2, 4) and max(
            tried[2:]
        ) == 2 * 17
        assert trained.attempt.notes == (
            "out of memory with 8 rows at a time: continued with 4, and 2 forward passes per step instead of 1",
            "out of memory with 4 rows at a time: continued with 2, and 4 forward passes per step instead of 2",
        )
        seen = [[v for _, n, v in t.history if n == "train.loss"] for t in (plain, trained)]
        assert len(seen[0]) == trained.steps == 3 * BATCHES and seen[0] == pytest.approx(
            seen[1], rel=2e-3
        )

    @pytest.mark.parametrize(("rows", "accumulation"), [(16, 1), (6, 1), (7, 3), (12, 5), (2, 1)])
    def test_the_rows_of_a_step_stay_the_same(self, rows: int, accumulation: int) -> None:
        attempt = Attempt("fp32", rows, 2 * rows, accumulation)
        while attempt.batch_size > 1:
            before, attempt = attempt, attempt.halved(world_size=1)
            assert attempt.batch_size <= before.batch_size / 2
            assert attempt.batch_size * attempt.accumulation == rows * accumulation
            assert 1 <= attempt.eval_batch_size < before.eval_batch_size
        with pytest.raises(UserError, match=r"one row at a time: lower train.max_length"):
            attempt.halved(world_size=1)

    def test_other_failures_are_not_taken_for_it(
        self, tune: Tune, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> Any:
            raise RuntimeError("a bug")

        monkeypatch.setattr("tasks.train.fine_tune.FineTuneTrainer", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            tune()


def test_patience_zero_never_stops(tune: Tune) -> None:
    assert tune(epochs=4, learning_rate=1e-9, patience=0).steps == 4 * BATCHES
    assert len(TRAIN) == 8 * BATCHES and chosen().batch_size == 8
