"""A greedy soup on tiny real models: the arithmetic, and when it wins."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import atomic
from tasks.model.bundle import Classifier, save_bundle
from tasks.project import Project
from tasks.records import Record
from tasks.references import digest_of_path
from tasks.stage import run_stage
from tasks.statistics.calibration import Calibration
from tasks.train.soup import SoupResult, build_soup, greedy_soup
from tasks.train.stage import TrainResult
from tasks.workspace import Workspace
from tests.kit import toy
from tests.kit.stages import filled, splits_of

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


class TestGreedy:
    @given(SCORES, st.randoms(use_true_random=False))
    def test_it_is_never_worse_than_the_best_and_holds_it(
        self, singles: list[float], rng: random.Random
    ) -> None:
        members, score = greedy_soup(singles, lambda m: rng.random())
        assert score >= max(singles) and members[0] == singles.index(max(singles))
        assert len(set(members)) == len(members)

    @given(SCORES)
    def test_where_nothing_helps_the_best_stays_alone(self, singles: list[float]) -> None:
        assert greedy_soup(singles, lambda m: -1.0) == ([singles.index(max(singles))], max(singles))

    def test_each_next_best_is_tried_once_with_what_was_kept(self) -> None:
        asked: list[list[int]] = []

        def score_of(members: list[int]) -> float:
            asked.append(members)
            return {(1, 3): 0.7, (1, 3, 0): 0.6, (1, 3, 2): 0.7}[tuple(members)]

        assert greedy_soup([0.3, 0.65, 0.1, 0.4], score_of) == ([1, 3, 2], 0.7)
        assert asked == [[1, 3], [1, 3, 0], [1, 3, 2]]


class Kitchen:
    """Models made by hand from one encoder: a direction of the head that is right, and noise that is not."""

    def __init__(self, home: Path, encoder: Path) -> None:
        self.workspace, self.encoder = Workspace(home), encoder
        rng = random.Random(1)
        dev = [
            Record.create(toy.sentence(toy.REAL[k], rng), k, "dev")
            for k in toy.LABELS
            for _ in range(20)
        ]
        self.splits = splits_of(home, dev=dev)
        self.project = Project.model_validate(
            {"name": "toy", "labels": toy.LABELS, "data": {"pool": "rows.csv"}}
        )
        self.dev = dev

    def model(self, seed: int, *, noise: float, t: float = 1.0) -> TrainResult:
        """A model whose head is the labels' mean pooled output plus noise of this seed, calibrated by `t`."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        names = dict(enumerate(toy.LABELS))
        torch.manual_seed(0)
        net = AutoModelForSequenceClassification.from_pretrained(
            self.encoder, num_labels=3, id2label=names
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(self.encoder)
        with torch.no_grad():
            batch = tokenizer([r.text for r in self.dev], return_tensors="pt", padding=True)
            pooled = net.bert(**batch).pooler_output
            y = torch.tensor([list(toy.LABELS).index(str(r.label)) for r in self.dev])
            means = torch.stack([pooled[y == k].mean(0) for k in range(3)]) - pooled.mean(0)
            net.classifier.weight.copy_(means * 10)
            net.classifier.bias.copy_(-10 * (means @ pooled.mean(0)))
            net.classifier.weight.add_(
                torch.randn(3, 32, generator=torch.Generator().manual_seed(seed)) * noise
            )
        Calibration(t).fold(net)
        about = {"labels": toy.LABELS, "max_length": 32, "temperature": t, "dev": {"f1_macro": 0.0}}

        def build(out: Path, scratch: Path) -> TrainResult:
            return filled(
                TrainResult, bundle=save_bundle(net, tokenizer, out / "bundle", about=about)
            )

        return run_stage(
            TrainResult,
            "train",
            workspace=self.workspace,
            version=1,
            params={"s": seed, "n": noise, "t": t},
            inputs={},
            build=build,
        )

    def cook(self, *models: TrainResult) -> SoupResult:
        return build_soup(self.project, list(models), splits=self.splits, workspace=self.workspace)


@pytest.fixture
def kitchen(tmp_path: Path, encoder: Path) -> Kitchen:
    return Kitchen(tmp_path, encoder)


def head(model: TrainResult | SoupResult) -> Any:
    from safetensors.numpy import load_file

    return load_file(model.bundle_directory / "model.safetensors")["classifier.weight"]


def test_models_that_err_apart_make_a_better_soup(kitchen: Kitchen) -> None:
    models = [kitchen.model(seed, noise=0.8) for seed in range(4)]
    cooked = kitchen.cook(*models)
    assert cooked.won and len(cooked.members) > 1 and cooked.dev_f1_macro > max(cooked.singles)
    answers = Classifier.load(cooked.bundle_directory, digest=cooked.bundle).predict(
        [r.text for r in kitchen.dev]
    )
    right = sum(a.label == r.label for a, r in zip(answers, kitchen.dev, strict=True)) / len(
        kitchen.dev
    )
    assert (
        right == pytest.approx(cooked.dev_f1_macro, abs=0.05) and right > max(cooked.singles) - 0.02
    )
    about = atomic.read_json(cooked.bundle_directory / "reseed.json")
    assert (
        len(about["soup"]["bundles"]) == len(cooked.members)
        and about["dev"]["f1_macro"] == cooked.dev_f1_macro
    )
    assert kitchen.cook(*models).published.found


def test_the_mean_is_of_the_weights_before_calibration(kitchen: Kitchen) -> None:
    """One recipe, calibrated by 4 and not at all: the soup is as if neither were."""
    plain = [kitchen.model(seed, noise=0.8) for seed in range(4)]
    sharp = [kitchen.model(0, noise=0.8, t=4.0), *plain[1:]]
    a, b = kitchen.cook(*plain), kitchen.cook(*sharp)
    assert a.members == b.members and a.singles == b.singles
    assert head(a) == pytest.approx(head(b), rel=1e-4, abs=1e-5)
    mean = sum(head(plain[i]) for i in a.members) / len(a.members)
    assert a.calibration is not None
    assert head(a) * a.calibration["temperature"] == pytest.approx(mean, rel=1e-4, abs=1e-5)


def test_equal_models_make_no_soup(kitchen: Kitchen) -> None:
    right = kitchen.model(0, noise=0.0)
    cooked = kitchen.cook(right, right)
    assert not cooked.won and cooked.bundle is None and cooked.calibration is None
    assert not cooked.bundle_directory.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_retrain_over_three_seeds_of_an_adapted_encoder(
    tmp_path: Path, llm: Any, encoder: Path, home: Path, reseed: Callable[..., Any]
) -> None:
    """Each seed is a run of its own, mean and spread are told, and what is registered is what was chosen on dev."""
    from mlflow import MlflowClient

    from flows.settings import Settings
    from tests.conftest import last_json

    train = {"seeds": [0, 1, 2], "epochs": 1, "learning_rate": 2e-3}
    config = toy.project(
        tmp_path / "project",
        endpoint=llm.url,
        encoder=encoder,
        train=train,
        self_training={"rounds": 0},
        adapt={"epochs": 1, "head_steps": 20},
        evaluate={"lift": "off"},
    )
    code, out, err = reseed("retrain", config, "--json")
    assert code == 0, err
    found = last_json(out)
    told = found["seeds"]
    assert told["seeds"] == [0, 1, 2] and min(told["dev_f1_macro"]) <= told["mean"] <= max(
        told["dev_f1_macro"]
    )
    assert told["spread"] >= 0 and told["chosen"] in told_of(told)
    uri = Settings.from_environment().tracking_uri
    client = MlflowClient(uri, uri)
    run = client.get_run(found["mlflow_run_id"])
    assert run.data.metrics["dev.f1_macro.mean"] == pytest.approx(told["mean"])
    assert run.data.metrics["dev.f1_macro.spread"] == pytest.approx(told["spread"])
    children = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    )
    names = {c.info.run_name: c for c in children}
    assert {"adapt", "train", "train seed 1", "train seed 2", "soup"} <= set(names)
    assert {f"evaluate seed {n}" for n in range(3)} <= set(names)
    assert any("mean gain over 3 seeds" in reason for reason in found["reasons"])
    perplexity = found["adapted"]["perplexity"]
    assert names["adapt"].data.metrics["adapt.perplexity.after"] == pytest.approx(
        perplexity["after"]
    )
    assert "held-out unlabelled texts" in err and "no head for masked words" in err
    made = {
        p.parent.name: atomic.read_json(p)
        for p in (home / "stages" / "train").glob("*/manifest.json")
    }
    adapted = digest_of_path(next((home / "stages" / "adapt").glob("*/encoder")))
    assert len(made) == 3 and {m["inputs"]["encoder"] for m in made.values()} == {adapted}
    best = told["dev_f1_macro"].index(max(told["dev_f1_macro"]))
    chosen = "soup" if told["soup"]["won"] else ["train", "train seed 1", "train seed 2"][best]
    version = client.get_model_version("toy", found["model"]["version"])
    assert version.run_id == names[chosen].info.run_id
    assert "over 3 seeds" in reseed("retrain", config)[1]


def told_of(told: dict[str, Any]) -> set[str]:
    best = told["dev_f1_macro"].index(max(told["dev_f1_macro"]))
    return (
        {f"soup of {len(told['soup']['members'])}"}
        if told["soup"]["won"]
        else {f"seed {told['seeds'][best]}"}
    )
