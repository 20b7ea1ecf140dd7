"""Score, judge and promote: the second half of a retrain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flows import steps
from flows.context import Retrain
from flows.progress import say
from flows.publishing import report as reports
from flows.publishing import run_page
from flows.registry import notifications
from flows.registry.client import Version
from flows.registry.promotion import ChampionMoved
from flows.retraining import approval, measurements
from flows.retraining.scoring import scored
from flows.tracking import stage_runs
from tasks.atomic import CorruptDirectory
from tasks.errors import TransientError
from tasks.project import Project
from tasks.records import count_by_source, read_records
from tasks.stage import Stage
from tasks.verdict import decide, guardrails
from tasks.verdict.decide import Verdict
from tasks.verdict.evidence import rows_digest

COMPARISONS = 3  # tries to judge against a champion that keeps moving


def judge_and_promote(
    r: Retrain, version: Version, challenger: Stage, baselines: dict[str, Stage], seeds: Sequence[Stage] = ()
) -> tuple[Verdict, dict[str, Any] | None, bool]:
    """The verdict against the champion of this moment, the champion's figures, and whether it was replaced. `seeds` are the scored
    models of the challenger's recipe, one a seed."""
    promote = steps.store_step(r.registry.promote, name="promote")
    hooks = {"webhook": r.project.promote.webhook, "export": r.project.promote.export_to}
    r.registry.set_hooks(r.project.name, {k: v for k, v in hooks.items() if v})
    for _ in range(COMPARISONS):
        champion = r.registry.champion(r.project.name)
        opponent = champion or r.registry.standing(r.project.name)
        if champion is not None and champion.version == version.version:
            return (
                _already(r, champion),
                {"version": champion.version, **reports.figures(challenger), **measurements.told(r.measured)},
                not r.judged_before,
            )
        look = r.registry.look(r.project.name, test_set=rows_digest(challenger), bundle=version.digest)
        verdict, figures, evidence = _judge(r, opponent, challenger, baselines, look=look, seeds=seeds)
        if champion is None:
            verdict = replace(verdict, reasons=(*verdict.reasons, *r.registry.odd(r.project.name)))
        said_no = r.registry.said_no(version) if verdict.decision == "promote" else None
        if said_no:
            verdict = replace(verdict, reasons=(said_no, *verdict.reasons))
        _record(r, version, verdict, challenger, evidence)
        if said_no or verdict.decision != "promote":
            return replace(verdict, decision="keep") if said_no else verdict, figures, False
        who = ""
        if r.project.promote.approval == "required":
            said = approval.ask(r, version, verdict, champion=champion)
            verdict = replace(verdict, reasons=(*verdict.reasons, said.sentence))
            if not said.yes:
                return verdict, figures, False
            who = said.who
        probes = [d.text for d in read_records(r.prepared.splits.directory / "dev.jsonl")[:3]]
        reason = "; ".join(verdict.reasons)
        try:
            told = {"reason": reason, "probes": probes, "labels": r.project.label_names, "who": who}
            promote(version, expected=champion, **told)
            for sentence in notifications.deliver(r.settings, r.registry):
                say(f"  {sentence}")
            return verdict, figures, True
        except ChampionMoved as e:
            say(f"{e}: comparing again")
        except CorruptDirectory as e:
            verdict = decide.unsure(f"not promoted: {e}", verdict.opponent, verdict.rows)
            _record(r, version, verdict, challenger)
            return verdict, figures, False
    raise TransientError(f"{r.project.name}: the champion moved during each of {COMPARISONS} comparisons; run it again")


def _judge(
    r: Retrain,
    champion: Version | None,
    challenger: Stage,
    baselines: dict[str, Stage],
    *,
    look: int,
    seeds: Sequence[Stage],
) -> tuple[Verdict, dict[str, Any] | None, Stage | None]:
    """Against the champion, scored again on the same rows; where there is none, against the best baseline. With the figures
    of the champion, and the evidence that the verdict follows from."""
    p = r.project
    if champion is None:
        whole = [
            b for b, stage in baselines.items() if not stage.counts.get("sample")
        ]  # the same rows, or no comparison
        name = max(whole, key=lambda b: baselines[b].counts["f1_macro"]["value"])
        opponent, title, figures = baselines[name], f"the best baseline ({name.replace('_', ' ')})", None
        limits: dict[str, Any] = {"label_margin": None}  # a baseline is nothing to fall from
    else:
        title = f"champion version {champion.version}"
        try:
            directory = r.registry.fetch(champion)
            who = f"champion {champion.version}"
            opponent = scored(r, directory, champion.digest, who)
            run_page.champion_scored(r, champion, opponent)
            beside, measures = measurements.compared(r, directory, champion.digest, who)
        except CorruptDirectory as e:
            unknown = {"version": champion.version, "f1_macro": None}
            return decide.unsure(f"{title} can't be scored again: {e}", title), unknown, None
        figures = {"version": champion.version, **reports.figures(opponent), **beside, "measures": measures}
        limits = _limits(p, challenger, opponent, measures)
    settings = {
        "labels": p.label_names,
        "opponent_name": title,
        "min_gain": p.promote.min_gain,
        "confidence": p.promote.confidence,
        "rule": p.promote.rule,
        "look": look,
        **limits,
        "samples": p.evaluate.bootstrap,
        "seed": p.evaluate.seed,
    }
    stage: Stage = steps.judged(challenger, opponent, settings=settings, seeds=seeds, home=r.home)
    return Verdict.from_json(stage.counts), figures, stage


def _limits(p: Project, challenger: Stage, champion: Stage, beside: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """What may not get worse than the champion's: labels, slices and measures. `beside` are measures of other stages, by
    the names in tasks/verdict/guardrails.py."""
    limits = guardrails.limits_of(p.promote.limits)
    if not champion.counts["probabilities"]:  # else no project that gets a new label ever had a champion again
        limits.pop("ece", None)
        say(
            "  the champion has other labels than the project: its probabilities can't be compared, and promote.limits.ece waits"
        )
    return {
        "label_margin": p.promote.limits.label_f1,
        "slices": list(p.evaluate.slices),
        "slice_margin": p.promote.limits.slice_f1,
        "measures": guardrails.measures(challenger, champion) | beside,
        "limits": limits,
    }


def _already(r: Retrain, champion: Version) -> Verdict:
    """The verdict on a challenger that is the champion: the recorded one when this retrain is resumed, keep otherwise."""
    when = champion.tags.get("reseed.promoted_at", "an earlier time")[:19]
    if not r.judged_before and champion.tags.get("reseed.verdict") == "promote":
        reasons = champion.tags.get("reseed.reasons", "")
        return Verdict("promote", (reasons, f"version {champion.version} was promoted at {when}, before a restart"), "")
    reason = f"version {champion.version} is the champion already, since {when}; `reseed retrain --fresh` makes a new challenger"
    return Verdict("keep", (reason,), f"champion version {champion.version}")


def _record(r: Retrain, version: Version, verdict: Verdict, challenger: Stage, evidence: Stage | None = None) -> None:
    f1 = challenger.counts["f1_macro"]
    tags = {
        "reseed.verdict": verdict.decision,
        "reseed.reasons": "; ".join(verdict.reasons),
        "reseed.judged_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "reseed.test.f1_macro": f"{f1['value']:.4f}",
        "reseed.run": r.log.run_id,
        "reseed.evidence": evidence.digest if evidence else "",  # an older verdict's must not stay
        "reseed.evidence_run": stage_runs.evidence(r.log, evidence) if evidence else "",
    }
    r.registry.record(version, tags)


def description(r: Retrain, challenger: Stage, rows: Stage) -> str:
    """The registered version in a sentence: what it was trained on and how it scores."""
    f1 = challenger.counts["f1_macro"]
    sources = count_by_source(read_records(rows.directory / "kept.jsonl"))
    trained_on = ", ".join(f"{n} {'real' if source == 'seed' else source}" for source, n in sources.items())
    return (
        f"{r.project.train.model} fine-tuned on {trained_on} rows; macro-F1 {f1['value']:.3f} "
        f"({f1['ci_low']:.3f} to {f1['ci_high']:.3f}) on {challenger.counts['rows']} "
        f"sealed real rows. Labels: {', '.join(r.project.label_names)}."
    )
