"""Every stage as a Prefect task: all retry and timeout policies on one page.

A retry helps against what passes by itself: an LLM endpoint, the network, a store. It does not help against the user's
mistake or a bug, so nothing else is retried. Nothing is cached by Prefect: a stage finds its own directory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from flows.progress import watched
from tasks.augment import learning_curve as _learning_curve
from tasks.augment import lift as _lift
from tasks.augment import mixtures as _mix
from tasks.augment import self_training as _harvest
from tasks.curate import stage
from tasks.dataset.split import prepare as _prepare
from tasks.errors import TransientError
from tasks.evaluate import score as _score
from tasks.evaluate import serving as _serving
from tasks.evaluate.baselines import ask_llm as _ask_llm
from tasks.evaluate.label_first import label_first as _label_first
from tasks.evaluate.robustness import robustness as _robustness
from tasks.model.inference.choose import exported as _exported
from tasks.report.data.stage import data_report as _data_report
from tasks.synthesise.by_model import ask_models as _ask_models
from tasks.synthesise.propose import propose as _propose
from tasks.synthesise.stage import synthesise as _synthesise
from tasks.synthesise.study import study as _study
from tasks.train.adaptation import adapt as _adapt
from tasks.train.soup import soup as _soup
from tasks.train.stage import train as _train
from tasks.tune.trial import trial as _trial
from tasks.verdict import evidence as _evidence

MINUTE, HOUR = 60, 3600
BATCH = 30 * HOUR  # the Batch API answers within a day


def may_pass(task: Any, run: Any, state: Any) -> bool:
    """True when the run failed with a TransientError."""
    try:
        state.result()
    except TransientError:
        return True
    except BaseException:  # whatever else it was, another try won't mend it
        return False
    return False


def step(
    fn: Callable[..., Any], *, name: str, timeout: float, retries: int = 0, listens: bool = False, **options: Any
) -> Any:
    """`fn` as a task. A function that `listens` gets a `report` that shows how far it is."""

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not listens:
            return fn(*args, **kwargs)
        with watched(name) as report:
            return fn(*args, **{**kwargs, "report": report})  # Prefect fills in the default too

    retrying: dict[str, Any] = {}
    if retries:
        retrying = {
            "retries": retries,
            "retry_delay_seconds": exponential_backoff(backoff_factor=5),
            "retry_jitter_factor": 0.5,
            "retry_condition_fn": may_pass,
        }
    decorate: Any = task
    return decorate(
        run, name=name, timeout_seconds=timeout, cache_policy=NO_CACHE, persist_result=False, **retrying, **options
    )


# reads files, S3 or a hub
prepare = step(_prepare, name="prepare", timeout=HOUR, retries=3)
# talks to several LLMs
ask_models = step(_ask_models, name="ask models", timeout=BATCH, retries=2, listens=True)
# talks to an LLM; each request has retries of its own, and what was bought is not asked for again
synthesise = step(
    _synthesise,
    name="synthesise",
    timeout=BATCH,
    retries=2,
    listens=True,
    task_run_name="synthesise round {round_number}",
)
propose = step(_propose, name="propose", timeout=BATCH, retries=2)
study = step(_study, name="study", timeout=HOUR)
curate = step(stage.curate, name="curate", timeout=2 * HOUR, listens=True)
train = step(_train, name="train", timeout=24 * HOUR, listens=True)
export = step(_exported, name="export", timeout=HOUR, listens=True)
soup = step(_soup, name="soup", timeout=HOUR, listens=True)
adapt = step(_adapt.adapt, name="adapt", timeout=24 * HOUR, listens=True)
trial = step(_trial, name="trial", timeout=24 * HOUR, listens=True)
mix = step(_mix.mix, name="mix", timeout=HOUR, task_run_name="mix {name}")
choose = step(_mix.quick_choice, name="choose", timeout=2 * HOUR)
watch = step(_mix.watch, name="watch", timeout=HOUR)
harvest = step(_harvest.harvest, name="harvest", timeout=6 * HOUR, listens=True, task_run_name="harvest {number}")
data_report = step(_data_report, name="data report", timeout=HOUR)
quick_lift = step(_lift.quick_lift, name="lift", timeout=2 * HOUR)
full_lift = step(_lift.full_lift, name="lift", timeout=HOUR)
label_first = step(_label_first, name="label first", timeout=2 * HOUR)
learning_curve = step(_learning_curve.learning_curve, name="learning curve", timeout=HOUR)
judged = step(_evidence.judged, name="judge", timeout=HOUR)
score_bundle = step(_score.score_bundle, name="score", timeout=2 * HOUR, task_run_name="score {digest}")
robustness = step(_robustness, name="robustness", timeout=2 * HOUR, task_run_name="robustness {digest}")
serving = step(_serving.serving, name="serving", timeout=HOUR, task_run_name="serving {digest}")
side_by_side = step(_serving.side_by_side, name="side by side", timeout=HOUR)
score_baseline = step(_score.score_baseline, name="baseline", timeout=2 * HOUR, task_run_name="baseline {name}")
# talks to an LLM, one test row after the other
score_llm = step(_ask_llm.score_llm, name="ask the LLM", timeout=12 * HOUR, retries=2, listens=True)


def store_step(fn: Callable[..., Any], *, name: str) -> Any:
    """A step that writes to MLflow: safe to do twice, so a passing fault of the store is retried."""
    return step(fn, name=name, timeout=30 * MINUTE, retries=3)
