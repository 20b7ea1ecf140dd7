"""Score challenger, champion and baselines on the sealed test rows; measure robustness and serving."""

from __future__ import annotations

from dataclasses import dataclass

from flows.context import RunContext
from flows.progress import say
from tasks.dataset.training_rows import TrainingRows
from tasks.evaluate.baselines.ask_llm import score_llm
from tasks.evaluate.baselines.score import active_baselines, score_baseline
from tasks.evaluate.result import ScoreResult
from tasks.evaluate.robustness.stage import has_robustness_checks, measure_robustness
from tasks.evaluate.score import score_bundle
from tasks.evaluate.serving import compare_serving, measure_serving
from tasks.model.bundle import BundleRef
from tasks.verdict.measures import MeasuredBundle, compare_measures


def score(run: RunContext, bundle: BundleRef, who: str) -> ScoreResult:
    """The scores of a bundle on the test rows; `who` names the model."""
    step = run.stage(score_bundle, name=f"evaluate {who}")
    return step(run.project, bundle, sealed=run.sealed, workspace=run.workspace)


def score_baselines(run: RunContext, curated: TrainingRows) -> dict[str, ScoreResult]:
    """The scores of each baseline by its name, with the LLM's if `evaluate.llm_rows` is set."""
    found = {}
    for name in active_baselines(run.project):
        found[name] = run.stage(score_baseline, name=f"evaluate {name}")(
            run.project,
            name,
            curated=curated,
            splits=run.splits,
            sealed=run.sealed,
            workspace=run.workspace,
        )
    if run.project.evaluate.llm_rows and (asked := _score_llm(run)).scores:
        found["llm"] = asked
    return found


def _score_llm(run: RunContext) -> ScoreResult:
    asked = run.stage(score_llm, name="evaluate llm")(
        run.project, generation=run.generation, sealed=run.sealed, workspace=run.workspace
    )
    if asked.llm and asked.llm.stopped:
        rows = asked.scores.rows if asked.scores else 0
        say(
            f"  the LLM was asked about {rows} of {run.project.evaluate.llm_rows} rows: {asked.llm.stopped}"
        )
    return asked


def measure_bundle(
    run: RunContext, bundle: BundleRef, who: str, *, headline: bool = False
) -> MeasuredBundle:
    """Robustness and cost of serving of one bundle, each None if the project switches it off."""
    robustness = serving = None
    if has_robustness_checks(run.project):
        step = run.stage(measure_robustness, name=f"robustness {who}", headline=headline)
        robustness = step(run.project, bundle, sealed=run.sealed, workspace=run.workspace)
    if run.project.evaluate.serving_rows:
        cost = run.stage(measure_serving, name=f"serving {who}", headline=headline)
        serving = cost(run.project, bundle, splits=run.splits, workspace=run.workspace)
    return MeasuredBundle(bundle, robustness, serving)


@dataclass(frozen=True, slots=True)
class MeasuredChampion:
    """The champion's robustness and cost of serving, and (challenger, champion) for each guardrail measure."""

    measured: MeasuredBundle
    measures: dict[str, tuple[float, float]]


def measure_champion(
    run: RunContext, challenger: MeasuredBundle, bundle: BundleRef, who: str
) -> MeasuredChampion:
    """Robustness and cost of serving of the champion; both models are timed in turns for the latencies."""
    champion, turns = measure_bundle(run, bundle, who), None
    if run.project.evaluate.serving_rows:
        step = run.stage(compare_serving, name="serving in turns")
        turns = step(
            run.project, challenger.bundle, bundle, splits=run.splits, workspace=run.workspace
        )
    return MeasuredChampion(champion, compare_measures(challenger, champion, turns))
