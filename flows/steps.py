"""The one way to run a stage: as a Prefect task, timed, logged to MLflow and reported on the terminal.

Only a TransientError is retried (an LLM endpoint, the network, a store); a mistake or a bug would fail
again. Prefect caches nothing, because a stage reuses its own published directory.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from flows.progress import say, show_progress
from flows.tracking.run import Tracking
from tasks.augment.learning_curve import learning_curve
from tasks.augment.lift import full_lift, quick_lift
from tasks.augment.mixtures import choose_mixture, compare_on_dev, mixture
from tasks.augment.self_training import self_train
from tasks.curate.stage import curate
from tasks.dataset.split import sealed_test_set, split_dataset
from tasks.errors import TransientError
from tasks.evaluate.baselines.ask_llm import score_llm
from tasks.evaluate.baselines.score import score_baseline
from tasks.evaluate.label_first import label_first
from tasks.evaluate.robustness.stage import measure_robustness
from tasks.evaluate.score import score_bundle
from tasks.evaluate.serving import compare_serving, measure_serving
from tasks.model.inference.choose import export_bundle
from tasks.report.data.stage import data_report
from tasks.stage import StageResult
from tasks.synthesise.model_answers import ask_models
from tasks.synthesise.propose import propose
from tasks.synthesise.stage import synthesise
from tasks.synthesise.study import study
from tasks.train.adaptation.adapt import adapt
from tasks.train.soup import build_soup
from tasks.train.stage import train
from tasks.tune.trial import run_trial
from tasks.verdict.evidence import judge

P = ParamSpec("P")
T = TypeVar("T")
Result = TypeVar("Result", bound=StageResult)

MINUTE, HOUR = 60, 3600
BATCH = 30 * HOUR  # the Batch API answers within a day


@dataclass(frozen=True, slots=True)
class Policy:
    """The timeout of a stage in seconds, and how often it is retried after a TransientError."""

    timeout: float
    retries: int = 0


POLICIES: dict[Callable[..., Any], Policy] = {
    # reads files, S3 or a hub of datasets
    split_dataset: Policy(HOUR, retries=3),
    sealed_test_set: Policy(HOUR, retries=3),
    # calls LLMs; each request has its own retries, and a paid reply is never requested again
    ask_models: Policy(BATCH, retries=2),
    propose: Policy(BATCH, retries=2),
    synthesise: Policy(BATCH, retries=2),
    score_llm: Policy(12 * HOUR, retries=2),
    # computes on this machine
    study: Policy(HOUR),
    curate: Policy(2 * HOUR),
    mixture: Policy(HOUR),
    choose_mixture: Policy(2 * HOUR),
    compare_on_dev: Policy(HOUR),
    adapt: Policy(24 * HOUR),
    train: Policy(24 * HOUR),
    build_soup: Policy(HOUR),
    run_trial: Policy(24 * HOUR),
    self_train: Policy(6 * HOUR),
    export_bundle: Policy(HOUR),
    score_bundle: Policy(2 * HOUR),
    score_baseline: Policy(2 * HOUR),
    measure_robustness: Policy(2 * HOUR),
    measure_serving: Policy(HOUR),
    compare_serving: Policy(HOUR),
    quick_lift: Policy(2 * HOUR),
    full_lift: Policy(HOUR),
    learning_curve: Policy(HOUR),
    label_first: Policy(2 * HOUR),
    data_report: Policy(HOUR),
    judge: Policy(HOUR),
}
STORE = Policy(30 * MINUTE, retries=3)  # idempotent writes to MLflow


@dataclass(frozen=True, slots=True)
class StageRunner:
    """Runs stages: `seconds` adds up what each took in this run; a reused stage adds nothing."""

    tracking: Tracking
    seconds: Counter[str] = field(default_factory=Counter)

    def stage(
        self, function: Callable[P, Result], *, name: str | None = None, headline: bool = False
    ) -> Callable[P, Result]:
        """`function` as a step of this retrain; call it with the arguments of `function`.

        `name` is the step's name on the terminal, in Prefect and in MLflow. With `headline`, the result's
        headline figures are also logged on the retrain's own run.
        """
        title = name or _title(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> Result:
            result = as_task(function, POLICIES[function], name=title)(*args, **kwargs)
            published = result.published
            self.seconds[published.name] += 0 if published.found else published.seconds  # type: ignore[assignment]
            say(f"{title}: reused" if published.found else f"{title}: {published.seconds:.0f} s")
            for line in filter(None, result.summary().splitlines()):
                say(f"  {line}")
            self.tracking.log_stage(result, name=title)
            if headline:
                self.tracking.log_metrics(result.headline())
            return result

        return run

    def store(self, function: Callable[P, T], *, name: str | None = None) -> Callable[P, T]:
        """`function`, an idempotent write to MLflow, as a step of this retrain."""
        return as_task(function, STORE, name=name or _title(function))


def as_task(function: Callable[P, T], policy: Policy, *, name: str) -> Callable[P, T]:
    """`function` as a Prefect task called `name`; if it has a parameter `progress`, its progress is shown."""
    listens = "progress" in inspect.signature(function).parameters

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        def body() -> T:
            if not listens:
                return function(*args, **kwargs)
            with show_progress(name) as progress:
                return function(*args, **{**kwargs, "progress": progress})  # type: ignore[arg-type]

        step = task(
            name=name,
            timeout_seconds=policy.timeout,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=policy.retries,
            retry_delay_seconds=exponential_backoff(backoff_factor=5),
            retry_jitter_factor=0.5,
            retry_condition_fn=may_pass,
        )
        return step(body)()

    return run


def may_pass(task: Any, run: Any, state: Any) -> bool:
    """True when the run failed with a TransientError."""
    try:
        state.result()
    except TransientError:
        return True
    except BaseException:  # whatever else it was, another try will not fix it
        return False
    return False


def _title(function: Callable[..., Any]) -> str:
    return function.__name__.replace("_", " ")
