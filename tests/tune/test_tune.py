"""A search on a tiny real encoder: it finds, prunes, survives failures and kills, and workers share it."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import atomic
from tasks.errors import UserError
from tasks.project import Project, Train
from tasks.project.reader import load_project
from tasks.tune.search import run_search
from tasks.tune.space import (
    as_overrides,
    as_yaml,
    queue_project_settings,
    settings_of,
    suggest_settings,
)
from tasks.tune.study import (
    best_trial,
    count_done,
    open_study,
    project_settings_trial,
    report_score,
    study_name,
)
from tasks.tune.trial import (
    Pruned,
    TrialData,
    TrialResult,
    run_trial,
    split_folds,
    study_question,
    with_settings,
)
from tasks.workspace import Workspace
from tests.conftest import ROOT, last_json
from tests.kit import toy
from tests.kit.stages import curated_of, splits_of
from tests.train.test_adaptation import DEV, rows

pytestmark = pytest.mark.slow  # they train or export models

TRAINING = rows(12, "synthetic", 5)
FIXED = {
    "epochs": None,
    "batch_size": None,
    "weight_decay": None,
    "warmup": None,
    "label_smoothing": None,
}
LEARNING_RATE = {**FIXED, "learning_rate": [1e-7, 1e-2]}


def project(
    encoder: Path | str = "tiny", train: dict[str, Any] | None = None, **tune: Any
) -> Project:
    quick = {
        "epochs": 2,
        "learning_rate": 3e-3,
        "max_length": 32,
        "batch_size": 8,
        "patience": 3,
        "precision": "fp32",
    }
    given: dict[str, Any] = {"name": "toy", "labels": toy.LABELS, "data": {"pool": "rows.csv"}}
    return Project.model_validate(
        {**given, "train": {"model": str(encoder), **quick, **(train or {})}, "tune": tune}
    )


class Bench:
    """Rows and splits in a workspace, and trials on them."""

    def __init__(self, home: Path, encoder: Path) -> None:
        self.workspace, self.encoder = Workspace(home), encoder
        self.rows = curated_of(home, TRAINING)
        self.splits = splits_of(home, dev=DEV)

    def trial(
        self, p: Project, settings: dict[str, Any], keep_going: Any = lambda epoch, f1, share: True
    ) -> TrialResult:
        return run_trial(
            p,
            settings,
            TrialData(self.rows, self.splits),
            keep_going=keep_going,
            workspace=self.workspace,
        )

    def scratch(self) -> list[Path]:
        """What trials left to work on."""
        return list((self.workspace.home / "scratch").glob("*/*"))


@pytest.fixture
def bench(tmp_path: Path, encoder: Path) -> Bench:
    return Bench(tmp_path, encoder)


class TestTrial:
    def test_it_tells_each_epoch_and_keeps_no_model(self, bench: Bench) -> None:
        told: list[tuple[int, float, float]] = []

        def keep_going(epoch: int, f1: float, share: float) -> bool:
            told.append((epoch, f1, share))
            return True

        result = bench.trial(project(bench.encoder), {"learning_rate": 2e-3}, keep_going)
        assert [(epoch, share) for epoch, _, share in told] == [(1, 0.5), (2, 1.0)]
        assert result.dev_f1_macro == max(f1 for _, f1, _ in told)
        assert {p.name for p in result.directory.iterdir()} == {"history.json", atomic.MANIFEST}
        assert not bench.scratch()

    def test_one_that_is_not_worth_it_ends_and_leaves_nothing(self, bench: Bench) -> None:
        with pytest.raises(Pruned):
            bench.trial(
                project(bench.encoder), {"learning_rate": 2e-3}, lambda epoch, f1, share: False
            )
        assert not bench.scratch() and not list(bench.workspace.stages.glob("trial/*"))
        last = bench.trial(
            project(bench.encoder), {"learning_rate": 2e-3}, lambda epoch, f1, share: share < 1
        )
        assert last.steps == 10, "at its last epoch there is nothing to save by ending it"

    def test_a_failed_one_leaves_nothing(self, bench: Bench) -> None:
        with pytest.raises(UserError, match=r"train.max_length"):
            bench.trial(project(bench.encoder), {"max_length": 4000})
        assert not bench.scratch()

    def test_a_killed_one_goes_on_when_it_is_tried_again(self, bench: Bench) -> None:
        class Killed(BaseException):
            pass

        shares: list[float] = []

        def kill(epoch: int, f1: float, share: float) -> bool:
            shares.append(share)
            if epoch == 2 and len(shares) == 2:
                raise Killed
            return True

        p = project(bench.encoder, train={"epochs": 3})
        with pytest.raises(Killed):
            bench.trial(p, {"learning_rate": 2e-3}, kill)
        again = bench.trial(p, {"learning_rate": 2e-3}, kill)
        assert shares == [1 / 3, 2 / 3, 2 / 3, 1]
        assert again.resumed_from == 5 and again.steps == 15

    def test_looks_between_epochs_are_told_apart_and_steps_decide_where_they_are_given(
        self, bench: Bench
    ) -> None:
        told: list[float] = []
        p = project(
            bench.encoder,
            train={"max_steps": 8, "eval_strategy": "steps", "eval_steps": 2, "patience": 9},
        )
        bench.trial(p, {}, lambda epoch, f1, share: told.append(share) is None)
        assert told == [0.25, 0.5, 0.75, 1.0]

    def test_folds_are_judged_beside_dev(self, tmp_path: Path, encoder: Path) -> None:
        bench = Bench(tmp_path, encoder)
        bench.rows = curated_of(tmp_path, [*TRAINING, *rows(4, "seed", 9)])
        told: list[tuple[int, float]] = []
        result = bench.trial(
            project(encoder, folds=2),
            {},
            lambda epoch, f1, share: told.append((epoch, share)) is None,
        )
        assert told == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]
        assert len(result.folds) == 2 and result.dev_f1_macro == pytest.approx(
            sum(result.folds) / 2
        )


class TestFolds:
    def test_every_real_row_is_held_out_once_and_made_up_ones_never(self) -> None:
        real, written = rows(7, "seed", 9), TRAINING
        parts = split_folds([*written, *real], 3)
        assert Counter(r.id for _, held in parts for r in held) == Counter(r.id for r in real)
        for own, held in parts:
            assert {r.id for r in own} | {r.id for r in held} == {r.id for r in [*written, *real]}
            assert not {r.id for r in own} & {r.id for r in held} and {r.id for r in written} <= {
                r.id for r in own
            }
            assert all(2 <= n <= 3 for n in Counter(r.label for r in held).values())

    def test_without_folds_nothing_is_held_out(self) -> None:
        assert split_folds(TRAINING, 0) == [(TRAINING, [])]

    def test_too_few_real_rows(self) -> None:
        with pytest.raises(
            UserError, match=r"tune.folds is 3, but a label has only 2 real training rows.*to 2"
        ):
            split_folds([*TRAINING, *rows(2, "seed", 9)], 3)
        with pytest.raises(UserError, match=r"only 0 real training rows.*to 0"):
            split_folds(TRAINING, 3)


class TestSpace:
    @pytest.mark.parametrize(
        ("space", "why"),
        [
            ({"learning_rate": [1e-3, 1e-5]}, r"write the lower one first: \[1e-05, 0.001\]"),
            (
                {"learning_rate": [0.0, 1e-5]},
                r"tune.space.learning_rate holds 0.0: input should be greater than 0",
            ),
            ({"epochs": [0, 3]}, r"tune.space.epochs holds 0"),
            ({"batch_size": []}, "give the values to choose from, or null"),
            (
                {"others": {"learning_rat": [1.0]}},
                r"names 'learning_rat' .did you mean 'learning_rate'.., which is no key of train",
            ),
            ({"others": {"precision": ["fp8"]}}, r"tune.space.precision holds 'fp8'"),
            ({"others": {"seeds": [1]}}, "'seeds' cannot be searched"),
            ({"others": {"epochs": [1]}}, "'epochs' is a key of tune.space"),
        ],
    )
    def test_a_bad_space_is_said_in_a_sentence(self, space: dict[str, Any], why: str) -> None:
        with pytest.raises(ValueError, match=why):
            project(space=space)

    def test_a_password_stays_out_of_the_project_file(self) -> None:
        with pytest.raises(ValueError, match=r"RESEED_TUNE_STORAGE"):
            project(storage="postgresql://me:secret@host/reseed")

    def test_settings_that_do_not_go_together(self) -> None:
        with pytest.raises(UserError, match="contradict each other"):
            with_settings(Train(), {"epochs": 0})


def study_of(p: Project, home: Path, about: str = "", url: str | None = None) -> Any:
    return open_study(p, {"about": about}, workspace=Workspace(home), url=url)


def found_all(
    study: Any, p: Project, objective: Any, failed: Any = lambda trial, error: None
) -> None:
    run_search(study, p, objective, in_time=lambda: True, on_failure=failed)


class TestSearch:
    """The search alone, on an objective that is arithmetic."""

    @staticmethod
    def peak(p: Project) -> Callable[[Any], float]:
        def objective(trial: Any) -> float:
            import math

            return 1 - (math.log10(suggest_settings(trial, p)["learning_rate"]) + 4) ** 2 / 10

        return objective

    def test_it_climbs_and_begins_with_the_own_settings(self, tmp_path: Path) -> None:
        p = project(trials=25, space=LEARNING_RATE)
        study = study_of(p, tmp_path)
        assert queue_project_settings(study, p)
        found_all(study, p, self.peak(p))
        own, best = project_settings_trial(study), best_trial(study)
        assert own.number == 0 and own.params == {"learning_rate": 3e-3} and count_done(study) == 25
        assert (
            best is not None
            and best.value > own.value
            and 2e-5 < best.params["learning_rate"] < 5e-4
        )
        shown = settings_of(best, p)["learning_rate"]
        assert shown == float(f"{best.params['learning_rate']:.3g}")

    def test_equal_ones_leave_the_own_settings_best(self, tmp_path: Path) -> None:
        p = project(trials=4, space=LEARNING_RATE)
        study = study_of(p, tmp_path)
        found_all(
            study,
            project(trials=1, space=LEARNING_RATE),
            lambda t: float(bool(suggest_settings(t, p))),
        )
        queue_project_settings(study, p)
        found_all(study, p, lambda t: float(bool(suggest_settings(t, p))))
        best = best_trial(study)
        assert (
            best is not None
            and best.number == 1
            and settings_of(best, p) == {"learning_rate": 3e-3}
        )

    def test_own_settings_outside_the_space_are_left_out(self, tmp_path: Path) -> None:
        p = project(space={**FIXED, "learning_rate": [1e-5, 1e-4]})
        assert not queue_project_settings(study_of(p, tmp_path), p)
        p = project(space={**FIXED, "learning_rate": None, "batch_size": [4, 16]})
        assert not queue_project_settings(study_of(p, tmp_path), p)

    def test_a_failure_does_not_end_it_and_three_in_a_row_do(self, tmp_path: Path) -> None:
        p, failures = project(trials=6, space=LEARNING_RATE), []

        def now_and_then(trial: Any) -> float:
            suggest_settings(trial, p)
            if trial.number % 3:
                raise RuntimeError(f"trial {trial.number} is unlucky")
            return 0.5

        study = study_of(p, tmp_path)
        found_all(study, p, now_and_then, lambda trial, error: failures.append(str(error)))
        assert (
            count_done(study) == 6 and len(failures) == 10 and failures[0] == "trial 1 is unlucky"
        )

        def never(trial: Any) -> float:
            raise RuntimeError("no memory")

        study = study_of(p, tmp_path, "another")
        with pytest.raises(
            UserError, match="three trials in a row failed, the last with RuntimeError: no memory"
        ):
            found_all(study, p, never)

    def test_what_lags_behind_is_pruned_unless_told_not_to(self, tmp_path: Path) -> None:
        import optuna

        def lagging(trial: Any) -> float:
            for epoch in range(1, 5):
                if not report_score(trial, 0.9 if trial.number < 6 else 0.1, share=epoch / 4):
                    raise optuna.TrialPruned
            return 0.9 if trial.number < 6 else 0.1

        from optuna.trial import TrialState

        for prune in (True, False):
            p = project(trials=10, prune=prune, space=LEARNING_RATE)
            study = study_of(p, tmp_path, str(prune))
            found_all(study, p, lagging)
            states = Counter(t.state for t in study.trials)
            assert states[TrialState.PRUNED] == (4 if prune else 0) and count_done(study) == 10

    def test_a_long_trial_is_held_against_short_ones_at_the_same_share(
        self, tmp_path: Path
    ) -> None:
        """F1 rises as each one's learning rate falls: after a quarter of 8 epochs less is reached than after 2 of 2."""
        import optuna

        reached = [*((2, 0.8), (4, 0.8), (3, 0.8)) * 2, (8, 0.9), (8, 0.5), (7, 0.9), (2, 0.5)]

        def annealed(trial: Any) -> float:
            epochs, end = reached[trial.number]
            for epoch in range(1, epochs + 1):
                if not report_score(trial, end * (1 + epoch / epochs) / 2, share=epoch / epochs):
                    raise optuna.TrialPruned
            return end

        p = project(trials=10, space=LEARNING_RATE)
        study = study_of(p, tmp_path)
        found_all(study, p, annealed)
        pruned = [t.number for t in study.trials if t.state == optuna.trial.TrialState.PRUNED]
        assert pruned == [7, 9], (
            "long or short, what is worse at the same share is ended, and what ends better is not"
        )
        assert len(study.trials[7].intermediate_values) == 3, (
            "as soon as five others had a look by then"
        )

    def test_ctrl_c_queues_the_trial_again(self, tmp_path: Path) -> None:
        p = project(trials=3, space=LEARNING_RATE)
        study, tried = study_of(p, tmp_path), []

        def interrupted(trial: Any) -> float:
            tried.append(suggest_settings(trial, p))
            if len(tried) == 2:
                raise KeyboardInterrupt
            return 0.5

        with pytest.raises(KeyboardInterrupt):
            found_all(study, p, interrupted)
        again = study_of(p, tmp_path)
        found_all(again, p, interrupted)
        assert count_done(again) == 3 and len(tried) == 4 and tried[2] == tried[1]

    def test_the_same_seed_draws_the_same_and_a_resumed_search_goes_on(
        self, tmp_path: Path
    ) -> None:
        def drawn(home: Path, parts: list[int]) -> list[Any]:
            for trials in parts:
                p = project(trials=trials, space=LEARNING_RATE)
                found_all(study_of(p, home), p, self.peak(p))
            return [t.params for t in study_of(p, home).trials]

        whole = drawn(tmp_path / "a", [8])
        assert whole == drawn(tmp_path / "b", [3, 8]) and len({str(t) for t in whole}) == 8

    def test_other_rows_are_another_study(self, tmp_path: Path) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        for encoder in (first, second):
            encoder.mkdir()
            (encoder / "config.json").write_text(f'{{"name": "{encoder.name}"}}')
        a, b = curated_of(tmp_path, TRAINING), curated_of(tmp_path, TRAINING[1:])
        splits, other_splits = splits_of(tmp_path, dev=DEV), splits_of(tmp_path, dev=DEV[1:])

        def question(p: Project, *data: Any) -> dict[str, Any]:
            return study_question(p, TrialData(*data), workspace=Workspace(tmp_path))

        question_of_project = question(project(first), a, splits)
        more_trials = project(first, trials=99, timeout_seconds=5)
        assert question_of_project == question(more_trials, a, splits)
        questions = [
            question_of_project,
            question(project(first), b, splits),
            question(project(first), a, other_splits),
            question(project(second), a, splits),
            question(project(first, train={"max_length": 16}), a, splits),
        ]
        assert len({study_name(project(), q) for q in questions}) == 5

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("nonsense://host/db", "is not a valid database URL"),
            ("sqlite:////nowhere/at/all.db", "cannot be reached"),
        ],
    )
    def test_a_storage_that_is_none(self, url: str, why: str, tmp_path: Path) -> None:
        with pytest.raises(Exception, match=why):
            study_of(project(), tmp_path, url=url)


WORKER = """
import sys, time
from pathlib import Path
from tasks.tune.search import requeue_dead_trials, run_search
from tasks.tune.space import suggest_settings
from tasks.tune.study import open_study
from tasks.workspace import Workspace
from tests.tune.test_tune import LEARNING_RATE, project
p = project(trials=int(sys.argv[2]), space=LEARNING_RATE)
study = open_study(p, {"about": "shared"}, workspace=Workspace(Path(sys.argv[1])), url=None)
requeue_dead_trials(study)
def objective(trial):
    suggest_settings(trial, p)
    print("begun", trial.number, flush=True)
    time.sleep(float(sys.argv[3]))
    return 0.5
run_search(study, p, objective, in_time=lambda: True, on_failure=lambda t, e: print(e))
"""


def start(home: Path, trials: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(home), str(trials), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def test_a_killed_worker_s_trial_is_tried_again_and_two_workers_share(tmp_path: Path) -> None:
    from optuna.trial import TrialState

    killed = start(tmp_path, 6, 600)
    assert killed.stdout is not None and killed.stdout.readline() == "begun 0\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    two = [start(tmp_path, 6, 0.3) for _ in range(2)]
    printed = [w.communicate(timeout=100)[0] for w in two]
    assert all(w.returncode == 0 for w in two) and all("begun" in out for out in printed), printed
    trials = study_of(project(), tmp_path, "shared").trials
    states = Counter(t.state for t in trials)
    assert (
        states[TrialState.FAIL] == 1
        and trials[0].state == TrialState.FAIL
        and 6 <= states[TrialState.COMPLETE] <= 7
    )
    again = [t for t in trials if t.number and t.params == trials[0].params]
    assert len(again) == 1 and again[0].state == TrialState.COMPLETE


def test_the_fragment_is_yaml_that_the_project_file_takes(tmp_path: Path, encoder: Path) -> None:
    settings = {"learning_rate": 7.1e-05, "epochs": 5, "precision": "fp32"}
    text = as_yaml(settings, ["one", "two"])
    assert text.startswith("# one\n# two\ntrain:\n")
    path = tmp_path / "toy.yaml"
    base = {"name": "toy", "labels": toy.LABELS, "data": {"pool": "rows.csv"}}
    path.write_text(yaml.safe_dump(base) + text)
    for found in (
        load_project(path),
        load_project(_without_train(path, base), as_overrides(settings)),
    ):
        assert (found.train.learning_rate, found.train.epochs, found.train.precision) == (
            7.1e-05,
            5,
            "fp32",
        )


def test_a_pruned_trial_is_no_failed_task_and_shows_its_progress() -> None:
    from flows.tune import none_if_pruned

    def pruned() -> TrialResult:
        raise Pruned

    assert none_if_pruned(pruned)() is None
    assert "progress" in inspect.signature(none_if_pruned(run_trial)).parameters, (
        "what flows/steps.py asks for"
    )


def _without_train(path: Path, base: dict[str, Any]) -> Path:
    other = path.with_name("plain.yaml")
    other.write_text(yaml.safe_dump(base))
    return other


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_command_finds_better_settings(
    tmp_path: Path, llm: Any, encoder: Path, home: Path, reseed: Callable[..., Any]
) -> None:
    """Own settings that learn nothing; the search finds some that do, on dev alone, and a retrain takes them."""
    from mlflow import MlflowClient

    from flows.settings import Settings

    tune = {"trials": 6, "space": {**FIXED, "learning_rate": [1e-7, 1e-2]}}
    config = toy.project(
        tmp_path / "project",
        endpoint=llm.url,
        encoder=encoder,
        train={"learning_rate": 1e-7},
        tune=tune,
    )
    code, out, err = reseed("tune", config, "--json")
    assert code == 0, err
    found = last_json(out)
    assert found["trials"]["complete"] + found["trials"]["pruned"] == 6
    assert found["best"]["dev_f1_macro"] > found["own"]["dev_f1_macro"] + 0.2
    assert not list((home / "test_set_uses").glob("*")), "the test set was opened"
    assert (
        load_project(config, found["set"]).train.learning_rate
        == found["best"]["train"]["learning_rate"]
    )
    assert yaml.safe_load(Path(found["file"]).read_text())["train"].keys() == {"learning_rate"}

    uri = Settings.from_environment().tracking_uri
    client = MlflowClient(uri, uri)
    run = client.get_run(found["mlflow_run_id"])
    assert run.data.metrics["dev.f1_macro.best"] == found["best"]["dev_f1_macro"]
    trials = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    )
    assert len(trials) == 6 and all(set(t.data.params) == {"train.learning_rate"} for t in trials)
    best = next(t for t in trials if t.info.run_name == f"trial {found['best']['trial']}")
    assert (
        best.info.status == "FINISHED"
        and best.data.metrics["dev.f1_macro"] == found["best"]["dev_f1_macro"]
    )
    assert [m.step for m in client.get_metric_history(best.info.run_id, "dev.f1_macro")][:3] == [
        1,
        2,
        3,
    ]

    code, out, err = reseed("tune", config)
    assert (
        code == 0
        and "6 of 6 trials are done" in err
        and "learning_rate:" in out
        and "--set train.learning_rate=" in out
    )
