"""Which rows the challenger is trained on, and what the made-up and the harvested ones gain."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from flows import steps
from flows.context import Retrain
from flows.progress import say
from flows.retraining.scoring import scored
from flows.retraining.seeds import best_of_seeds, train
from flows.tracking import stage_runs
from tasks.augment.lift import DESCRIPTIONS
from tasks.augment.mixtures import WITH_HARVESTED, best, possible, whole
from tasks.evaluate.score import read_predictions
from tasks.records import read_records
from tasks.stage import Stage
from tasks.train.adaptation.adapt import told


@dataclass
class Trained:
    """The challenger, the rows it was trained on, and the mixes that it is compared with."""

    model: Stage
    run_id: str
    rows: Stage
    mixes: dict[str, Stage]
    chosen: str
    best: Stage  # on dev so far: a harvest is compared with it, so that small falls don't add up
    harvested: Stage | None = None
    undone: dict[str, Any] | None = None
    seeds: dict[str, Any] | None = None
    of_seeds: dict[int, Stage] = field(default_factory=dict)


def train_best_mix(r: Retrain, curated: Stage) -> Trained:
    """The model of the mix that is best on dev; harvested rows are kept only while they don't lower dev F1."""
    r.adapted = adapt(r, curated)
    mixes = mixes_of(r, curated)
    chosen = choose(r, mixes)
    model = train(r, mixes[chosen], name="train")
    done = Trained(model, stage_runs.trained(r.log, model), mixes[chosen], mixes, chosen, best=model)
    for number in range(1, r.project.harvest.rounds + 1):
        if not r.prepared.splits.counts["unlabelled"] or not _harvest(r, done, number):
            break
    if done.harvested:
        done.mixes[WITH_HARVESTED] = done.harvested
    found = best_of_seeds(r, done.rows, done.model, done.run_id)
    done.model, done.run_id, done.seeds, done.of_seeds = found.model, found.run_id, found.told, found.of
    return done


def mixes_of(r: Retrain, curated: Stage) -> dict[str, Stage]:
    """The rows of each mix that there can be, by its name."""
    rows = read_records(curated.directory / "kept.jsonl")
    return {name: steps.mix(name, curated=curated, home=r.home) for name in possible(r.project, rows)}


def adapt(r: Retrain, curated: Stage) -> Stage | None:
    """The encoder adapted to the project's text, or None where `adapt.epochs` is 0."""
    if not r.project.adapt.epochs:
        return None
    stage: Stage = r.timed(steps.adapt(r.project, curated=curated, splits=r.prepared.splits, **r.places))
    stage_runs.adapted(r.log, stage)
    for said in told(stage):
        say(f"  {said}")
    return stage


def choose(r: Retrain, mixes: dict[str, Stage]) -> str:
    """The name of the mix that is best on dev."""
    how = r.project.evaluate.lift
    if len(mixes) == 1 or how == "off":
        return whole(mixes)
    if how == "quick":
        stage = r.timed(steps.choose(r.project, mixes, splits=r.prepared.splits, **r.places), title="choose the mix")
        dev = stage.counts["dev"]
    else:
        seeds = range(len(r.project.train.seeds))
        dev = {name: mean(train(r, rows, n).counts["dev_f1_macro"] for n in seeds) for name, rows in mixes.items()}
    chosen = best(dev)
    said = ", ".join(f"{name} {f1:.3f}" for name, f1 in dev.items())
    say(f"  dev F1 by rows ({'linear heads' if how == 'quick' else 'fine-tuned'}): {said}; trained on: {chosen}")
    return chosen


def _harvest(r: Retrain, done: Trained, number: int) -> bool:
    """Whether another round may follow: this one added rows and dev F1 did not fall below that of the best model so far."""
    harvested: Stage = steps.harvest(
        r.project,
        training=done.mixes[done.chosen],
        current=done.rows,
        trained=done.model,
        splits=r.prepared.splits,
        number=number,
        **r.places,
    )
    r.timed(harvested, title=f"harvest {number}")
    stage_runs.harvested(r.log, number, harvested)
    added, looked = harvested.counts["added"], harvested.counts["looked_at"]
    say(f"  {added} of {looked} unlabelled rows are labelled with confidence and agreement")
    if not added:
        return False
    model = train(r, harvested, name=f"train after harvest {number}")
    run_id = stage_runs.trained(r.log, model, f"train after harvest {number}")
    seen: Stage = steps.watch(r.project, before=done.best, after=model, splits=r.prepared.splits, home=r.home)
    c = seen.counts
    said = (
        f"dev F1 {c['before']:.3f} at best before and {c['after']:.3f} after, "
        f"{c['standard_error']:.3f} of which may be chance"
    )
    if c["fell"]:
        say(f"  harvest {number} is undone: {said}")
        done.undone = {"number": number, "dev_before": c["before"], "dev_after": c["after"]}
        return False
    say(f"  {said}")
    done.model, done.run_id, done.rows, done.harvested = model, run_id, harvested, harvested
    done.best = model if c["difference"] >= 0 else done.best
    return True


def lift(r: Retrain, done: Trained, descriptions: Stage) -> dict[str, Any] | None:
    """What synthetic and harvested rows gain on the test rows, or None where `evaluate.lift` is off or nothing is compared."""
    how, sealed = r.project.evaluate.lift, r.prepared.sealed
    if how == "off":
        return None
    if how == "quick":
        said = [a["predicted"] for a in read_predictions(descriptions)]
        stage = steps.quick_lift(r.project, done.mixes, chosen=done.chosen, reference=said, sealed=sealed, **r.places)
    else:
        scores = {
            name: [_score(r, rows, n, name) for n in range(len(r.project.train.seeds))]
            for name, rows in done.mixes.items()
        }
        scores = {DESCRIPTIONS: [descriptions], **scores}
        stage = steps.full_lift(r.project, scores, chosen=done.chosen, home=r.home)
    r.timed(stage)
    stage_runs.lifted(r.log, stage)
    for step in stage.counts["lifts"]:
        low, high = step["ci_low"], step["ci_high"]
        say(f"  {step['by']} rows: macro-F1 {step['value']:+.3f} ({low:+.3f} to {high:+.3f}) over {step['from']}")
    return {**stage.counts, "trained_on": done.chosen, "undone": done.undone}


def learned(r: Retrain, done: Trained) -> Stage | None:
    """Dev F1 by the number of training rows, or None where `evaluate.lift` is off."""
    if r.project.evaluate.lift == "off":
        return None
    stage: Stage = steps.learning_curve(r.project, training=done.rows, splits=r.prepared.splits, **r.places)
    stage_runs.learned(r.log, r.timed(stage, title="learning curve"))
    return stage


def _score(r: Retrain, rows: Stage, number: int, name: str) -> Stage:
    return _scored(r, train(r, rows, number), f"{name}, seed {number + 1}")


def seeds_scored(r: Retrain, done: Trained) -> list[Stage]:
    """How the model of each of train.seeds does on the test rows; empty where there is one seed."""
    return [_scored(r, model, f"seed {seed}") for seed, model in done.of_seeds.items()]


def _scored(r: Retrain, trained: Stage, who: str) -> Stage:
    return scored(r, trained.directory / "bundle", trained.counts["bundle"], who)
