"""Several seeds: the rows' model trained with each, what they make of dev, and the best one or a soup of them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from flows import steps
from flows.context import Retrain
from flows.progress import say
from flows.tracking import stage_runs
from flows.tracking.curves import curves
from tasks.stage import Stage


def train(r: Retrain, rows: Stage, number: int = 0, name: str | None = None) -> Stage:
    """The encoder (adapted, where there is an `adapt` section) fine-tuned on `rows` with seed `number` of train.seeds.

    Its curves are in the MLflow run `name` while it trains; stage_runs.trained adds the rest.
    """
    with curves(r.log, name) if name else nullcontext() as on_points:
        stage: Stage = steps.train(
            r.project,
            curated=rows,
            splits=r.prepared.splits,
            generation=r.generation,
            number=number,
            adapted=r.adapted,
            on_points=on_points,
            **r.places,
        )
        return r.timed(stage)


@dataclass
class Best:
    """The best model on dev and its MLflow run; and with several seeds what was `told` of them, and the model `of` each."""

    model: Stage
    run_id: str
    told: dict[str, Any] | None = None
    of: dict[int, Stage] = field(default_factory=dict)


def best_of_seeds(r: Retrain, rows: Stage, first: Stage, run_id: str) -> Best:
    """The best on dev over `train.seeds`, or their greedy soup where it is strictly better. `first` is the model of the first
    seed, and with one seed the answer."""
    seeds = r.project.train.seeds
    if len(seeds) == 1:
        return Best(first, run_id)
    models, runs = [first], [run_id]
    for number, seed in enumerate(seeds[1:], 1):
        models.append(train(r, rows, number, f"train seed {seed}"))
        runs.append(stage_runs.trained(r.log, models[-1], f"train seed {seed}"))
    scores = [float(m.counts["dev_f1_macro"]) for m in models]
    best = max(range(len(models)), key=lambda i: (scores[i], -i))
    soup: Stage = r.timed(steps.soup(r.project, models, splits=r.prepared.splits, home=r.home))
    soup_run = stage_runs.souped(r.log, soup)
    told: dict[str, Any] = {
        "seeds": list(seeds),
        "dev_f1_macro": scores,
        "mean": mean(scores),
        "spread": stdev(scores),
        "soup": {k: soup.counts[k] for k in ("won", "members", "dev_f1_macro")},
        "chosen": f"soup of {len(soup.counts['members'])}" if soup.counts["won"] else f"seed {seeds[best]}",
    }
    r.log.metrics({"dev.f1_macro.mean": told["mean"], "dev.f1_macro.spread": told["spread"]})
    say(f"  dev F1 {line(told)}")
    model, run_id = (soup, soup_run) if soup.counts["won"] else (models[best], runs[best])
    return Best(model, run_id, told, dict(zip(seeds, models, strict=True)))


def line(told: dict[str, Any]) -> str:
    """Mean, spread and choice in a line."""
    each = ", ".join(f"{f1:.3f}" for f1 in told["dev_f1_macro"])
    return f"{told['mean']:.3f}, spread {told['spread']:.3f} over {len(told['seeds'])} seeds ({each}): {told['chosen']}"
