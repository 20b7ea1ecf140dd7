"""Settings that reach transformers, schedules that have their curve, and mistakes in one sentence."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import SchedulerType

from tasks.errors import UserError
from tasks.train.arguments import training_arguments
from tasks.train.resume import Attempt
from tests.conftest import ROOT
from tests.kit.training import BATCHES, Tune, chosen, same

STEPS, TOP = 3 * BATCHES, 3e-3


def arguments(work: Path = Path("work"), **changes: Any) -> Any:
    settings = chosen(**changes)
    return training_arguments(
        settings, work=work, attempt=Attempt.load(settings, precision="fp32", work=work)
    )


def after_warmup(step: int, warmup: int) -> float:
    return (step - warmup) / (STEPS - warmup)


CURVES: dict[str, tuple[dict[str, Any], Any]] = {
    "linear": ({}, lambda s, w: 1 - after_warmup(s, w)),
    "cosine": ({}, lambda s, w: (1 + math.cos(math.pi * after_warmup(s, w))) / 2),
    "cosine_with_restarts": (
        {"num_cycles": 3},
        lambda s, w: (1 + math.cos(math.pi * (3 * after_warmup(s, w) % 1))) / 2,
    ),
    "polynomial": ({"power": 2.0, "lr_end": 0.0}, lambda s, w: (1 - after_warmup(s, w)) ** 2),
    "constant_with_warmup": ({}, lambda s, w: 1.0),
    "inverse_sqrt": ({}, lambda s, w: math.sqrt(w / s)),
    "cosine_with_min_lr": (
        {"min_lr_rate": 0.1},
        lambda s, w: 0.1 + 0.9 * (1 + math.cos(math.pi * after_warmup(s, w))) / 2,
    ),
}

# what these curves can't do without
NEEDED: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr": 1e-6},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 5},
}


class TestSchedules:
    @pytest.mark.parametrize("name", list(CURVES))
    def test_the_learning_rate_follows_its_curve(self, name: str, tune: Tune) -> None:
        options, curve = CURVES[name]
        trained = tune(
            lr_scheduler_type=name, lr_scheduler_kwargs=options, warmup=6, logging_steps=1
        )
        seen = {step: v for step, n, v in trained.history if n == "train.learning_rate"}
        assert len(seen) == STEPS
        for step, rate in seen.items():  # the rate of step n is that before the curve moves on
            at = step - 1
            expected = at / 6 if at < 6 else curve(at, 6)
            assert rate == pytest.approx(TOP * expected, abs=1e-6), step

    def test_warmup_is_a_share_below_one_and_steps_from_one_on(self) -> None:
        assert arguments(warmup=0.25).get_warmup_steps(40) == 10
        assert arguments(warmup=7).get_warmup_steps(40) == 7

    def test_steps_decide_where_they_are_given(self, tune: Tune) -> None:
        assert tune(max_steps=8, epochs=1).steps == 8

    def test_a_plateau_lowers_it(self, tune: Tune) -> None:
        given = {
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "eps": 0.0},
        }
        trained = tune(
            epochs=4, learning_rate=1e-9, warmup=0, logging_steps=BATCHES, patience=0, **given
        )
        rates = [v for _, n, v in trained.history if n == "train.learning_rate"]
        assert rates[0] == 1e-9 and rates[-1] < 1e-9

    def test_a_plateau_is_where_f1_no_longer_rises(self, tune: Tune) -> None:
        given = {
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5},
        }
        trained = tune(epochs=3, learning_rate=5e-4, logging_steps=BATCHES, **given)
        f1 = [v for _, n, v in trained.history if n == "dev.f1_macro"]
        rates = [v for _, n, v in trained.history if n == "train.learning_rate"]
        assert f1[0] < f1[1], "a training that gets better"
        assert rates == [5e-4] * 3

    @pytest.mark.parametrize("name", [str(s.value) for s in SchedulerType])
    def test_what_a_curve_needs_is_said_before_anything_is_loaded(self, name: str) -> None:
        if name in NEEDED:
            with pytest.raises(
                UserError,
                match=rf"train.lr_scheduler_kwargs is {{}}, which {name} does not accept",
            ):
                arguments(lr_scheduler_type=name)
        made = arguments(lr_scheduler_type=name, lr_scheduler_kwargs=NEEDED.get(name, {}))
        assert made.lr_scheduler_type == name
        assert f"`{name}`" in (ROOT / "docs" / "training.md").read_text()

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("cosine", {"num_cycles": "two"}),
            ("cosine_with_min_lr", {"min_lr": 0.0, "min_lr_rate": 0.1}),
            ("polynomial", {"lr_end": 1.0}),
            ("inverse_sqrt", {"timescale": 0}),
            ("reduce_lr_on_plateau", {"patiense": 1}),
            ("greedy", {"factor": 1.5}),
            ("warmup_stable_decay", {"num_decay_steps": 5, "decay_type": "steep"}),
        ],
    )
    def test_options_that_a_curve_cannot_take(self, name: str, options: dict[str, Any]) -> None:
        with pytest.raises(
            UserError,
            match=rf"train.lr_scheduler_kwargs is {{.*}}, which {name} does not accept: \w",
        ):
            arguments(lr_scheduler_type=name, lr_scheduler_kwargs=options)


class TestReaching:
    def test_fields_arrive_under_the_names_of_transformers(self) -> None:
        got = arguments(
            epochs=7,
            batch_size=6,
            gradient_accumulation_steps=3,
            weight_decay=0.2,
            optim="adamw_torch",
            max_grad_norm=0.5,
            logging_steps=9,
            eval_strategy="steps",
            eval_steps=4,
            save_strategy="steps",
            save_steps=2,
            gradient_checkpointing=True,
            seeds=(5,),
            data_seed=9,
            arguments={"adam_beta2": 0.98, "dataloader_num_workers": 2},
        )
        assert (
            got.num_train_epochs,
            got.per_device_train_batch_size,
            got.per_device_eval_batch_size,
        ) == (7, 6, 12)
        assert (got.gradient_accumulation_steps, got.weight_decay, got.max_grad_norm) == (
            3,
            0.2,
            0.5,
        )
        assert (got.optim.value, got.logging_steps, got.eval_steps) == ("adamw_torch", 9, 4)
        assert got.save_steps == 4, "what is evaluated is saved"
        assert got.activation_checkpointing and (got.seed, got.data_seed) == (5, 9)
        assert (got.adam_beta2, got.dataloader_num_workers) == (0.98, 2)
        assert got.report_to == [] and not got.push_to_hub

    def test_the_optimiser_is_the_fused_one(self) -> None:
        assert arguments().optim.value == "adamw_torch_fused"

    def test_without_looks_at_dev_the_last_weights_count(self, tune: Tune) -> None:
        trained = tune(
            eval_strategy="no", load_best_model_at_end=False, patience=0, save_strategy="no"
        )
        assert trained.steps == STEPS and not [
            n for _, n, _ in trained.history if n.startswith("dev.")
        ]

    def test_gradient_checkpointing_learns_the_same(self, tune: Tune) -> None:
        assert same(
            tune("plain", epochs=1), tune("checkpointed", epochs=1, gradient_checkpointing=True)
        )

    def test_dropout_is_that_of_the_setting(self, tune: Tune) -> None:
        trained = tune(epochs=1, dropout=0.3, attention_dropout=0.0, classifier_dropout=0.5)
        config = trained.model.config
        assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.3, 0.0)
        assert config.classifier_dropout == 0.5 and trained.model.dropout.p == 0.5

    def test_the_order_of_rows_has_a_seed_of_its_own(self, tune: Tune) -> None:
        first = tune("a", epochs=1)
        assert same(first, tune("b", epochs=1, data_seed=0)) and not same(
            first, tune("c", epochs=1, data_seed=1)
        )


FREE = {
    "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon", "tf32", "torch_compile_backend",
    "torch_compile_mode", "torch_empty_cache_steps", "logging_strategy", "logging_first_step", "log_on_each_node", "log_level",
    "log_level_replica", "eval_delay", "eval_accumulation_steps", "save_on_each_node", "full_determinism", "debug",
    "dataloader_num_workers", "dataloader_persistent_workers", "ddp_find_unused_parameters", "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout",
}  # fmt: skip


class TestMistakes:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (
                {"lr_scheduler_type": "cosin"},
                r"train.lr_scheduler_type is 'cosin' \(did you mean 'cosine'\?\)",
            ),
            ({"optim": "adamv"}, r"train.optim is 'adamv'.*does not know: it knows adamw_torch"),
            (
                {"lr_scheduler_kwargs": {"num_cycles": 2}},
                r"names 'num_cycles', which linear does not take: it takes noth",
            ),
            (
                {"arguments": {"learning_rte": 1.0}},
                r"names 'learning_rte'.*which transformers .* does not know",
            ),
            (
                {"arguments": {"num_train_epochs": 2}},
                r"names 'num_train_epochs', which is train.epochs: set that",
            ),
            ({"arguments": {"learning_rate": 2.0}}, r"which is train.learning_rate: set that"),
            (
                {"arguments": {"push_to_hub": True}},
                r"names 'push_to_hub', which is not supported: remove it",
            ),
            ({"arguments": {"hub_token": "x"}}, r"is not supported"),
            ({"arguments": {"output_dir": "x"}}, r"is not supported"),
            (
                {"arguments": {"neftune_noise_alpha": 5.0}},
                r"is not supported \(its noise would depend on how many texts.*remove it",
            ),
            (
                {"arguments": {"dataloader_drop_last": True}},
                r"is not supported \(every row is trained on",
            ),
            (
                {"arguments": {"dataloader_prefetch_factor": 2}},
                r"is not supported \(the batches of training ignore it",
            ),
            (
                {"arguments": {"average_tokens_across_devices": False}},
                r"is not supported \(a step's loss is divided by",
            ),
            (
                {"arguments": {"bf16_full_eval": True}},
                r"is not supported \(the final model would be reduced",
            ),
            (
                {"arguments": {"fp16_full_eval": True}},
                r"is not supported \(the final model would be reduced",
            ),
            (
                {"arguments": {"torch_empty_cache_steps": 0}},
                r"the train settings do not fit transformers .*torch_empty",
            ),
        ],
    )
    def test_what_transformers_would_not_take(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError, match=said):
            arguments(**changes)

    def test_what_can_be_chosen_is_what_was_tried(self) -> None:
        """A field that another transformers has anew is judged before it is taken."""
        from transformers import TrainingArguments

        taken = set()
        for field in dataclasses.fields(TrainingArguments):
            try:
                arguments(arguments={field.name: None})
            except UserError as e:
                if "is not supported" in str(e) or "set that" in str(e):
                    continue
            taken.add(field.name)
        assert taken == FREE

    def test_a_field_that_another_transformers_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = dataclasses.fields
        monkeypatch.setattr(
            dataclasses, "fields", lambda c: [f for f in real(c) if f.name != "warmup_steps"]
        )
        with pytest.raises(
            UserError, match=r"train.warmup needs warmup_steps, which transformers .* does not know"
        ):
            arguments()

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"eval_strategy": "steps"}, "eval_steps is not given: set it"),
            ({"save_steps": 5}, "save_strategy is epoch: set that to steps"),
            ({"eval_strategy": "no"}, "set load_best_model_at_end to false"),
            ({"save_strategy": "no"}, "set load_best_model_at_end to false"),
            ({"warmup": 1.5}, "a whole number of steps"),
            ({"max_steps": 0}, "or -1"),
            ({"class_weights": {"metal": 0.0}}, "greater than 0"),
            ({"source_weights": {"dev": 1.0}}, "'seed', 'synthetic', 'harvested' or 'reviewed'"),
            ({"layer_decay": 0.0}, "greater than 0"),
        ],
    )
    def test_what_contradicts_itself(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            chosen(**changes)

    def test_fp16_without_cuda(self, tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match=r"train.precision is fp16, which needs a CUDA device"):
            tune(precision="fp16")

    def test_a_batch_that_processes_cannot_share(
        self, tune: Tune, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "3")
        with pytest.raises(UserError, match=r"train.batch_size is 8, but 3 processes share it"):
            tune()
