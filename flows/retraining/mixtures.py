"""Choose the rows that the challenger is trained on: mixtures, then rounds of self-training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import mean

from flows.context import RunContext
from flows.progress import say
from flows.retraining.scoring import score
from flows.retraining.seeds import best_of_seeds, train_model
from tasks.augment.learning_curve import LearningCurveResult, learning_curve
from tasks.augment.lift import DESCRIPTIONS, full_lift, quick_lift
from tasks.augment.mixtures import (
    WITH_SELF_TRAINED,
    best_mixture,
    choose_mixture,
    compare_on_dev,
    full_mixture,
    is_full_mixture,
    mixture,
    possible_mixtures,
)
from tasks.augment.self_training import SelfTrainingResult, self_train
from tasks.curate.stage import CurateResult
from tasks.dataset.training_rows import TrainingRows
from tasks.evaluate.result import ScoreResult
from tasks.model.bundle import BundleRef
from tasks.report.model import LiftSummary, SeedsSummary, UndoneRound
from tasks.stage import StageResult
from tasks.train.adaptation.adapt import AdaptResult, adapt
from tasks.train.stage import TrainResult

Mixtures = Mapping[str, TrainingRows]


@dataclass(frozen=True, slots=True)
class Trained:
    """The challenger's model, the rows it was trained on, and the mixtures that it is compared with.

    `stage` is the result of the stage that trained it. With several seeds, `seeds_summary` compares them
    and `seed_models` has the model of each.
    """

    stage: StageResult
    bundle: BundleRef
    dev_f1_macro: float
    rows: TrainingRows
    mixtures: Mixtures
    chosen: str
    adapted: AdaptResult | None
    self_trained: SelfTrainingResult | None
    undone: UndoneRound | None
    seeds_summary: SeedsSummary | None
    seed_models: Mapping[int, TrainResult]


@dataclass(frozen=True, slots=True)
class _Progress:
    """The current model. Each round of self-training is compared with `best`, the best on dev so far, so
    that small losses do not add up."""

    model: TrainResult
    rows: TrainingRows
    best: TrainResult
    self_trained: SelfTrainingResult | None = None
    undone: UndoneRound | None = None


def train_best_mixture(run: RunContext, curated: CurateResult) -> Trained:
    """The model of the mixture that is best on dev.

    Self-trained rows are kept as long as dev F1 does not fall.
    """
    adapted = adapt_encoder(run, curated)
    mixtures = mixtures_of(run, curated)
    chosen = choose(run, mixtures, adapted)
    model = train_model(run, mixtures[chosen], adapted, name="train")
    state = _Progress(model, mixtures[chosen], best=model)
    for number in range(1, run.project.self_training.rounds + 1):
        if not run.splits.unlabelled:
            break
        before = state
        state = _self_train(run, mixtures[chosen], adapted, state, number)
        if state.self_trained is before.self_trained:
            break
    if state.self_trained:
        mixtures = {**mixtures, WITH_SELF_TRAINED: state.self_trained}
    best = best_of_seeds(run, state.rows, state.model, adapted)
    return Trained(
        stage=best.stage,
        bundle=best.bundle,
        dev_f1_macro=best.dev_f1_macro,
        rows=state.rows,
        mixtures=mixtures,
        chosen=chosen,
        adapted=adapted,
        self_trained=state.self_trained,
        undone=state.undone,
        seeds_summary=best.summary,
        seed_models=best.models,
    )


def mixtures_of(run: RunContext, curated: CurateResult) -> Mixtures:
    """The rows of each possible mixture, by its name."""
    rows = curated.read()
    return {
        name: curated
        if is_full_mixture(name, rows)
        else run.stage(mixture, name=f"mixture {name}")(
            name, curated=curated, workspace=run.workspace
        )
        for name in possible_mixtures(run.project, rows)
    }


def adapt_encoder(run: RunContext, curated: CurateResult) -> AdaptResult | None:
    """The encoder adapted to the project's text, or None if `adapt.epochs` is 0."""
    if not run.project.adapt.epochs:
        return None
    return run.stage(adapt)(
        run.project, curated=curated, splits=run.splits, workspace=run.workspace
    )


def choose(run: RunContext, mixtures: Mixtures, adapted: AdaptResult | None) -> str:
    """The name of the mixture that is best on dev."""
    how = run.project.evaluate.lift
    if len(mixtures) == 1 or how == "off":
        return full_mixture(mixtures)
    if how == "quick":
        step = run.stage(choose_mixture, name="choose the mixture")
        dev = step(run.project, mixtures, splits=run.splits, workspace=run.workspace).dev
    else:
        seeds = range(len(run.project.train.seeds))
        dev = {
            name: mean(
                train_model(run, rows, adapted, number=n, name=_of_seed(name, n)).dev_f1_macro
                for n in seeds
            )
            for name, rows in mixtures.items()
        }
    chosen = best_mixture(dev)
    scores = ", ".join(f"{name} {f1:.3f}" for name, f1 in dev.items())
    heads = "linear heads" if how == "quick" else "fine-tuned"
    say(f"  dev F1 by rows ({heads}): {scores}; trained on: {chosen}")
    return chosen


def _self_train(
    run: RunContext,
    training: TrainingRows,
    adapted: AdaptResult | None,
    state: _Progress,
    number: int,
) -> _Progress:
    """The state after one round; `self_trained` is unchanged if the round added nothing or dev F1 fell."""
    added = run.stage(self_train, name=f"self-train {number}")(
        run.project,
        training=training,
        current=state.rows,
        trained=state.model,
        splits=run.splits,
        number=number,
        workspace=run.workspace,
    )
    if not added.added:
        return state
    model = train_model(run, added, adapted, name=f"train after self-training {number}")
    comparison = run.stage(compare_on_dev, name=f"compare on dev {number}")(
        run.project, before=state.best, after=model, splits=run.splits, workspace=run.workspace
    )
    if comparison.fell:
        say(f"  round {number} of self-training was undone because dev F1 fell")
        undone = UndoneRound(
            number=number, dev_before=comparison.before, dev_after=comparison.after
        )
        return replace(state, undone=undone)
    best = model if comparison.difference >= 0 else state.best
    return _Progress(model, added, best, self_trained=added)


def measure_lift(
    run: RunContext, trained: Trained, descriptions: ScoreResult
) -> LiftSummary | None:
    """The gain by synthetic and self-trained rows on the test rows; None if `evaluate.lift` is off."""
    how = run.project.evaluate.lift
    if how == "off":
        return None
    if how == "quick":
        result = run.stage(quick_lift, name="lift", headline=True)(
            run.project,
            trained.mixtures,
            chosen=trained.chosen,
            reference=[row.predicted for row in descriptions.read()],
            sealed=run.sealed,
            workspace=run.workspace,
        )
    else:
        seeds = range(len(run.project.train.seeds))
        scores = {
            name: [_score_mixture(run, trained, name, rows, n) for n in seeds]
            for name, rows in trained.mixtures.items()
        }
        result = run.stage(full_lift, name="lift", headline=True)(
            run.project,
            {DESCRIPTIONS: [descriptions], **scores},
            chosen=trained.chosen,
            workspace=run.workspace,
        )
    return LiftSummary(
        mixes=result.mixes,
        lifts=result.lifts,
        how=result.how,
        trained_on=trained.chosen,
        undone=trained.undone,
    )


def measure_learning_curve(run: RunContext, rows: TrainingRows) -> LearningCurveResult | None:
    """Macro-F1 on dev by the number of training rows; None if `evaluate.lift` is off."""
    if run.project.evaluate.lift == "off":
        return None
    step = run.stage(learning_curve)
    return step(run.project, training=rows, splits=run.splits, workspace=run.workspace)


def _score_mixture(
    run: RunContext, trained: Trained, name: str, rows: TrainingRows, number: int
) -> ScoreResult:
    model = train_model(run, rows, trained.adapted, number=number, name=_of_seed(name, number))
    return score(run, model.ref, f"{name}, seed {number + 1}")


def _of_seed(mixture: str, number: int) -> str:
    return f"train {mixture}, seed {number + 1}"
