"""The flow `retrain`: from label names to a promoted, answering model.

reseed retrain configs/bbc-news.yaml        or, as a deployment,        prefect deployment run retrain/bbc-news
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import deployment, flow_run

from flows import generation as generations
from flows import report as reports
from flows import stage_runs, steps
from flows.progress import say
from flows.registry import ChampionMoved, Registry, Version
from flows.settings import Settings, quiet
from flows.tracking import Tracking, connect
from tasks import files, judge
from tasks.errors import TransientError, UserError
from tasks.evaluate.score import BASELINES, read_predictions
from tasks.files import CorruptDirectory, Stage
from tasks.judge import Verdict
from tasks.prepare import Prepared, count_openings
from tasks.project import Project
from tasks.project_file import check_references, load_project
from tasks.records import digest_of
from tasks.synthesise import check_endpoint, missing, request_budget, to_request

COMPARISONS = 3  # tries to judge against a champion that keeps moving


@dataclass
class Retrain:
    """What every part of one retrain needs."""

    project: Project
    beside: Path
    settings: Settings
    generation: int
    judged_before: bool
    registry: Registry
    log: Tracking
    seconds: Counter[str] = field(default_factory=Counter)

    @property
    def home(self) -> Path:
        return self.settings.home

    def timed(self, stage: Stage, name: str | None = None, title: str | None = None) -> Stage:
        """The stage, with what it took in this run counted: nothing when it was found."""
        name = name or stage.name
        title = title or name
        self.seconds[name] += 0.0 if stage.found else stage.seconds  # type: ignore[assignment]
        say(f"{title}: found" if stage.found else f"{title}: {stage.seconds:.0f} s")
        return stage


def _run_name() -> str:
    return f"{Path(str(flow_run.parameters.get('config', ''))).stem} {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(name="retrain", flow_run_name=_run_name, timeout_seconds=48 * 3600)
def retrain(config: str, overrides: list[str] | None = None, fresh: bool = False) -> dict[str, Any]:
    """The report (flows/report.py) of a retrain of the project file `config`. `fresh` makes a new challenger."""
    _say_mistakes_in_a_line()
    settings = Settings.from_environment()
    project = load_project(Path(config), overrides or [])
    check_references(project, Path(config))
    check_endpoint(project)
    with files.only_one(settings.home / "locks" / f"retrain-{project.name}.lock", f"a retrain of {project.name!r}"):
        generation, judged_before = generations.begin(settings.home, project.name, fresh=fresh)
        client = connect(settings)
        registry = Registry(client, settings)
        registry.reconcile(project.name)
        identity = digest_of({"project": project.digest, "generation": generation})[:32]
        log = Tracking.open(
            client,
            settings,
            experiment=project.name,
            retrain_id=identity,
            name=f"{datetime.now(UTC):%Y-%m-%d} {Path(project.train.model).parts[0].split(':')[-1]} #{generation}",
            params=project.parameters() | {"generation": str(generation), "config": config},
        )
        r = Retrain(project, Path(config).absolute().parent, settings, generation, judged_before, registry, log)
        try:
            report = _story(r)
        except BaseException as e:
            log.tag(failure=f"{type(e).__name__}: {e}")
            log.close("FAILED" if isinstance(e, Exception) else "KILLED")
            raise
        log.close("FINISHED")
        generations.judged(settings.home, project.name, generation)
    create_markdown_artifact(
        reports.markdown(report),
        key=f"{project.name.replace('.', '-').replace('_', '-')}-retrain",
        description="retrain",
    )
    return report


def _story(r: Retrain) -> dict[str, Any]:
    prepared: Prepared = steps.prepare(r.project, beside=r.beside, home=r.home)
    r.timed(prepared.splits, "prepare")
    for notice in prepared.splits.counts["notices"]:
        say(f"  {notice}")
    stage_runs.splits(r.log, prepared)

    rounds, curated = _fill_quota(r, prepared)
    stage_runs.curated(r.log, curated)

    trained = r.timed(
        steps.train(
            r.project, curated=curated, splits=prepared.splits, generation=r.generation, beside=r.beside, home=r.home
        )
    )
    train_run = stage_runs.trained(r.log, trained)

    challenger = _scored(r, prepared, trained.directory / "bundle", trained.counts["bundle"], "challenger")
    baselines = {name: _baseline(r, prepared, curated, name) for name in BASELINES}

    version = steps.store_step(r.registry.register, name="register")(
        r.project.name,
        trained.directory / "bundle",
        digest=trained.counts["bundle"],
        run_id=train_run,
        labels=r.project.label_names,
        description=_description(r, challenger, curated),
    )
    verdict, champion, promoted = _judge_and_promote(r, prepared, version, challenger, baselines)
    stage_runs.judged(r.log, verdict, challenger)
    data = reports.data_counts(prepared, rounds, curated)
    spent = reports.tokens(rounds)
    r.log.metrics({f"data.{k}.rows": float(data[k]["total"]) for k in ("requested", "accepted", "rejected")})
    r.log.metrics({f"tokens.{k}": float(v) for k, v in spent.items()})
    return {
        "project": r.project.name,
        "verdict": verdict.decision,
        "reasons": list(verdict.reasons),
        "promoted": promoted,
        "gain": {"value": verdict.gain, "lower": verdict.lower, "upper": verdict.upper, "opponent": verdict.opponent},
        "model": {"name": version.name, "version": version.version, "bundle": version.digest},
        "test": reports.figures(challenger) | {"openings": count_openings(prepared.sealed, home=r.home)},
        "champion": champion,
        "baselines": {name: reports.figures(b) for name, b in baselines.items()},
        "data": data,
        "seconds": {name: round(s, 1) for name, s in r.seconds.items()},
        "tokens": spent,
        "generation": r.generation,
        "mlflow_run_id": r.log.run_id,
        "mlflow_tracking_uri": r.settings.tracking_uri,
        "flow_run_id": flow_run.id,
    }


def _fill_quota(r: Retrain, prepared: Prepared) -> tuple[list[Stage], Stage]:
    """Rounds of generation and curation until every label has its quota of accepted rows, or the budget is spent."""
    rounds: list[Stage] = []
    asked: Counter[str] = Counter()
    budget = request_budget(r.project.generate, len(r.project.labels))
    splits, common = prepared.splits, {"beside": r.beside, "home": r.home}
    while True:
        curated: Stage | None = steps.curate(r.project, rounds=rounds, splits=splits, **common) if rounds else None
        if curated:
            r.timed(curated)
        accepted = curated.counts["accepted"] if curated else {}
        lacking = missing(r.project, accepted)
        count = to_request(lacking, asked=asked, accepted=accepted, budget=budget - asked.total())
        if not count or len(rounds) >= r.project.generate.max_rounds:
            break
        rounds.append(
            r.timed(
                steps.synthesise(
                    r.project,
                    count=count,
                    round_number=len(rounds),
                    generation=r.generation,
                    splits=splits,
                    **common,
                )
            )
        )
        stage_runs.generated(r.log, len(rounds), rounds[-1])
        asked.update(count)
    if curated is None:  # nothing is asked for: the seed rows alone
        curated = r.timed(steps.curate(r.project, rounds=[], splits=splits, **common))
    if not sum(sum(curated.counts[k].values()) for k in ("seed", "accepted")):
        raise UserError(
            f"there is no row to train on: {asked.total()} were asked for, none was accepted, and there are no seed rows; "
            f"set generate.per_label above 0 or give real rows (data.split.seed); set aside: {curated.counts['rejected']}"
        )
    if lacking:
        short = ", ".join(f"{label} {n}" for label, n in lacking.items())
        say(f"the quota is not full after {asked.total()} of {budget} requests: rows missing: {short}")
    return rounds, curated


def _scored(r: Retrain, prepared: Prepared, bundle: Path, digest: str, who: str) -> Stage:
    stage: Stage = steps.score_bundle(r.project, bundle, digest=digest, sealed=prepared.sealed, home=r.home)
    stage_runs.scored(r.log, who, stage)
    return r.timed(stage, title=f"evaluate {who}")


def _baseline(r: Retrain, prepared: Prepared, curated: Stage, name: str) -> Stage:
    stage: Stage = steps.score_baseline(
        r.project, name, curated=curated, sealed=prepared.sealed, beside=r.beside, home=r.home
    )
    stage_runs.scored(r.log, name, stage)
    return r.timed(stage, title=f"evaluate {name}")


def _judge_and_promote(
    r: Retrain, prepared: Prepared, version: Version, challenger: Stage, baselines: dict[str, Stage]
) -> tuple[Verdict, dict[str, Any] | None, bool]:
    """The verdict against the champion of this moment, the champion's figures, and whether it was replaced."""
    promote = steps.store_step(r.registry.promote, name="promote")
    for _ in range(COMPARISONS):
        champion = r.registry.champion(r.project.name)
        if champion is not None and champion.version == version.version:
            return (
                _already(r, champion),
                {"version": champion.version, **reports.figures(challenger)},
                not r.judged_before,
            )
        verdict, figures = _judge(r, prepared, champion, challenger, baselines)
        _record(r, version, verdict, challenger)
        if verdict.decision != "promote":
            return verdict, figures, False
        probes = [d.text for d in files.read_records(prepared.splits.directory / "dev.jsonl")[:3]]
        reason = "; ".join(verdict.reasons)
        try:
            promote(version, expected=champion, reason=reason, probes=probes, labels=r.project.label_names)
            return verdict, figures, True
        except ChampionMoved as e:
            say(f"{e}: comparing again")
        except CorruptDirectory as e:
            verdict = judge.unsure(f"not promoted: {e}", verdict.opponent, verdict.rows)
            _record(r, version, verdict, challenger)
            return verdict, figures, False
    raise TransientError(f"{r.project.name}: the champion moved during each of {COMPARISONS} comparisons; run it again")


def _judge(
    r: Retrain, prepared: Prepared, champion: Version | None, challenger: Stage, baselines: dict[str, Stage]
) -> tuple[Verdict, dict[str, Any] | None]:
    """Against the champion, scored again on the same rows; where there is none, against the best baseline."""
    p = r.project
    if champion is None:
        name = max(baselines, key=lambda b: baselines[b].counts["f1_macro"]["value"])
        opponent, title, figures = baselines[name], f"the best baseline ({name.replace('_', ' ')})", None
    else:
        title = f"champion version {champion.version}"
        try:
            directory = r.registry.fetch(champion)
            opponent = _scored(r, prepared, directory, champion.digest, f"champion {champion.version}")
        except CorruptDirectory as e:
            return judge.unsure(f"{title} can't be scored again: {e}", title), {
                "version": champion.version,
                "f1_macro": None,
            }
        figures = {"version": champion.version, **reports.figures(opponent)}
    answers, theirs = read_predictions(challenger), read_predictions(opponent)
    verdict = judge.decide(
        [a["label"] for a in answers],
        [a["predicted"] for a in answers],
        [b["predicted"] for b in theirs],
        labels=p.label_names,
        opponent_name=title,
        min_gain=p.promote.min_gain,
        confidence=p.promote.confidence,
        samples=p.evaluate.bootstrap,
        seed=p.evaluate.seed,
    )
    return verdict, figures


def _already(r: Retrain, champion: Version) -> Verdict:
    """The verdict on a challenger that is the champion: the recorded one when this retrain is resumed, keep otherwise."""
    when = champion.tags.get("reseed.promoted_at", "an earlier time")[:19]
    if not r.judged_before and champion.tags.get("reseed.verdict") == "promote":
        reasons = champion.tags.get("reseed.reasons", "")
        return Verdict("promote", (reasons, f"version {champion.version} was promoted at {when}, before a restart"), "")
    reason = f"version {champion.version} is the champion already, since {when}; `reseed retrain --fresh` makes a new challenger"
    return Verdict("keep", (reason,), f"champion version {champion.version}")


def _record(r: Retrain, version: Version, verdict: Verdict, challenger: Stage) -> None:
    f1 = challenger.counts["f1_macro"]
    r.registry.record(
        version,
        {
            "reseed.verdict": verdict.decision,
            "reseed.reasons": "; ".join(verdict.reasons),
            "reseed.judged_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "reseed.test.f1_macro": f"{f1['value']:.4f}",
            "reseed.run": r.log.run_id,
        },
    )


def _description(r: Retrain, challenger: Stage, curated: Stage) -> str:
    f1, c = challenger.counts["f1_macro"], curated.counts
    return (
        f"{r.project.train.model} fine-tuned on {sum(c['accepted'].values())} synthetic and {sum(c['seed'].values())} real "
        f"rows; macro-F1 {f1['value']:.3f} ({f1['ci_low']:.3f} to {f1['ci_high']:.3f}) on {challenger.counts['rows']} "
        f"sealed real rows. Labels: {', '.join(r.project.label_names)}."
    )


def _say_mistakes_in_a_line() -> None:
    """Leave the traceback out of what Prefect logs of a mistake or a passing fault: the sentence is enough.

    The console does not show it at all where the command says it anyway; a retry that is to come is shown.
    """
    quiet()
    if not deployment.id:
        for handler in logging.getLogger("prefect").handlers:
            handler.addFilter(_not_said_by_the_command)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_shortened)


def _shortened(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (UserError, TransientError)):
        record.exc_info, record.exc_text = None, None
    return True


def _not_said_by_the_command(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    known = "UserError" in text or "TransientError" in text
    return not known or "will start" in text
