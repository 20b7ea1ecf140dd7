"""Judge the challenger against the current champion, ask for approval where that is required, and promote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flows.context import RunContext
from flows.progress import say
from flows.registry import notifications, promotion
from flows.registry.client import Version
from flows.registry.promotion import ChampionMoved
from flows.retraining.approval import ask_for_approval
from flows.retraining.scoring import MeasuredChampion, measure_champion, score
from flows.tracking.model_scores import log_champion_scores
from tasks.atomic import CorruptDirectory
from tasks.errors import TransientError
from tasks.evaluate.result import ScoreResult
from tasks.model.bundle import BundleRef
from tasks.project import Project
from tasks.records import read_records
from tasks.report.model import ChampionScore, ModelScore
from tasks.verdict import guardrails
from tasks.verdict.evidence import Question, VerdictResult, judge, rows_digest
from tasks.verdict.measures import MeasuredBundle, compare_calibration
from tasks.verdict.model import Policy, Resampling, Verdict, inconclusive

COMPARISONS = 3  # attempts, if the champion changes during each


@dataclass(frozen=True, slots=True)
class Candidate:
    """The registered challenger and everything that was measured of it.

    `baselines` are what it must beat if there is no champion; `seeds` are the scores of the models of each
    training seed.
    """

    version: Version
    score: ScoreResult
    measured: MeasuredBundle
    baselines: Mapping[str, ScoreResult]
    seeds: Sequence[ScoreResult]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict, the champion's scores, and whether the challenger replaced it."""

    verdict: Verdict
    champion: ChampionScore | None
    promoted: bool


@dataclass(frozen=True, slots=True)
class _Judged:
    """A verdict and its evidence, which is None if the champion could not be scored.

    `refused` is true if a person refused the version, or replaced it after a promotion: no verdict
    overrules that, and the first reason says so.
    """

    verdict: Verdict
    champion: ChampionScore | None
    evidence: VerdictResult | None
    refused: bool = False


def judge_and_promote(run: RunContext, candidate: Candidate) -> Outcome:
    """The outcome against the current champion; if that changes meanwhile, the comparison is repeated.

    Raises TransientError if it changes during each of several comparisons.
    """
    promote = run.project.promote
    hooks = {"webhook": promote.webhook, "export": promote.export_to}
    run.registry.set_notification_targets(run.project.name, {k: v for k, v in hooks.items() if v})
    for _ in range(COMPARISONS):
        champion = run.registry.champion(run.project.name)
        if champion is not None and champion.version == candidate.version.version:
            return _already_champion(run, champion, candidate)
        judged = _judge(run, champion, candidate)
        if judged.refused:
            return Outcome(judged.verdict.but(decision="keep"), judged.champion, promoted=False)
        if judged.verdict.decision != "promote":
            return Outcome(judged.verdict, judged.champion, promoted=False)
        try:
            return _promote(run, champion, candidate, judged)
        except ChampionMoved as e:
            say(f"{e}: comparing again with the new one")
    raise TransientError(
        f"{run.project.name}: the champion changed during each of {COMPARISONS} comparisons; run the retrain again"
    )


def _judge(run: RunContext, champion: Version | None, candidate: Candidate) -> _Judged:
    """The verdict against the champion, or against the best baseline if there is none; recorded on the version."""
    opponent = champion or run.registry.last_champion(run.project.name)
    use = run.registry.count_test_set_use(
        run.project.name, test_set=rows_digest(candidate.score), bundle=candidate.version.digest
    )
    if opponent is None:
        judged = _against_baseline(run, candidate, use)
    else:
        judged = _against_champion(run, opponent, candidate, use)
    verdict = judged.verdict
    if champion is None:
        inconsistencies = run.registry.inconsistencies(run.project.name)
        verdict = verdict.but(reasons=(*verdict.reasons, *inconsistencies))
    refusal = run.registry.refusal(candidate.version) if verdict.decision == "promote" else None
    if refusal:
        verdict = verdict.but(reasons=(refusal, *verdict.reasons))
    _record(run, candidate, verdict, judged.evidence)
    return replace(judged, verdict=verdict, refused=bool(refusal))


def _against_baseline(run: RunContext, candidate: Candidate, use: int) -> _Judged:
    """The verdict against the best baseline that was scored on all test rows."""
    whole = {name: b for name, b in candidate.baselines.items() if not b.sample}
    name = max(whole, key=lambda b: whole[b].known.f1_macro.value)
    title = f"the best baseline ({name.replace('_', ' ')})"
    policy = _policy(run.project).model_copy(
        update={"label_margin": None, "slice_margin": None, "limits": {}}
    )
    question = _question(run.project, title, policy, use, slices=[], measures={})
    evidence = _decide(run, candidate, whole[name], question)
    return _Judged(evidence.verdict, None, evidence)


def _against_champion(
    run: RunContext, champion: Version, candidate: Candidate, use: int
) -> _Judged:
    """The verdict against the champion, scored again on the same rows."""
    title, who = f"champion version {champion.version}", f"champion {champion.version}"
    try:
        bundle = BundleRef(run.registry.fetch(champion), champion.digest)
        scored = score(run, bundle, who)
        log_champion_scores(
            run.tracking, scored, model_id=champion.model_id, test_set=run.sealed.digest
        )
        measured = measure_champion(run, candidate.measured, bundle, who)
    except CorruptDirectory as e:
        unknown = ChampionScore(version=champion.version, score=None, measures={})
        return _Judged(inconclusive(f"{title} cannot be scored again: {e}", title), unknown, None)
    policy = _policy(run.project)
    if not scored.probabilities:  # otherwise no project with a new label could promote again
        limits = {name: limit for name, limit in policy.limits.items() if name != "ece"}
        policy = policy.model_copy(update={"limits": limits})
        say(
            "  the champion has other labels than the project, so its probabilities cannot be compared: "
            "promote.limits.ece is not checked"
        )
    measures = {**compare_calibration(candidate.score, scored), **measured.measures}
    slices = list(run.project.evaluate.slices)
    question = _question(run.project, title, policy, use, slices=slices, measures=measures)
    evidence = _decide(run, candidate, scored, question)
    return _Judged(evidence.verdict, _champion_score(champion, scored, measured), evidence)


def _policy(project: Project) -> Policy:
    promote = project.promote
    return Policy(
        min_gain=promote.min_gain,
        confidence=promote.confidence,
        rule=promote.rule,
        label_margin=promote.limits.label_f1,
        slice_margin=promote.limits.slice_f1,
        limits=guardrails.limits_by_measure(promote.limits),
    )


def _question(
    project: Project,
    opponent: str,
    policy: Policy,
    use: int,
    *,
    slices: list[str],
    measures: dict[str, tuple[float | None, float | None]],
) -> Question:
    return Question(
        labels=project.label_names,
        opponent_name=opponent,
        policy=policy,
        use=use,
        resampling=Resampling(
            samples=project.evaluate.bootstrap_samples, seed=project.evaluate.seed
        ),
        slices=slices,
        measures=measures,
    )


def _decide(
    run: RunContext, candidate: Candidate, opponent: ScoreResult, question: Question
) -> VerdictResult:
    step = run.stage(judge, name="verdict")
    return step(candidate.score, opponent, question, seeds=candidate.seeds, workspace=run.workspace)


def _champion_score(
    champion: Version, scored: ScoreResult, measured: MeasuredChampion
) -> ChampionScore:
    return ChampionScore(
        version=champion.version,
        score=ModelScore.fields_of(scored),
        robustness=measured.measured.robustness,
        serving=measured.measured.serving,
        measures=measured.measures,
    )


def _promote(
    run: RunContext, champion: Version | None, candidate: Candidate, judged: _Judged
) -> Outcome:
    """Promote, after a person's approval if required. Raises ChampionMoved if the champion has changed."""
    version, verdict, who = candidate.version, judged.verdict, ""
    if run.project.promote.approval == "required":
        answer = ask_for_approval(run, version, verdict, champion=champion)
        verdict = verdict.but(reasons=(*verdict.reasons, answer.sentence))
        if not answer.approved:
            return Outcome(verdict, judged.champion, promoted=False)
        who = answer.who
    probes = [r.text for r in read_records(run.splits.directory / "dev.jsonl")[:3]]
    try:
        run.store(promotion.promote)(
            run.registry,
            version,
            expected=champion,
            reason="; ".join(verdict.reasons),
            probes=probes,
            labels=run.project.label_names,
            who=who,
        )
    except CorruptDirectory as e:
        verdict = inconclusive(f"not promoted: {e}", verdict.opponent, verdict.rows)
        _record(run, candidate, verdict, None)
        return Outcome(verdict, judged.champion, promoted=False)
    for sentence in notifications.deliver(run.settings, run.registry):
        say(f"  {sentence}")
    return Outcome(verdict, judged.champion, promoted=True)


def _already_champion(run: RunContext, champion: Version, candidate: Candidate) -> Outcome:
    """The outcome for a challenger that is the champion: the recorded verdict if resumed, otherwise keep."""
    when = champion.tags.get("reseed.promoted_at", "an earlier time")[:19]
    measured = candidate.measured
    score = ChampionScore(
        version=champion.version,
        score=ModelScore.fields_of(candidate.score),
        robustness=measured.robustness,
        serving=measured.serving,
        measures={},
    )
    if not run.judged_before and champion.tags.get("reseed.verdict") == "promote":
        reasons = champion.tags.get("reseed.reasons", "")
        resumed = f"version {champion.version} was promoted at {when}, before a restart"
        verdict = Verdict(decision="promote", reasons=(reasons, resumed), opponent="")
        return Outcome(verdict, score, promoted=True)
    reason = (
        f"version {champion.version} is already the champion, since {when}; `reseed retrain --fresh` makes a "
        f"new challenger"
    )
    opponent = f"champion version {champion.version}"
    verdict = Verdict(decision="keep", reasons=(reason,), opponent=opponent)
    return Outcome(verdict, score, promoted=not run.judged_before)


def _record(
    run: RunContext, candidate: Candidate, verdict: Verdict, evidence: VerdictResult | None
) -> None:
    tags = {
        "reseed.verdict": verdict.decision,
        "reseed.reasons": "; ".join(verdict.reasons),
        "reseed.judged_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "reseed.test.f1_macro": f"{candidate.score.known.f1_macro.value:.4f}",
        "reseed.run": run.tracking.run_id,
        # empty rather than absent, so that nothing remains of an older verdict
        "reseed.evidence": evidence.digest if evidence else "",
        "reseed.evidence_run": run.tracking.stage_run_id(evidence) if evidence else "",
    }
    run.registry.tag_version(candidate.version, tags)
