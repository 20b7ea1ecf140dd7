"""Score challenger, champion and baselines on the sealed test rows."""

from __future__ import annotations

from pathlib import Path

from flows import steps
from flows.context import Retrain
from flows.progress import say
from flows.tracking import stage_runs
from tasks.evaluate.score import baselines_of
from tasks.stage import Stage


def scored(r: Retrain, bundle: Path, digest: str, who: str) -> Stage:
    stage: Stage = steps.score_bundle(r.project, bundle, digest=digest, sealed=r.prepared.sealed, home=r.home)
    stage_runs.scored(r.log, who, stage)
    return r.timed(stage, title=f"evaluate {who}")


def baseline(r: Retrain, curated: Stage, name: str) -> Stage:
    stage: Stage = steps.score_baseline(
        r.project, name, curated=curated, splits=r.prepared.splits, sealed=r.prepared.sealed, **r.places
    )
    stage_runs.scored(r.log, name, stage)
    return r.timed(stage, title=f"evaluate {name}")


def every_baseline(r: Retrain, curated: Stage) -> dict[str, Stage]:
    """Each baseline's score by its name: those on all test rows, and the LLM's where `evaluate.ask_llm` asks for it."""
    found = {name: baseline(r, curated, name) for name in baselines_of(r.project)}
    if r.project.evaluate.ask_llm:
        asked: Stage = steps.score_llm(r.project, generation=r.generation, sealed=r.prepared.sealed, **r.places)
        r.timed(asked, title="ask the LLM")
        if why := asked.counts["llm"]["stopped"]:
            say(f"  {asked.counts['rows']} of {r.project.evaluate.ask_llm} rows were asked: {why}")
        if asked.counts["rows"]:
            stage_runs.scored(r.log, "llm", asked)
            found["llm"] = asked
    return found
