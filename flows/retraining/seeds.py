"""Train with several seeds and take the best model on dev, or a soup of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean, stdev

from flows.context import RunContext
from flows.progress import say
from flows.retraining.scoring import score
from flows.tracking.curves import live_curves
from tasks.dataset.training_rows import TrainingRows
from tasks.evaluate.result import ScoreResult
from tasks.model.bundle import BundleRef
from tasks.report.model import SeedsSummary, SoupSummary
from tasks.stage import StageResult
from tasks.train.adaptation.adapt import AdaptResult
from tasks.train.soup import SoupResult, build_soup
from tasks.train.stage import TrainResult, train


def train_model(
    run: RunContext, rows: TrainingRows, adapted: AdaptResult | None, *, name: str, number: int = 0
) -> TrainResult:
    """The encoder (adapted, where there is an `adapt` section) fine-tuned on `rows` with seed `number` of train.seeds.

    Its learning curves are logged live to the MLflow run `name`.
    """
    with live_curves(run.tracking, name) as on_points:
        return run.stage(train, name=name)(
            run.project,
            curated=rows,
            splits=run.splits,
            generation=run.generation,
            number=number,
            adapted=adapted,
            on_points=on_points,
            workspace=run.workspace,
        )


@dataclass(frozen=True, slots=True)
class BestModel:
    """The best model on dev and the result of the stage that trained it.

    With several seeds, `summary` compares them and `models` has the model of each.
    """

    stage: StageResult
    bundle: BundleRef
    dev_f1_macro: float
    summary: SeedsSummary | None = None
    models: Mapping[int, TrainResult] = field(default_factory=dict)


def best_of_seeds(
    run: RunContext, rows: TrainingRows, first: TrainResult, adapted: AdaptResult | None
) -> BestModel:
    """The best on dev over `train.seeds`, or their greedy soup where it is strictly better.

    `first` is the model of the first seed; with one seed it is the result.
    """
    seeds = run.project.train.seeds
    if len(seeds) == 1:
        return BestModel(first, first.ref, first.dev_f1_macro)
    more = [
        train_model(run, rows, adapted, number=number, name=f"train seed {seed}")
        for number, seed in enumerate(seeds[1:], 1)
    ]
    models = [first, *more]
    mixed = run.stage(build_soup, name="soup")(
        run.project, models, splits=run.splits, workspace=run.workspace
    )
    scores = [m.dev_f1_macro for m in models]
    best = max(range(len(models)), key=lambda i: (scores[i], -i))
    summary = _summary(list(seeds), scores, mixed, seeds[best])
    run.tracking.log_metrics(
        {"dev.f1_macro.mean": summary.mean, "dev.f1_macro.spread": summary.spread}
    )
    say(f"  dev F1 {summary.line()}")
    of_each = dict(zip(seeds, models, strict=True))
    if mixed.bundle is not None:
        ref = BundleRef(mixed.bundle_directory, mixed.bundle)
        return BestModel(mixed, ref, mixed.dev_f1_macro, summary, of_each)
    chosen = models[best]
    return BestModel(chosen, chosen.ref, chosen.dev_f1_macro, summary, of_each)


def _summary(seeds: list[int], scores: list[float], mixed: SoupResult, best: int) -> SeedsSummary:
    return SeedsSummary(
        seeds=seeds,
        dev_f1_macro=scores,
        mean=mean(scores),
        spread=stdev(scores),
        soup=SoupSummary(won=mixed.won, members=mixed.members, dev_f1_macro=mixed.dev_f1_macro),
        chosen=f"soup of {len(mixed.members)}" if mixed.won else f"seed {best}",
    )


def score_seeds(run: RunContext, models: Mapping[int, TrainResult]) -> list[ScoreResult]:
    """The scores of each seed's model on the test rows; empty with one seed."""
    return [score(run, model.ref, f"seed {seed}") for seed, model in models.items()]
